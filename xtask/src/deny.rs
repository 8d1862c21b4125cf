//! `cargo xtask deny`: licences, sources, duplicates and advisories of every dependency.
//!
//! Advisories need a database from the network. When it cannot be fetched that is said in one line of its own
//! and the other checks still decide; with `--advisories required` it is a failure.
//! Limits: the database that was fetched last is not used when it is older than this run.

use anyhow::{Result, bail};

use crate::{setup, shell};

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// What happens when the advisory database cannot be fetched
    #[arg(long, value_enum, default_value_t)]
    advisories: Advisories,
    /// Change nothing on this machine: list what is missing and end with 3
    #[arg(long)]
    no_install: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Advisories {
    /// Say so and go on
    #[default]
    IfReachable,
    /// Fail
    Required,
}

/// Runs cargo-deny, first what needs no network.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { no_install: args.no_install, ci: true })?;
    shell::run(shell::as_user("cargo-deny")?.args([
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))?;
    let fetched = shell::succeeds(shell::as_user("cargo-deny")?.args(["fetch", "db"]));
    if fetched {
        return shell::run(shell::as_user("cargo-deny")?.args(["check", "advisories"]));
    }
    if args.advisories == Advisories::Required {
        bail!("the advisory database cannot be fetched");
    }
    println!("advisories: NOT CHECKED, the advisory database cannot be fetched from here");
    Ok(())
}
