//! Command line: one file per subcommand; parse, call, print, exit code.

pub mod run;

use std::process::ExitCode;

/// Runs the command line and returns the process's exit code.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
