//! `cargo xtask policy`: runs the cases of the shipped policies with the program itself.
//!
//! A case is an operation and the decision that must come out; every shipped policy has some.
//! Fails when a case fails or when the program finds the bundle invalid.

use anyhow::Result;

use crate::{paths, setup, shell};

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Change nothing on this machine: list what is missing and end with 3
    #[arg(long)]
    no_install: bool,
}

/// Builds the program and lets it test the shipped policies.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run_for(setup::Purpose::Build, args.no_install)?;
    shell::run(shell::cargo()?.args(["build", "--package", "chaperone"]))?;
    let shipped = paths::repository()?.join("policies");
    for bundle in [shipped.join("observe"), shipped] {
        let mut test = shell::as_user(paths::built("debug", "chaperone")?)?;
        shell::run(test.args(["policy", "test", "--dir"]).arg(bundle))?;
    }
    Ok(())
}
