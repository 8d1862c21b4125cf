//! `chaperone guard`: the process that holds the kernel guard beside the daemon.
//!
//! Reads the same configuration. It serves nobody but the daemon, and needs fewer rights than a daemon that does both.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::daemon::LogFormat;
use super::{ConfigFile, LACKING};
use crate::intercept::{self, InterceptError, Settings, Tree};

/// Options of the guard process.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// How the log is written to standard error.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Wait until the guard is in effect for the agents' cgroup, then end; 3 if that takes more than a few seconds.
    #[arg(long)]
    check: bool,
}

/// How often, and with what pause, `--check` asks: ten seconds in all, more than a start takes on a busy host.
const ASKED: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// Holds the guard until told to end.
///
/// # Errors
/// When the guard cannot be put in place.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // By path and now: after an upgrade the kernel calls the running program deleted.
    let program: PathBuf = std::env::current_exe().context("cannot find this very program")?;
    let config = args.file.load()?;
    if args.check {
        return check(&config.intercept);
    }
    super::daemon::log(args.log_format);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let _only = crate::daemon::errands(&config)?;
    runtime.block_on(Box::pin(crate::daemon::guard(&config, &program)))?;
    Ok(ExitCode::SUCCESS)
}

fn check(settings: &Settings) -> anyhow::Result<ExitCode> {
    let mut missing = String::new();
    for _ in 0..ASKED {
        missing = match missing_of(settings) {
            Ok(none) if none.is_empty() => return Ok(ExitCode::SUCCESS),
            Ok(some) => some.join(", "),
            Err(error) => super::told(&error),
        };
        std::thread::sleep(PAUSE);
    }
    eprintln!("chaperone: the guard is not in effect: {missing}");
    Ok(ExitCode::from(LACKING))
}

fn missing_of(settings: &Settings) -> Result<Vec<&'static str>, InterceptError> {
    let parent = Tree::find()?.open(&settings.parent)?;
    let states = intercept::effective(settings, &parent)?;
    Ok(states.into_iter().filter(|state| !state.effective).map(|state| state.name).collect())
}
