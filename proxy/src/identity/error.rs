//! What can go wrong between a socket and a principal.
//!
//! [`IdentityError`] ends a connection (or the start of the daemon). [`TokenError`] and [`KeysError`] leave an
//! agent unidentified; they are told to the operator, never to the agent. None of them carries token text.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::Unidentified;

/// Why a connection has no agent, or the room could not start.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There is no cgroup2 hierarchy.
    #[error("no cgroup2 file system is mounted")]
    NoCgroups,
    /// No directory has this id; the cgroup is gone or beyond the search limit.
    #[error("no cgroup has the id {cgroup_id}")]
    UnknownCgroup {
        /// The id from the kernel.
        cgroup_id: u64,
    },
    /// The cgroup belongs to no configured agent.
    #[error("no agent is configured for the cgroup `{cgroup}`")]
    NoAgent {
        /// Its path.
        cgroup: String,
    },
    /// The cgroup belongs to more than one configured agent.
    #[error("the cgroup `{cgroup}` matches more than one agent: {}", agents.join(", "))]
    Ambiguous {
        /// Its path.
        cgroup: String,
        /// Their names.
        agents: Vec<String>,
    },
    /// The process is younger than the connection: its number was used again.
    #[error("process {pid} started after the connection it is said to have opened")]
    Reused {
        /// The process id.
        pid: u32,
    },
    /// Evidence could not be gathered in time; the process may be stalling its own memory or files.
    #[error("evidence about process {pid} was not readable within {} s", after.as_secs())]
    Stalled {
        /// The process id.
        pid: u32,
        /// The limit.
        after: Duration,
    },
    /// The issuer's address or CA file cannot be used.
    #[error("the issuer `{issuer}` cannot be used: {problem}")]
    Issuer {
        /// As configured.
        issuer: String,
        /// What is wrong.
        problem: String,
    },
    /// A worker thread ended early.
    #[error("reading evidence failed inside the daemon")]
    Worker {
        /// The runtime's answer.
        #[from]
        source: tokio::task::JoinError,
    },
}

/// Why an agent's token was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error("the token file cannot be read: {0}")]
    Unreadable(String),
    #[error("the token is not a signed JWT: {0}")]
    Malformed(String),
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    #[error("the token's header has extensions that must be understood")]
    Critical,
    #[error("the issuer has no key with the token's key id")]
    UnknownKey,
    #[error("more than one of the issuer's keys fits the token")]
    AmbiguousKey,
    #[error("the token's signature is not the issuer's")]
    Signature,
    #[error("the token's `{0}` is missing, of the wrong type, or not the configured one")]
    Claim(&'static str),
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token's lifetime is longer than the configured longest")]
    Lifetime,
    #[error("the issuer's keys are not available")]
    NoKeys,
}

impl TokenError {
    /// What the agent and the auditor are told.
    pub(super) fn reason(&self) -> Unidentified {
        match self {
            Self::Unreadable(_) | Self::Malformed(_) => Unidentified::NoToken,
            Self::Expired | Self::NotYet => Unidentified::Expired,
            Self::NoKeys => Unidentified::KeysUnavailable,
            Self::Algorithm
            | Self::Critical
            | Self::UnknownKey
            | Self::AmbiguousKey
            | Self::Signature
            | Self::Claim(_)
            | Self::Lifetime => Unidentified::Invalid,
        }
    }
}

/// Why an issuer's keys could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeysError {
    #[error("`{0}` is not an https address without user, query or fragment")]
    Address(String),
    #[error("`{host}` cannot be reached: {problem}")]
    Connect { host: String, problem: String },
    #[error("`{host}` did not answer in time")]
    Timeout { host: String },
    #[error("`{host}` answered {status}; redirects are not followed")]
    Status { host: String, status: u16 },
    #[error("the answer of `{host}` could not be read within its limit: {problem}")]
    Body { host: String, problem: String },
    #[error("the issuer's document is not usable: {0}")]
    Document(String),
    #[error("the issuer's document names another issuer, `{0}`")]
    OtherIssuer(String),
    #[error("the issuer's key set is not usable: {0}")]
    KeySet(String),
}
