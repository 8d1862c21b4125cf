//! The project's own commands, started as `cargo xtask COMMAND`.
//!
//! One file per command. Commands that need a prepared machine call `setup` first; it does nothing when
//! nothing is missing. Exit codes: 0 done, 1 the thing asked for failed or was found bad, 2 usage,
//! 3 the machine lacks something.
//! Limits: Debian packages are the only ones `setup` installs; elsewhere `--no-install` says what to provide.

mod bench;
mod ci;
mod defences;
mod demo;
mod deny;
mod ebpf;
mod fuzz;
mod kernels;
mod leftovers;
mod paths;
mod policy;
mod setup;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own commands", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what building, testing and the demo need; does nothing when all is there
    Setup(setup::Args),
    /// Build the daemon with its kernel programs
    Ebpf(ebpf::Args),
    /// Check the rules of the house: imports, sizes, headers, dead files, fuzz targets
    Tidy(tidy::Args),
    /// Run every test, as root, against real servers, and count them
    Test(test::Args),
    /// Take each defence against bad input away and require its test to fail
    Defences(defences::Args),
    /// Show the whole path with a real database, identity provider, agent and approver
    Demo(demo::Args),
    /// Measure against direct connections and pgbouncer
    Bench(bench::Args),
    /// Fuzz every parser for a while
    Fuzz(fuzz::Args),
    /// Check licences, sources, duplicates and advisories of dependencies
    Deny(deny::Args),
    /// Run the cases of the shipped policies
    Policy(policy::Args),
    /// Boot the supported kernels in an emulator and try every way out on each
    Kernels(kernels::Args),
    /// Everything a change must pass, in one go
    Ci(ci::Args),
    /// Print what tests could have left on this machine, as JSON
    #[command(hide = true)]
    Leftovers,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Ebpf(args) => ebpf::run(&args),
        Command::Tidy(args) => tidy::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Defences(args) => defences::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Deny(args) => deny::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Leftovers => leftovers::print(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let missing = error.chain().any(|cause| cause.is::<setup::Missing>());
            ExitCode::from(if missing { 3 } else { 1 })
        }
    }
}
