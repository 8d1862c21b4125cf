//! `cargo xtask ci`: runs `.ci/run`, which is what a change must pass.
//!
//! The script is the truth; this command only finds it, so that nobody has to remember a second list.

use anyhow::Result;

use crate::{paths, shell};

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {}

/// Starts the script.
pub(crate) fn run(_args: &Args) -> Result<()> {
    shell::run(&mut shell::as_user(paths::repository()?.join(".ci/run"))?)
}
