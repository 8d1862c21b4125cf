//! `chaperone daemon`: the service.
//!
//! Reads the configuration, sets up the daemon's own log on standard error, and hands over to the composition root.
//! The record of what agents did is not this log.

use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::ConfigFile;
use crate::daemon::Holder;

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Options of the service.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// How the log is written to standard error.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Leave the kernel guard to `chaperone guard`, and do not start without it.
    #[arg(long)]
    follow: bool,
    /// Check the configuration and the policies, then end.
    #[arg(long)]
    check: bool,
}

/// Threads beside the sessions' own: one may be busy reading a large bundle while the other answers.
const WORKERS: usize = 2;

/// Runs the service.
///
/// # Errors
/// When it cannot start.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.file.load()?;
    if args.check {
        let bundle = crate::policy::Set::load(&config.policy.dir)?;
        println!("configuration and policies are good; bundle {}", bundle.hash().0);
        return Ok(ExitCode::SUCCESS);
    }
    log(args.log_format);
    let holder = if args.follow { Holder::GuardProcess } else { Holder::Whoever };
    // For everything but sessions, which have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(Box::pin(crate::daemon::run(config, holder)));
    // Tasks are gone by now; a blocked look-up must not hold the process.
    runtime.shutdown_background();
    result?;
    Ok(ExitCode::SUCCESS)
}

/// Sets up this process's own log on standard error.
pub(super) fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("CHAPERONE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
