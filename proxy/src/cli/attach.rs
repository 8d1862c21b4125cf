//! `chaperone attach`, `detach`, `guarded`: agents that systemd starts.
//!
//! `attach` asks systemd about the unit, writes a drop-in, lets systemd read it and asks whether it holds. It never starts or stops
//! a unit: what runs already is not jailed before its next start, and that is said. `guarded` is what the drop-in runs before
//! each start; it ends with 255, which systemd takes for a failure and not for a condition that happens not to hold.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

use super::ConfigFile;
use crate::config::Config;
use crate::identity::AgentMatch;
use crate::jail;
use crate::unit::{Facts, Plan, Service};

/// Options of `attach` and `detach`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The service, as systemd names it: `reporter.service`.
    unit: String,
    /// Configuration.
    #[command(flatten)]
    file: ConfigFile,
}

/// What systemd takes for a failure of the start.
const NOT_GUARDED: u8 = 255;

/// Puts a unit into the agents' slice and a jail, from its next start on.
///
/// # Errors
/// When the unit or its agent is unknown, or the drop-in is not written or does not hold.
pub fn attach(args: &Args) -> anyhow::Result<ExitCode> {
    let service = Service::parse(&args.unit)?;
    let config = args.file.load()?;
    require_agent(&config, &service)?;
    let shown = Shown::of(&service)?;
    if shown.one("LoadState") != "loaded" {
        bail!("systemd has no unit `{}`", service.name());
    }
    require_own_sockets(&service, &shown)?;
    let absolute = |path: PathBuf| {
        std::fs::canonicalize(&path).with_context(|| format!("cannot find `{}`", path.display()))
    };
    let program = absolute(std::env::current_exe().context("cannot find this program's own path")?)?;
    let file = absolute(args.file.config.clone())?;
    let plan = Plan { jail: &config.jail, intercept: &config.intercept, program: &program, config: &file };
    service.attach(&plan, &shown.facts())?;
    systemctl(&["daemon-reload"])?;
    let after = Shown::of(&service)?;
    let drop_in = service.file().display().to_string();
    if !after.one("DropInPaths").split(' ').any(|path| path == drop_in) {
        bail!("systemd does not use `{drop_in}`");
    }
    if after.one("NoNewPrivileges") != "yes" || !config.intercept.parent.ends_with(after.one("Slice")) {
        bail!("another drop-in of `{}` takes back what `{drop_in}` says", service.name());
    }
    if matches!(after.one("User"), "" | "root" | "0") && after.one("DynamicUser") != "yes" {
        eprintln!("chaperone: `{}` runs as root; give it a user of its own with `User=`", service.name());
    }
    println!("{} is attached by {drop_in}", service.name());
    if !matches!(after.one("ActiveState"), "inactive" | "failed") {
        println!("it runs as it was started: `systemctl restart {}` puts it into the jail", service.name());
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes the drop-in away again.
///
/// # Errors
/// When there is none of ours, or it stays.
pub fn detach(args: &Args) -> anyhow::Result<ExitCode> {
    let service = Service::parse(&args.unit)?;
    if !service.detach()? {
        bail!("`{}` is not attached", service.name());
    }
    systemctl(&["daemon-reload"])?;
    println!("{} is detached, and an agent no longer from its next start on", service.name());
    Ok(ExitCode::SUCCESS)
}

/// Says by its exit code whether the kernel guards the cgroup of the caller.
///
/// # Errors
/// When the configuration cannot be read.
pub fn guarded(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    let guarded = file.load().and_then(|config| Ok(jail::require_guarded(&config.intercept)?));
    if let Err(problem) = guarded {
        eprintln!(
            "chaperone: not started, because nothing would guard it: {}",
            super::told(problem.as_ref())
        );
        return Ok(ExitCode::from(NOT_GUARDED));
    }
    Ok(ExitCode::SUCCESS)
}

/// Without an agent of that unit the daemon would turn its connections away, one by one.
fn require_agent(config: &Config, service: &Service) -> anyhow::Result<()> {
    let known = config.identity.agents.iter().any(|agent| match &agent.matches {
        Some(AgentMatch::Unit(unit)) => unit == service.name(),
        Some(AgentMatch::Cgroup(_)) | None => false,
    });
    if !known {
        bail!("no agent has `match = {{ unit = \"{}\" }}`", service.name());
    }
    Ok(())
}

/// A socket that systemd opens for a service was made outside the agents' cgroup, where nothing guards it.
fn require_own_sockets(service: &Service, shown: &Shown) -> anyhow::Result<()> {
    // A unit of the same name is not loaded, and then not known to trigger anything, until somebody asks for it.
    let same = service.socket();
    let triggers = systemctl(&["show", "--property=Triggers", "--value", "--", &same])?;
    let known = shown.one("TriggeredBy").split(' ').find(|unit| unit.ends_with(".socket"));
    let found =
        known.or_else(|| triggers.trim().split(' ').any(|unit| unit == service.name()).then_some(&same));
    if let Some(socket) = found {
        bail!(
            "`{socket}` opens sockets for `{}` outside the agents' cgroup, where nothing guards them",
            service.name()
        );
    }
    Ok(())
}

/// What `systemctl show` prints, `Key=value` line by line.
struct Shown(String);

impl Shown {
    fn of(service: &Service) -> anyhow::Result<Self> {
        let keys = "--property=LoadState,ActiveState,Type,NotifyAccess,User,DynamicUser,RuntimeDirectory,Slice,TriggeredBy,DropInPaths,\
                    NoNewPrivileges";
        Ok(Self(systemctl(&["show", keys, "--", service.name()])?))
    }

    fn one(&self, key: &str) -> &str {
        let value = |line: &'_ str| line.split_once('=').is_some_and(|(found, _)| found == key);
        let line = self.0.lines().find(|line| value(line));
        line.and_then(|line| line.split_once('=')).map_or("", |(_, value)| value)
    }

    fn facts(&self) -> Facts {
        let named = self.one("RuntimeDirectory").split(' ').filter(|name| !name.is_empty());
        // `name:link` makes a link beside the folder; the folder is what is bound.
        let folder = |name: &str| PathBuf::from("/run").join(name.split(':').next().unwrap_or(name));
        Facts {
            notifies: self.one("Type").starts_with("notify")
                || !matches!(self.one("NotifyAccess"), "none" | ""),
            runtime_directories: named.map(folder).collect(),
        }
    }
}

fn systemctl(words: &[&str]) -> anyhow::Result<String> {
    let output =
        Command::new("systemctl").args(words).output().context("cannot ask systemd with `systemctl`")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`systemctl {}` failed: {}", words.join(" "), super::shown(said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
