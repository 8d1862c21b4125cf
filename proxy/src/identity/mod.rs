//! Who is calling: from a kernel stamp to an agent with evidence, and from an agent to a verified principal.
//!
//! A cgroup names the agent; a token, checked against its issuer's keys, makes it a principal. The two are kept
//! apart: [`Resolver::identify`] runs once per connection, [`Resolver::principal`] at every request.
//! Refuses to guess: no cgroup, two agents, a reused pid, an unreadable or unacceptable token all end without
//! an identity. INVARIANT: an [`crate::model::Identity::Verified`] handed out is not past its deadline.
//! Known limits: a token is not bound to one cgroup; issuers' keys are fetched over HTTPS without a proxy.

mod cgroup;
mod error;
mod https;
mod issuer;
mod keys;
mod process;
mod resolve;
mod steps;
#[cfg(test)]
mod testing;
mod token;
mod token_file;
mod watcher;

use std::path::PathBuf;
use std::time::Duration;

use crate::model::AgentName;

pub use error::IdentityError;
pub use process::started;
pub use resolve::{AgentStatus, Change, Identified, ProcessOrigin, Resolver};
pub use steps::{STEP_BYTES_MAX, Steps};

/// How a process that others started is recognised as an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentMatch {
    /// systemd unit name, `reporter.service`.
    Unit(String),
    /// Glob over the cgroup path below the cgroup2 mount, `agents.slice/reporter*`; `*` does not cross `/`.
    Cgroup(String),
}

/// Where an agent's token comes from and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSource {
    /// Issuer URL; must equal `iss` and be `https`.
    pub issuer: String,
    /// Must be among `aud`.
    pub audience: String,
    /// File with the compact JWT; may be swapped atomically at any time.
    pub token_file: PathBuf,
    /// PEM file of CAs for the issuer's TLS; `None` means the system's store.
    pub ca_file: Option<PathBuf>,
    /// If set, `sub` must equal it.
    pub subject: Option<String>,
    /// Claim with the groups; a list of strings.
    pub groups_claim: String,
    /// Longest accepted `exp` minus `iat`.
    pub lifetime_max: Duration,
}

/// One configured agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSettings {
    /// Its name.
    pub name: AgentName,
    /// How others' processes are recognised; `None` means only `chaperone run`.
    pub matches: Option<AgentMatch>,
    /// Its token; `None` leaves it unidentified.
    pub source: Option<TokenSource>,
}

/// Everything the room needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// All agents.
    pub agents: Vec<AgentSettings>,
    /// Path of the agents' parent cgroup below the cgroup2 mount, `agents.slice`.
    pub parent: PathBuf,
    /// Folder of what launchers say that runs are for.
    pub steps: PathBuf,
}
