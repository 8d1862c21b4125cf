//! `chaperone run`: start a process as an agent, with no way around the guard from its first instruction.
//!
//! Refuses to start anything unless the kernel says that every guard program runs for the agent's own cgroup.
//! Root makes that cgroup itself. An account without root asks the daemon, which decides by its own configuration who may, looks
//! at this process and places it; without the daemon nothing starts. Then the jail is closed and the command takes over.
//! A failure at any step ends this process. Known limit: an account that may start an agent without root could skip the jail
//! for itself; the guard holds all the same.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use nix::unistd::Uid;

use super::relay;
use crate::config::Config;
use crate::control::{Answer, Call, Client};
use crate::identity::Steps;
use crate::intercept::{self, Tree};
use crate::jail::{self, Account, Launcher};
use crate::model::AgentName;

/// Start a process as an agent.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the agent, as configured.
    #[arg(long)]
    pub agent: String,
    /// What the process is for, in the launcher's words; recorded as a hint.
    #[arg(long)]
    pub step: Option<String>,
    /// User to run as, by name or number, with that user's group and no others, and with that user's home as `HOME`. Root only. The
    /// agent's `run_as`, unless another is named.
    #[arg(long)]
    pub uid: Option<String>,
    /// This process is on a terminal that was made for it.
    #[arg(long, hide = true)]
    pub relayed: bool,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// The whole command line of `run`.
#[derive(Debug, clap::Args)]
pub struct Launch {
    #[command(flatten)]
    file: super::ConfigFile,
    #[command(flatten)]
    args: Args,
}

/// Starts a configured agent in place of this process.
///
/// # Errors
/// When the configuration does not name the agent, or the start fails.
pub fn launch(mut launch: Launch) -> anyhow::Result<ExitCode> {
    let mut config = launch.file.load()?;
    if !config.identity.agents.iter().any(|agent| agent.name.0 == launch.args.agent) {
        bail!("no agent named `{}` is configured", launch.args.agent);
    }
    if Uid::effective().is_root() && launch.args.uid.is_none() {
        let configured = config.jail.accounts.get(&AgentName(launch.args.agent.clone()));
        launch.args.uid = configured.cloned();
    }
    config.jail.hidden.push(launch.file.config);
    if launch.args.relayed {
        relay::take_terminal()?;
    } else if relay::is_needed() {
        let account = launch.args.uid.as_deref().map(Account::named).transpose()?;
        return relay::run(account.map(|account| account.uid));
    }
    if Uid::effective().is_root() {
        let steps = Steps::new(&config.identity.steps, &config.identity.parent);
        run(launch.args, &config.intercept, &steps, &config.jail)
    } else {
        run_unprivileged(launch.args, &config)
    }
}

/// Starts the agent in place of this process, as root.
///
/// # Errors
/// When the name, the user or the command cannot be used, or `exec` fails.
pub fn run(
    args: Args,
    settings: &intercept::Settings,
    steps: &Steps,
    jail: &jail::Settings,
) -> anyhow::Result<ExitCode> {
    let account = args.uid.as_deref().map(Account::named).transpose()?;
    jail::require_plain_streams()?;
    let processes = jail.processes_of(&AgentName(args.agent.clone()));
    let cgroup = match jail::guarded(settings, &args.agent, processes) {
        Ok(cgroup) => cgroup,
        Err(problem) => {
            eprintln!("chaperone: not started, because nothing would guard it: {}", super::told(&problem));
            return Ok(ExitCode::from(super::LACKING));
        }
    };
    if account.is_none() {
        eprintln!(
            "chaperone: `{}` runs as root; give it a user of its own with `--uid`, or `run_as` in the configuration",
            args.agent
        );
    }
    if let Some(step) = &args.step {
        let mount = Tree::find()?;
        let run = cgroup.path().strip_prefix(mount.mount()).context("the run's cgroup left the tree")?;
        steps.note(run, step).context("could not keep the step")?;
    }
    intercept::note_jail(settings, &cgroup)?;
    cgroup.admit(std::process::id())?;
    hold(&args.agent, &Launcher::Root(account.clone()), processes)?;
    become_agent(&args.command, jail, &Launcher::Root(account))
}

/// Starts the agent in place of this process, under this process's own account and by the daemon's leave.
fn run_unprivileged(args: Args, config: &Config) -> anyhow::Result<ExitCode> {
    if args.uid.is_some() {
        bail!("only root may start an agent under another account; leave out `--uid`");
    }
    jail::require_plain_streams()?;
    let mut daemon =
        Client::connect(&config.runtime_dir).context("not started: without root the daemon places agents")?;
    let call = Call::Place { agent: AgentName(args.agent.clone()), step: args.step };
    let cgroup = match daemon.call(&call)? {
        Answer::Placed { cgroup } => cgroup,
        other => return Ok(super::refused(&other)),
    };
    drop(daemon);
    jail::require_inside(&config.intercept, &args.agent, Path::new(&cgroup))
        .context("not started: the daemon did not place this process")?;
    hold(&args.agent, &Launcher::Unprivileged, config.jail.processes_of(&AgentName(args.agent.clone())))?;
    become_agent(&args.command, &config.jail, &Launcher::Unprivileged)
}

/// Holds this process to its number of processes, or says that nothing does.
fn hold(agent: &str, launcher: &Launcher, processes: u32) -> anyhow::Result<()> {
    match jail::hold_processes(launcher, processes)? {
        jail::Held::Cgroup | jail::Held::Account => {}
        jail::Held::Nothing => eprintln!(
            "chaperone: nothing limits how many processes `{agent}` starts: it runs as root, and the `pids` controller of \
             cgroup2 is not at hand here"
        ),
    }
    Ok(())
}

/// Closes the jail and becomes the command; returns only if a step failed, and the caller must then end the process.
fn become_agent(
    command: &[OsString],
    settings: &jail::Settings,
    launcher: &Launcher,
) -> anyhow::Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command was given")?;
    jail::close(settings, launcher)?;
    let mut command = Command::new(program);
    command.args(arguments);
    if let Launcher::Root(Some(Account { name, home, .. })) = launcher {
        // Clients look for their own files at home, and the caller's are closed to this account.
        command.env("HOME", home).env("USER", name).env("LOGNAME", name);
    }
    let program = program.to_string_lossy();
    Err(anyhow::Error::new(command.exec()).context(format!("could not start `{program}`")))
}

#[cfg(test)]
mod tests {
    use crate::intercept::{Sentinel, Settings};

    #[test]
    fn nothing_is_started_without_a_guard() {
        let settings = Settings {
            parent: "chaperone-no-such-parent".into(),
            pin_dir: "/nonexistent/pins".into(),
            port: 15_001,
            dns_port: None,
            sentinel: Sentinel::Off,
            unix_sockets: crate::intercept::UnixSockets::Open,
            ingress: crate::intercept::Ingress::Open,
            security_hooks: crate::intercept::SecurityHooks::Off,
        };
        assert!(crate::jail::guarded(&settings, "reporter", 1).is_err());
    }
}
