//! The jail around an agent that `chaperone run` starts: what it can no longer see, call or reach.
//!
//! [`guarded`] makes the run's cgroup and refuses one that the kernel does not guard. [`close`] then shuts the jail around this
//! very process, in this order: inherited descriptors, mounts, capabilities and ids, new privileges, Landlock, system calls.
//! A failure at any step must end the process. [`Newcomer`] is the daemon's side for launchers without root.
//! INVARIANT: nothing here widens what the process may do. Known limits: a path is hidden, not the file behind it (a hard link
//! made earlier still shows it); sockets that hosts open later outside the covered folders are not covered; unix datagrams and
//! connections that the standard streams bring in stay.

mod account;
mod calls;
mod error;
mod mounts;
mod newcomer;
mod processes;
mod scope;
mod sockets;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nix::sys::prctl;

pub use account::Account;
pub use error::JailError;
pub use newcomer::Newcomer;
pub use processes::{Held, PROCESSES, hold as hold_processes};
pub use scope::{is_scoped, outsiders};

use crate::intercept::{self, Cgroup, InterceptError, Tree};
use crate::model::AgentName;

/// What `/tmp`, `/var/tmp` and `/dev/shm` are to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tmp {
    /// Empty folders of its own, gone with it.
    Private,
    /// The host's, with everything that others leave there.
    Shared,
}

/// Whether an agent may use `io_uring`, whose operations no system call filter sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uring {
    /// No.
    Refused,
    /// Yes: it can then open sockets of families that the filter refuses; the packet guard still holds.
    Allowed,
}

/// How agents are jailed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Paths that stay as they are on the host: below `/run` and `/tmp`, and sockets anywhere.
    pub keep: Vec<PathBuf>,
    /// What `/tmp` is.
    pub tmp: Tmp,
    /// Whether `io_uring` works.
    pub uring: Uring,
    /// Files and folders that no agent sees, whatever its account: the daemon's own.
    pub hidden: Vec<PathBuf>,
    /// Accounts without root that may start an agent.
    pub launchers: BTreeMap<AgentName, BTreeSet<u32>>,
    /// Accounts under which root starts agents, by name or number, unless it names another.
    pub accounts: BTreeMap<AgentName, String>,
    /// How many processes and threads a run of each agent may have at a time.
    pub processes: BTreeMap<AgentName, u32>,
}

impl Settings {
    /// How many processes and threads a run of this agent may have at a time.
    #[must_use]
    pub fn processes_of(&self, agent: &AgentName) -> u32 {
        self.processes.get(agent).copied().unwrap_or(PROCESSES)
    }
}

/// Who starts the agent, which decides how mounts and ids change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launcher {
    /// Root, for an account of the agent's own, or for root itself.
    Root(Option<Account>),
    /// An account without root, which the agent keeps; mounts change in a user namespace.
    Unprivileged,
}

/// A fresh cgroup for a run of this agent, which the kernel says is guarded by every program, and which holds at most so many
/// processes and threads where the kernel counts them there.
///
/// # Errors
/// When it cannot be made, or anything does not guard it.
pub fn guarded(settings: &intercept::Settings, agent: &str, processes: u32) -> Result<Cgroup, JailError> {
    let parent = Tree::find()?.open(&settings.parent)?;
    let mut number = [0_u8; 8];
    getrandom::fill(&mut number).map_err(|source| JailError::Random { source })?;
    let name = format!("{:016x}", u64::from_ne_bytes(number));
    let cgroup = parent.child(agent, &name)?;
    match require_effective(settings, &cgroup).and_then(|()| processes::limit(&parent, &cgroup, processes)) {
        Ok(()) => Ok(cgroup),
        Err(problem) => {
            cgroup.remove()?;
            Err(problem)
        }
    }
}

/// Whether this process is in the cgroup `run`, and that is one of this agent's; both by the kernel's word.
///
/// # Errors
/// When it is not, or that cannot be read.
pub fn require_inside(settings: &intercept::Settings, agent: &str, run: &Path) -> Result<(), JailError> {
    let own = Tree::find()?.own()?;
    let plain = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_owned();
    let fits = plain(&own) == plain(run) && plain(&own).starts_with(plain(&settings.parent).join(agent));
    if fits { Ok(()) } else { Err(JailError::Elsewhere { path: own }) }
}

/// Names of the system calls that an agent is refused whole, for launchers other than this one.
pub fn refused_calls(uring: Uring) -> impl Iterator<Item = &'static str> {
    calls::names(uring)
}

/// Refuses to go on unless every kernel program is in effect for this process's own cgroup, an agent's.
///
/// # Errors
/// When it is not below the agents' parent, or anything does not guard it.
pub fn require_guarded(settings: &intercept::Settings) -> Result<(), JailError> {
    let tree = Tree::find()?;
    let own = tree.own()?;
    let inside = own.strip_prefix("/").unwrap_or(&own);
    if inside == settings.parent || !inside.starts_with(&settings.parent) {
        return Err(JailError::Elsewhere { path: own });
    }
    require_effective(settings, &tree.open(&own)?)
}

fn require_effective(settings: &intercept::Settings, cgroup: &Cgroup) -> Result<(), JailError> {
    let missing: Vec<&str> = intercept::effective(settings, cgroup)?
        .iter()
        .filter(|status| !status.effective)
        .map(|status| status.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(InterceptError::Unguarded { missing: missing.join(", ") }.into())
}

/// Refuses standard streams that would reach around the jail; to be asked before anything is changed.
///
/// # Errors
/// When one of them does.
pub fn require_plain_streams() -> Result<(), JailError> {
    streams::check_all()
}

/// Closes the jail around this process. It must be single-threaded and already in its cgroup.
///
/// # Errors
/// When a step fails; the process must then end.
pub fn close(settings: &Settings, launcher: &Launcher) -> Result<(), JailError> {
    streams::check_all()?;
    let filters = calls::filters(settings.uring)?;
    mounts::seclude(settings, launcher)?;
    intercept::close_descriptors_on_exec()?;
    match launcher {
        Launcher::Root(account) => account::give_up(account.as_ref(), account::Rest::of(account.as_ref()))?,
        Launcher::Unprivileged => account::give_up(None, account::Rest::Nothing)?,
    }
    prctl::set_no_new_privs().map_err(|problem| JailError::Privileges {
        action: "forbid new privileges",
        source: problem.into(),
    })?;
    scope::enter()?;
    calls::apply(&filters)
}
