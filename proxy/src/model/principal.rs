//! Who is asking: the agent, its verified identity at this moment, and what the kernel says about its process.
//!
//! Plain data. INVARIANT: a `Verified` identity is only made by `identity`, after signature and claims held.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::UnixMillis;

/// The name of an agent, as declared in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AgentName(pub String);

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why an agent has no identity. Told to the agent and the auditor; never holds token text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unidentified {
    /// The configuration names no identity source for it.
    NoSource,
    /// The token file is missing, unreadable, or not a token.
    NoToken,
    /// The token's time is over, or has not come.
    Expired,
    /// Signature, issuer, audience, algorithm or claims did not hold.
    Invalid,
    /// The issuer's keys could not be had and none are remembered.
    KeysUnavailable,
}

impl fmt::Display for Unidentified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSource => "no identity is configured for this agent",
            Self::NoToken => "the agent has no token",
            Self::Expired => "the agent's token has expired",
            Self::Invalid => "the agent's token was not accepted",
            Self::KeysUnavailable => "the issuer's keys are not available",
        })
    }
}

/// The identity of an agent at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "identity")]
pub enum Identity {
    /// A token that was verified.
    Verified {
        /// `iss`.
        issuer: String,
        /// `sub`.
        subject: String,
        /// Groups claimed by the issuer.
        groups: BTreeSet<String>,
        /// `exp` plus the allowed clock skew: the first moment it is no longer good.
        expires_at: UnixMillis,
        /// SHA-256 of the token in hex, for revocation and the record.
        token_sha256: String,
    },
    /// No acceptable token.
    Unidentified {
        /// Why.
        reason: Unidentified,
    },
}

/// An agent with its identity: what policy calls the principal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Principal {
    /// The agent's configured name.
    pub agent: AgentName,
    /// What was verified about it.
    #[serde(flatten)]
    pub identity: Identity,
}

/// One step up the process tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ancestor {
    /// Process id.
    pub pid: u32,
    /// Executable path.
    pub exe: String,
}

/// What the kernel says about the process that opened the connection. Facts for the record, and for policy as `evidence`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Evidence {
    /// Process id (thread group) at connect.
    pub pid: u32,
    /// Start time of the process in clock ticks since boot (`/proc/PID/stat` field 22): guards against pid reuse.
    pub start_ticks: u64,
    /// Executable path as the kernel names it; empty if it could not be read.
    pub exe: String,
    /// SHA-256 of the executable in hex; empty if it could not be read.
    pub exe_sha256: String,
    /// SHA-256 of the argument vector in hex; empty if it could not be read.
    pub argv_sha256: String,
    /// User id at connect.
    pub uid: u32,
    /// Login user id, if one is set: the person behind it.
    pub login_uid: Option<u32>,
    /// systemd unit, if the cgroup names one.
    pub unit: Option<String>,
    /// Cgroup path below the cgroup2 mount.
    pub cgroup: String,
    /// Cgroup id.
    pub cgroup_id: u64,
    /// Id of the cgroup right below the agents' parent, under which the kernel counts.
    #[serde(default)]
    pub account: u64,
    /// Cookie of the network namespace it connected in, if that is not the host's: there, loopback is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<u64>,
    /// Parents, nearest first; at most eight.
    pub parents: Vec<Ancestor>,
    /// Reasoning step as the launcher stated it: a hint, never an authority.
    pub step: Option<String>,
}
