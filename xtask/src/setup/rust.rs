//! The nightly toolchain that compiles the kernel programs, with the sources of the standard library.
//!
//! User space uses the stable toolchain of `rust-toolchain.toml`, which cargo itself has already found.
//! Everything goes through rustup; without it the step says so. Never touches the default toolchain.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Step;
use crate::{paths, shell};

/// The toolchain's name in rustup.
pub(super) const NIGHTLY: &str = "nightly";

/// Names what rustup must still fetch.
pub(super) fn look() -> Result<Vec<Step>> {
    let ready = sysroot().is_ok_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir());
    if ready {
        return Ok(Vec::new());
    }
    Ok(vec![Step {
        what: format!("install the `{NIGHTLY}` toolchain with rust-src through rustup"),
        why: "kernel programs need a core library built for the BPF target",
        takes: "1 to 2 minutes, mostly download",
        install: Box::new(install),
    }])
}

fn install() -> Result<()> {
    if paths::find_program("rustup").is_none() {
        anyhow::bail!(super::Missing(
            "rustup (https://rustup.rs), to fetch the nightly toolchain".to_owned()
        ));
    }
    if sysroot().is_err() {
        shell::run(shell::as_user("rustup")?.args([
            "toolchain",
            "install",
            NIGHTLY,
            "--profile",
            "minimal",
        ]))?;
    }
    shell::run(shell::as_user("rustup")?.args(["component", "add", "rust-src", "--toolchain", NIGHTLY]))
}

/// Where the nightly is installed; an error when it is not.
pub(super) fn sysroot() -> Result<PathBuf> {
    let text = ask(&["--print", "sysroot"])?;
    Ok(PathBuf::from(text.trim()))
}

/// The compiler's own description, which names its exact build and its LLVM.
pub(super) fn version() -> Result<String> {
    ask(&["-vV"])
}

fn ask(args: &[&str]) -> Result<String> {
    let mut rustc = shell::as_user("rustup")?;
    // Auto-install off: asking must not install.
    rustc.env("RUSTUP_AUTO_INSTALL", "0").stderr(std::process::Stdio::null());
    rustc.args(["run", NIGHTLY, "rustc"]).args(args);
    let done = rustc.output().context("cannot start rustup")?;
    anyhow::ensure!(done.status.success(), "the {NIGHTLY} toolchain is not installed");
    String::from_utf8(done.stdout).context("rustc did not print text")
}
