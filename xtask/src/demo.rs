//! `cargo xtask demo`: sets up, builds, and shows the whole path with real programs.
//!
//! The demonstration itself is a program of the `tests` package; it runs as root because it loads kernel
//! programs. This command builds it as the invoking user, starts it, and checks that nothing is left behind.

use anyhow::Result;

use crate::{leftovers, paths, setup, shell};

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Leave everything running at the end and print what to try
    #[arg(long)]
    keep: bool,
    /// Change nothing on this machine: list what is missing and end with 3
    #[arg(long)]
    no_install: bool,
}

/// Sets up, builds, shows.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::require_kernel()?;
    setup::run_for(setup::Purpose::Demo, args.no_install)?;
    shell::announce(
        "build the daemon and the demo",
        "from this clone, as you",
        "8 minutes when nothing is built yet",
    );
    shell::run(shell::cargo()?.args([
        "build",
        "--package",
        "chaperone",
        "--package",
        "chaperone-tests",
        "--bins",
    ]))?;
    shell::announce(
        "run the demo (root step)",
        "it loads kernel programs and makes cgroups",
        "about a minute",
    );
    leftovers::adopt_orphans()?;
    let before = leftovers::Snapshot::take()?;
    let mut demo = shell::as_root("env")?;
    demo.arg(format!("CHAPERONE_BIN={}", paths::built("debug", "chaperone")?.display()));
    demo.arg(format!("CHAPERONE_POLICIES={}", paths::repository()?.join("policies").display()));
    demo.arg(paths::built("debug", "demo")?);
    if args.keep {
        demo.arg("--keep");
    }
    let shown = shell::run(&mut demo);
    if args.keep {
        return shown;
    }
    let clean = leftovers::require_none(&before);
    shown.and(clean)
}
