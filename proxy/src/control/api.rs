//! What can be asked over the control socket, and what comes back.
//!
//! Plain data. Unknown calls and unknown fields are refused, so an older daemon never half-understands a newer client.

use serde::{Deserialize, Serialize};

use crate::approval::{Ticket, Vote};
use crate::audit::KernelCounts;
use crate::model::{AgentName, SelftestResult, SessionId, TicketId, UnixMillis};
use crate::session::Summary;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "call", deny_unknown_fields)]
pub enum Call {
    /// What is running.
    Status,
    /// Open sessions.
    Sessions,
    /// Ends a session.
    Kill {
        /// Which.
        session: SessionId,
    },
    /// Reads policy again.
    Reload,
    /// Stops an agent: in the kernel, and for every session.
    Quarantine {
        /// Whom.
        agent: AgentName,
        /// Its processes too.
        freeze: bool,
    },
    /// Lets an agent go again.
    Release {
        /// Whom.
        agent: AgentName,
    },
    /// What the kernel counted for each account.
    Accounts,
    /// Puts the result of a self-test into the record.
    Selftest {
        /// What came of it.
        result: SelftestResult,
    },
    /// Tickets, open ones only unless `all`.
    Tickets {
        /// Closed ones too.
        all: bool,
    },
    /// One ticket.
    Ticket {
        /// Which.
        id: TicketId,
    },
    /// Makes the calling process an agent.
    Place {
        /// Which.
        agent: AgentName,
        /// What the run is for, in the launcher's words.
        step: Option<String>,
    },
    /// Votes on a ticket.
    Vote {
        /// Which.
        id: TicketId,
        /// Approve or deny.
        vote: Vote,
        /// In the voter's words.
        reason: Option<String>,
    },
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// To `status`.
    Status(Box<StatusReport>),
    /// To `sessions`.
    Sessions {
        /// Open sessions, oldest first.
        sessions: Vec<Summary>,
    },
    /// To `accounts`.
    Accounts {
        /// Every account the kernel counts for.
        accounts: Vec<AccountState>,
    },
    /// To `tickets`.
    Tickets {
        /// Tickets, oldest first.
        tickets: Vec<Ticket>,
    },
    /// To `ticket` and `vote`.
    Ticket(Box<Ticket>),
    /// To `place`: the caller is an agent now.
    Placed {
        /// Its cgroup, below the cgroup2 mount.
        cgroup: String,
    },
    /// It was done.
    Done {
        /// What, in a sentence.
        what: String,
    },
    /// It was not done.
    Refused {
        /// Why.
        why: String,
    },
}

/// The daemon's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Since when it runs.
    pub started_at: UnixMillis,
    /// Bundle in force.
    pub bundle: String,
    /// Open sessions.
    pub sessions: usize,
    /// Pending tickets.
    pub held: usize,
    /// Requests allowed, held, denied since the start.
    pub decided: [u64; 3],
    /// Connections turned away since the start.
    pub turned_away: u64,
    /// Configured agents.
    pub agents: Vec<AgentState>,
    /// Kernel programs.
    pub programs: Vec<ProgramState>,
    /// Connections redirected and delivered by the kernel.
    pub kernel: [u64; 2],
    /// Denials by the kernel, by reason.
    pub kernel_denied: Vec<(String, u64)>,
    /// Reports of denials that found the kernel's ring full, since its tables were made.
    #[serde(default)]
    pub kernel_untold: u64,
    /// What the kernel programs saw and let pass, by what it was.
    #[serde(default)]
    pub kernel_seen: Vec<(String, u64)>,
    /// Optional kernel programs.
    #[serde(default)]
    pub features: Vec<FeatureState>,
    /// Whether the record takes events now.
    pub record: Option<String>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// Name.
    pub name: String,
    /// Subject, if identified.
    pub subject: Option<String>,
    /// When its identity ends.
    pub expires_at: Option<UnixMillis>,
    /// What is wrong with its identity.
    pub problem: Option<String>,
    /// Whether it is stopped.
    pub quarantined: bool,
}

/// One account: a cgroup right below the agents' parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// The cgroup's id.
    pub account: u64,
    /// What the kernel counted.
    pub counts: KernelCounts,
    /// Connections that the daemon accepted and has not recorded yet.
    pub unrecorded: u64,
}

/// One optional kernel program: some kernels take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureState {
    /// Name.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// Whether the kernel took it.
    pub effective: bool,
    /// Why not, in the kernel's words.
    #[serde(default)]
    pub refused: Option<String>,
}

/// One kernel program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramState {
    /// Name.
    pub name: String,
    /// Whether the kernel runs it.
    pub effective: bool,
    /// Why not.
    pub detail: String,
}
