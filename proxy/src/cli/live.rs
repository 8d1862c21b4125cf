//! `status`, `sessions`, `reload`, `quarantine`, `release`, `uninstall`: live operation.
//!
//! Prints what the daemon says. Text that came from an agent or its issuer is made inert before it meets a terminal.

use std::process::ExitCode;

use clap::Subcommand;

use super::{ConfigFile, FAILED, print_json, refused, shown};
use crate::control::{Answer, Call, StatusReport};
use crate::intercept::{Cgroup, InterceptError, Settings, Tree};
use crate::model::{AgentName, SessionId};

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    file: ConfigFile,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Open sessions.
#[derive(Debug, Subcommand)]
pub enum Sessions {
    /// List open sessions.
    List {
        /// Configuration.
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// End a session; its agent is told.
    Kill {
        /// Session id, `s-…`.
        session: String,
        /// Configuration.
        #[command(flatten)]
        file: ConfigFile,
    },
}

/// Prints what is running.
///
/// # Errors
/// When no daemon answers.
pub fn status(args: &Status) -> anyhow::Result<ExitCode> {
    match args.file.call(&Call::Status)? {
        Answer::Status(report) if args.json => print_json(&report)?,
        Answer::Status(report) => print_status(&report),
        other => return Ok(refused(&other)),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_status(report: &StatusReport) {
    let good = report.programs.iter().filter(|program| program.effective).count();
    let [allowed, held, denied] = report.decided;
    let [redirected, delivered] = report.kernel;
    println!("chaperone {}, process {}", report.version, report.pid);
    println!("policy    bundle {}", report.bundle);
    println!("guard     {good} of {} kernel programs effective", report.programs.len());
    let taken = report.features.iter().filter(|feature| feature.effective).count();
    println!("features  {taken} of {} optional kernel features in effect", report.features.len());
    for feature in report.features.iter().filter(|feature| !feature.effective) {
        let why = feature.refused.as_deref().unwrap_or("no reason known");
        println!("          {} is refused: {why}", feature.name);
    }
    println!("kernel    {redirected} connections redirected, {delivered} delivered");
    if report.kernel_untold > 0 {
        println!("          {} denials were counted, but could not be told one by one", report.kernel_untold);
    }
    println!("sessions  {} open, {} connections turned away", report.sessions, report.turned_away);
    println!("requests  {allowed} allowed, {held} held, {denied} denied; {} tickets wait", report.held);
    println!("record    {}", report.record.as_deref().unwrap_or("takes events"));
    for agent in &report.agents {
        let who = match (&agent.subject, &agent.problem) {
            (Some(subject), None) => format!("is {}", shown(subject)),
            (Some(subject), Some(problem)) => format!("is {} ({problem})", shown(subject)),
            (None, problem) => format!("unidentified: {}", problem.as_deref().unwrap_or("no reason known")),
        };
        let stopped = if agent.quarantined { ", QUARANTINED" } else { "" };
        println!("agent     {} {who}{stopped}", agent.name);
    }
}

/// Lists or ends sessions.
///
/// # Errors
/// When no daemon answers.
pub fn sessions(command: Sessions) -> anyhow::Result<ExitCode> {
    match command {
        Sessions::List { file, json } => match file.call(&Call::Sessions)? {
            Answer::Sessions { sessions } if json => print_json(&sessions)?,
            Answer::Sessions { sessions } => {
                for one in sessions {
                    let exe = shown(&one.exe);
                    println!(
                        "{}  {}  {}  {}  pid {}  {exe}",
                        one.id, one.agent, one.resource, one.destination, one.pid
                    );
                }
            }
            other => return Ok(refused(&other)),
        },
        Sessions::Kill { session, file } => {
            let session = SessionId::try_from(session).map_err(anyhow::Error::msg)?;
            return done(&file.call(&Call::Kill { session })?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads policy again.
///
/// # Errors
/// When no daemon answers.
pub fn reload(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    done(&file.call(&Call::Reload)?)
}

fn done(answer: &Answer) -> anyhow::Result<ExitCode> {
    match answer {
        Answer::Done { what } => println!("{what}"),
        other => return Ok(refused(other)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whom to stop, or to let go.
#[derive(Debug, clap::Args)]
pub struct Agent {
    /// Name of the agent, as configured.
    agent: String,
    /// Stop its processes too, until it is released.
    #[arg(long)]
    freeze: bool,
    #[command(flatten)]
    file: ConfigFile,
}

/// Stops an agent.
///
/// # Errors
/// When no daemon answers.
pub fn quarantine(args: &Agent) -> anyhow::Result<ExitCode> {
    done(&args.file.call(&Call::Quarantine { agent: AgentName(args.agent.clone()), freeze: args.freeze })?)
}

/// Whom to let go.
#[derive(Debug, clap::Args)]
pub struct Released {
    /// Name of the agent, as configured.
    agent: String,
    #[command(flatten)]
    file: ConfigFile,
}

/// Lets an agent go again, its processes too.
///
/// # Errors
/// When no daemon answers.
pub fn release(args: &Released) -> anyhow::Result<ExitCode> {
    done(&args.file.call(&Call::Release { agent: AgentName(args.agent.clone()) })?)
}

/// What to take away.
#[derive(Debug, clap::Args)]
pub struct Uninstall {
    /// Even while agents run: they are unguarded from then on.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    file: ConfigFile,
}

/// Takes the kernel guard away.
///
/// # Errors
/// When a daemon runs, when agents do and that was not asked for, or when a pin cannot be removed.
pub fn uninstall(args: &Uninstall) -> anyhow::Result<ExitCode> {
    let settings = args.file.load()?.intercept;
    if !args.force {
        let running = running(&settings)?;
        if !running.is_empty() {
            eprintln!(
                "chaperone: the kernel guard stays, because agents run in it: {}; stop them, or say `--force` and they are \
                 unguarded from then on",
                running.join(", ")
            );
            return Ok(ExitCode::from(FAILED));
        }
    }
    // Looks once more itself: an agent may have started since.
    crate::intercept::uninstall(&settings, args.force)?;
    println!("the kernel guard is gone");
    Ok(ExitCode::SUCCESS)
}

/// The cgroups right below the agents' parent that have processes: folders of agents' runs, and units. Names come from whoever
/// made the cgroup and are printed inert.
fn running(settings: &Settings) -> Result<Vec<String>, InterceptError> {
    let Ok(parent) = Tree::find()?.open(&settings.parent) else { return Ok(Vec::new()) };
    let mut running = Vec::new();
    for (name, id) in parent.children()? {
        // One that went away meanwhile runs nothing. What cannot be read is not named; the removal asks the parent again.
        let populated = Cgroup::below(&parent, id).is_some_and(|child| child.is_populated().unwrap_or(false));
        if populated {
            running.push(format!("`{}`", shown(&name)));
        }
    }
    running.sort();
    Ok(running)
}
