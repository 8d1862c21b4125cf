//! `cargo xtask bench postgres` measures direct connections, pgbouncer and Chaperone in one run; `bench connect` measures what
//! capture and passing on cost, beside HAProxy; `bench dissect` where that time goes.
//!
//! Uses the optimised build. The measuring program is part of the `tests` package and runs as root because it
//! loads kernel programs; it prints a table and writes the same table below `docs`.
//! Limits: numbers compare within one run only; other load on the machine shows in all three columns.

use anyhow::Result;

use crate::{leftovers, paths, setup, shell};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// pgbench in three modes, connects, large results, idle sessions
    Postgres {
        /// Seconds per pgbench cell
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// Change nothing on this machine: list what is missing and end with 3
        #[arg(long)]
        no_install: bool,
        /// Measure only the loads whose title has this text, and leave the report as it is
        #[arg(long)]
        only: Option<String>,
    },
    /// What capture costs a connection, and passing one on, beside HAProxy
    Connect {
        /// Change nothing on this machine: list what is missing and end with 3
        #[arg(long)]
        no_install: bool,
    },
    /// Where the time of a captured `connect()` goes, program by program; prints and writes nothing
    Dissect {
        /// Change nothing on this machine: list what is missing and end with 3
        #[arg(long)]
        no_install: bool,
    },
}

/// Sets up, builds, measures.
pub(crate) fn run(args: &Args) -> Result<()> {
    let no_install = match &args.what {
        What::Postgres { no_install, .. } | What::Connect { no_install } | What::Dissect { no_install } => {
            *no_install
        }
    };
    setup::require_kernel()?;
    setup::run(&setup::Args { no_install, ci: false })?;
    shell::announce(
        "build the optimised daemon",
        "debug builds measure nothing",
        "15 minutes when nothing is built yet",
    );
    shell::run(shell::cargo()?.args([
        "build",
        "--release",
        "--package",
        "chaperone",
        "--package",
        "chaperone-tests",
        "--bins",
    ]))?;
    let minutes = match &args.what {
        What::Postgres { seconds, .. } => f64::from(*seconds) * 27.0 / 60.0 + 3.0,
        What::Connect { .. } => 4.0,
        What::Dissect { .. } => 1.0,
    };
    shell::announce(
        "measure (root step)",
        "it loads kernel programs",
        &format!("about {minutes:.0} minutes"),
    );
    leftovers::adopt_orphans()?;
    let before = leftovers::Snapshot::take()?;
    let mut bench = shell::as_root("env")?;
    bench.arg(format!("CHAPERONE_BIN={}", paths::built("release", "chaperone")?.display()));
    bench.arg(paths::built("release", "bench")?);
    let docs = paths::repository()?.join("docs");
    match &args.what {
        What::Postgres { seconds, only, .. } => {
            bench.arg("postgres").arg("--seconds").arg(seconds.to_string());
            bench.arg("--report").arg(docs.join("benchmarks.md"));
            if let Some(only) = only {
                bench.arg("--only").arg(only);
            }
        }
        What::Connect { .. } => {
            bench.arg("connect").arg("--report").arg(docs.join("benchmarks-connect.md"));
        }
        What::Dissect { .. } => {
            bench.arg("dissect");
        }
    }
    let measured = shell::run(&mut bench);
    let clean = leftovers::require_none(&before);
    measured.and(clean)
}
