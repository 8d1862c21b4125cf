//! `cargo xtask ebpf`: builds the daemon together with its kernel programs.
//!
//! The package's own build script compiles the kernel programs with the nightly; this command makes sure that
//! the nightly and the linker are there first, so that a failure names what is missing.

use anyhow::Result;

use crate::{paths, setup, shell};

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Change nothing on this machine: list what is missing and end with 3
    #[arg(long)]
    no_install: bool,
    /// Build the optimised program
    #[arg(long)]
    release: bool,
}

/// Checks the tools, then builds.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run_for(setup::Purpose::Build, args.no_install)?;
    let mut build = shell::cargo()?;
    build.args(["build", "--package", "chaperone"]);
    if args.release {
        build.arg("--release");
    }
    shell::run(&mut build)?;
    let profile = if args.release { "release" } else { "debug" };
    println!("built {}", paths::built(profile, "chaperone")?.display());
    Ok(())
}
