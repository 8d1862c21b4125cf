//! The `chaperone` binary: parse the command line, run it, turn the result into an exit code.
//!
//! Everything else is in the library, so that tests and fuzz targets reach the same code.

use std::process::ExitCode;

fn main() -> ExitCode {
    chaperone::cli::main()
}
