//! `cargo xtask setup`: brings a bare Debian 12 to the point where the project builds, tests and shows itself.
//!
//! Looks first, then does only what is missing, one named step at a time, each with its reason and duration.
//! `--no-install` changes nothing, lists what is missing and ends with 3. Root is used for Debian packages
//! only, through `sudo` when the invoking user is not root; everything else runs as that user.
//! Limits: needs a network that reaches the Debian, Rust and npm mirrors when something is missing.

mod clients;
mod linker;
mod packages;
mod rust;
mod tools;

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

use crate::shell;

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Change nothing: list what is missing and end with 3
    #[arg(long)]
    pub(crate) no_install: bool,
    /// Also what only the full check needs: cargo-deny and cargo-fuzz
    #[arg(long)]
    pub(crate) ci: bool,
}

/// What for; each of these needs all that the ones before it need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Building the program.
    Build,
    /// The demo: the server and two clients.
    Demo,
    /// Tests and benchmark: everything but what only the full check needs.
    Test,
    /// The full check.
    Ci,
}

/// Something the machine lacks; ends the program with 3.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this needs {}", self.0)
    }
}

impl std::error::Error for Missing {}

/// One thing the project needs.
struct Step {
    /// What is missing, and the act that provides it.
    what: String,
    why: &'static str,
    takes: &'static str,
    install: Box<dyn FnOnce() -> Result<()>>,
}

/// Finds everything that tests (and the full check) miss and installs it, or lists it.
pub(crate) fn run(args: &Args) -> Result<()> {
    run_for(if args.ci { Purpose::Ci } else { Purpose::Test }, args.no_install)
}

/// The same for less: who wants to see the demo need not install what only tests use.
pub(crate) fn run_for(purpose: Purpose, no_install: bool) -> Result<()> {
    let mut failed = Vec::new();
    // Each round looks anew: the linker, for one, can only be judged once the nightly is there.
    for look in looks(purpose) {
        for step in look(purpose)? {
            if no_install {
                eprintln!("missing: {}\n    why: {}\n    takes: {}", step.what, step.why, step.takes);
                failed.push(step.what);
                continue;
            }
            shell::announce(&step.what, step.why, step.takes);
            let ((), took) = shell::timed(step.install)?;
            eprintln!("    done in {:.0} s", took.as_secs_f64());
        }
    }
    if failed.is_empty() {
        eprintln!("setup: everything is there");
        return Ok(());
    }
    bail!(Missing(format!("{} step(s) of `cargo xtask setup`, listed above", failed.len())));
}

type Look = fn(Purpose) -> Result<Vec<Step>>;

fn looks(purpose: Purpose) -> Vec<Look> {
    let mut all: Vec<Look> = vec![packages::look, |_| rust::look(), |_| linker::look()];
    if purpose >= Purpose::Test {
        all.push(|_| clients::look());
    }
    if purpose >= Purpose::Ci {
        all.push(|_| tools::look());
    }
    all
}

/// Stops with one sentence unless this machine and this user can run the kernel part, before anything long starts.
pub(crate) fn require_kernel() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let has_cgroup2 = mounts.lines().any(|line| line.contains(" - cgroup2 "));
    if !has_cgroup2 {
        bail!(Missing("a mounted cgroup2 hierarchy (`mount -t cgroup2 none /sys/fs/cgroup`)".to_owned()));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!(Missing(
            "a kernel with BPF and type information (CONFIG_DEBUG_INFO_BTF, 5.15 or later)".to_owned()
        ));
    }
    shell::require_root()
}
