//! Command line: one file per subcommand; parse, call, print, exit code.
//!
//! Exit codes: 0 done; 1 what was asked for failed or was found bad; 2 usage; 3 the environment lacks something (root, a
//! daemon, kernel features). `run` ends with the code of the command it became.

pub mod approvals;
pub mod attach;
pub mod audit;
pub mod daemon;
pub mod doctor;
pub mod guard;
pub mod live;
pub mod policy;
mod relay;
pub mod run;
pub mod selftest;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::unistd::Uid;

use crate::causes;
use crate::config::Config;
use crate::control::{Answer, Call, Client, ControlError};
use crate::intercept::InterceptError;

/// Found bad, or refused.
const FAILED: u8 = 1;
/// The environment lacks something.
const LACKING: u8 = 3;

#[derive(Debug, Parser)]
#[command(
    name = "chaperone",
    version,
    about = "Accompanies AI agents: capture, identity, policy, masking, evidence"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// Configuration file.
    #[arg(long, default_value = "/etc/chaperone/chaperone.toml")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service.
    Daemon(daemon::Args),
    /// Hold the kernel guard beside the daemon, also while that is dead.
    Guard(guard::Args),
    /// Start a command as an agent, in a guarded cgroup and a jail.
    Run(run::Launch),
    /// Make a systemd service an agent in a jail, from its next start on.
    Attach(attach::Args),
    /// Take that back.
    Detach(attach::Args),
    /// End with 0 only if the kernel guards the cgroup of the caller; started by attached services.
    #[command(hide = true)]
    Guarded(ConfigFile),
    /// Say what is running.
    Status(live::Status),
    /// Say what is wrong and how to mend it.
    Doctor(doctor::Args),
    /// List or end open sessions.
    #[command(subcommand)]
    Sessions(live::Sessions),
    /// Read policy again.
    Reload(ConfigFile),
    /// Stop an agent in the kernel, and end its sessions.
    Quarantine(live::Agent),
    /// Let a quarantined agent go again.
    Release(live::Released),
    /// Decide held requests.
    #[command(subcommand)]
    Approvals(approvals::Command),
    /// Verify and search the record.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Author policy with confidence.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Try every way out of an agents' cgroup and print what came of it.
    Selftest(selftest::Args),
    /// Take the kernel guard away; refused while a daemon or agents run.
    Uninstall(live::Uninstall),
    /// Statement parser process; started by the daemon.
    #[command(hide = true)]
    SqlWorker,
    /// The stage of the self-test; started by it.
    #[command(hide = true)]
    SelftestStage(crate::selftest::StageArgs),
    /// The hostile process of the self-test; started by it.
    #[command(hide = true)]
    SelftestAgent(crate::selftest::AgentArgs),
}

/// Runs the command line and returns the process's exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            if let Err(problem) = error.print() {
                eprintln!("chaperone: {problem}");
            }
            return ExitCode::from(code);
        }
    };
    let result = match cli.command {
        Command::Daemon(args) => daemon::run(&args),
        Command::Guard(args) => guard::run(&args),
        Command::Run(args) => run::launch(args),
        Command::Attach(args) => attach::attach(&args),
        Command::Detach(args) => attach::detach(&args),
        Command::Guarded(file) => attach::guarded(&file),
        Command::Status(args) => live::status(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Sessions(command) => live::sessions(command),
        Command::Reload(file) => live::reload(&file),
        Command::Quarantine(args) => live::quarantine(&args),
        Command::Release(args) => live::release(&args),
        Command::Approvals(command) => approvals::run(command),
        Command::Audit(command) => audit::run(command),
        Command::Policy(command) => policy::run(command),
        Command::Uninstall(args) => live::uninstall(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::SelftestStage(args) => selftest::stage(&args),
        Command::SelftestAgent(args) => selftest::agent(&args),
        Command::SqlWorker => return crate::sql::worker_main(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("chaperone: {}", told(error.as_ref()));
            ExitCode::from(if is_lack(error.as_ref()) { LACKING } else { FAILED })
        }
    }
}

impl ConfigFile {
    fn load(&self) -> anyhow::Result<Config> {
        load(&self.config)
    }

    /// Asks the daemon of this configuration.
    fn call(&self, call: &Call) -> anyhow::Result<Answer> {
        Ok(Client::connect(&self.load()?.runtime_dir)?.call(call)?)
    }
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path)?)
}

/// Prints a value as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

/// The end of a call that was not answered as asked.
fn refused(answer: &Answer) -> ExitCode {
    match answer {
        Answer::Refused { why } => eprintln!("chaperone: {why}"),
        Answer::Status(_)
        | Answer::Sessions { .. }
        | Answer::Accounts { .. }
        | Answer::Placed { .. }
        | Answer::Tickets { .. }
        | Answer::Ticket(_)
        | Answer::Done { .. } => eprintln!("chaperone: the daemon answered something else"),
    }
    ExitCode::from(FAILED)
}

/// An error with its causes, each said once, and with what would help when it is only that we are not root.
fn told(error: &(dyn Error + 'static)) -> String {
    let advice = if needs_root(error) { "; run this as root" } else { "" };
    format!("{}{advice}", causes::in_one_line(error))
}

/// True if it failed for what this machine or this account lacks: a daemon, root, a file system of the kernel.
fn is_lack(error: &(dyn Error + 'static)) -> bool {
    let lacks = |cause: &(dyn Error + 'static)| {
        cause.is::<ControlError>()
            || cause.downcast_ref::<InterceptError>().is_some_and(|error| {
                matches!(error, InterceptError::NoCgroup2 | InterceptError::Bpffs { .. })
            })
    };
    needs_root(error) || causes::of(error).any(lacks)
}

/// True if the system refused something that it would not refuse root.
fn needs_root(error: &(dyn Error + 'static)) -> bool {
    let refused = causes::of(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::PermissionDenied);
    refused && !Uid::effective().is_root()
}

/// Makes text safe for a terminal: what an agent wrote must not move the cursor.
fn shown(text: &str) -> String {
    crate::approval::inert(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open `x`: {source}")]
    struct Outer {
        source: io::Error,
    }

    #[test]
    fn a_missing_file_system_of_the_kernel_is_a_lack_and_a_taken_port_is_not() {
        let daemon = |error: InterceptError| anyhow::Error::from(crate::daemon::DaemonError::from(error));
        assert!(is_lack(daemon(InterceptError::NoCgroup2).as_ref()));
        let source = io::ErrorKind::AddrInUse.into();
        let taken = InterceptError::Listen { address: ([127, 0, 0, 1], 15_432).into(), source };
        assert!(!is_lack(daemon(taken).as_ref()));
    }

    #[test]
    fn only_a_refusal_of_the_system_asks_for_root() {
        let refused = Outer { source: io::ErrorKind::PermissionDenied.into() };
        assert_eq!(needs_root(&refused), !Uid::effective().is_root());
        assert!(!needs_root(&Outer { source: io::ErrorKind::NotFound.into() }));
    }
}
