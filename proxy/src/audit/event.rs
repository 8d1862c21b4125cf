//! What can be recorded: our own versioned schema, one variant per kind of event.
//!
//! Every record is `{"v":1,"seq":..,"time":..,"event":"..", ..}`; names are snake case, the principal is on every
//! row that has one. Text of the agent is stored as it came (JSON-escaped): whoever prints it makes it inert.
//!
//! INVARIANT: the variants and fields only grow. A changed meaning is a new variant; [`SCHEMA`] counts breaks.
//! Borrowed data ([`Cow`]) keeps the hot path from copying statements and operations.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::{
    AgentName, BoundValue, BundleHash, Decision, Evidence, Identity, MaskedColumn, Operation, Outcome,
    Principal, Protocol, RequestId, SelftestResult, SessionId, Tally, TicketId, UnixMillis, UpstreamTlsMode,
};

/// Version of the schema, written as `v` into every record.
pub const SCHEMA: u32 = 1;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// The daemon is up.
    DaemonStarted {
        /// Program version.
        version: Cow<'a, str>,
        /// Bundle in force.
        policy: BundleHash,
        /// Optional kernel programs, each in effect or refused in the kernel's words.
        #[serde(default)]
        features: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    },
    /// The daemon ends in order.
    DaemonStopped {
        /// Why.
        reason: Cow<'a, str>,
    },
    /// A bundle came into force.
    PolicyLoaded {
        /// Its hash.
        bundle: BundleHash,
    },
    /// A bundle failed validation; the one before stays in force.
    PolicyRejected {
        /// What was wrong.
        problem: Cow<'a, str>,
    },
    /// The configuration was read again.
    Reloaded {
        /// Who asked.
        by: Cow<'a, str>,
        /// What was wrong, if it was refused.
        problem: Option<Cow<'a, str>>,
    },
    /// An operator acted on live work (kill, pause, resume, quarantine).
    OperatorActed {
        /// Who.
        by: Cow<'a, str>,
        /// What was done.
        action: Cow<'a, str>,
        /// To whom or what.
        target: Cow<'a, str>,
    },
    /// Every way out was tried on the installed guard.
    Selftest {
        /// Who ran it.
        by: Cow<'a, str>,
        /// What came of it.
        #[serde(flatten)]
        result: Cow<'a, SelftestResult>,
    },
    /// A connection became a session.
    SessionOpened {
        /// Its id.
        session: SessionId,
        /// Agent and identity at that moment.
        #[serde(flatten)]
        principal: Cow<'a, Principal>,
        /// The process that opened it.
        evidence: Cow<'a, Evidence>,
        /// Name of the resource.
        resource: Cow<'a, str>,
        /// What is spoken.
        protocol: Protocol,
        /// The address the agent dialled.
        destination: SocketAddr,
        /// The name it had asked the resolver for, if it was told this address for one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<Cow<'a, str>>,
        /// Whether the agent's side is encrypted.
        client_tls: bool,
        /// TLS rule the resource was dialled under.
        upstream_tls: UpstreamTlsMode,
    },
    /// A session ended.
    SessionClosed {
        /// Its id.
        session: SessionId,
        /// The agent.
        agent: Cow<'a, AgentName>,
        /// Verified subject, if there was one.
        subject: Option<Cow<'a, str>>,
        /// Why it ended.
        why: Cow<'a, str>,
        /// Requests judged.
        requests: u64,
        /// Bytes from the agent.
        bytes_in: u64,
        /// Bytes to the agent.
        bytes_out: u64,
        /// Id of the cgroup right below the agents' parent, under which the kernel counted it.
        #[serde(default)]
        account: u64,
    },
    /// A connection was turned away before it became a session.
    ConnectionRefused {
        /// The agent, if known.
        agent: Option<Cow<'a, AgentName>>,
        /// Id of the cgroup right below the agents' parent, under which the kernel counted it.
        #[serde(default)]
        account: u64,
        /// The address it dialled, if known.
        destination: Option<SocketAddr>,
        /// The process, if known.
        evidence: Option<Cow<'a, Evidence>>,
        /// Why.
        reason: Cow<'a, str>,
    },
    /// An agent may have a name resolved; recorded before it is asked upstream, and again with the count of repetitions.
    NameResolved {
        /// The agent.
        agent: Cow<'a, AgentName>,
        /// Id of the cgroup right below the agents' parent.
        account: u64,
        /// The name.
        name: Cow<'a, str>,
        /// Policies that permit it; none where it is a registered resource's, or a repetition.
        policies: Cow<'a, [String]>,
        /// Bundle that decided; none where it is a registered resource's, or a repetition.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bundle: Option<BundleHash>,
        /// How many times.
        count: u64,
    },
    /// An agent asked for a name that it is not told.
    NameDenied {
        /// The agent.
        agent: Cow<'a, AgentName>,
        /// Id of the cgroup right below the agents' parent.
        account: u64,
        /// The name; empty for what is no question, and for the sum of those with this reason that were not recorded one by one.
        name: Cow<'a, str>,
        /// Why.
        reason: Cow<'a, str>,
        /// Policies that forbid it; empty if none permits it.
        policies: Cow<'a, [String]>,
        /// How many times.
        count: u64,
    },
    /// Datagrams to resolvers that were dropped before their question was read; at most once a minute with the sum.
    QuestionsDropped {
        /// Id of the cgroup right below the agents' parent, under which the kernel counted them.
        account: u64,
        /// Why: `too-many-at-work` or `unknown-process`.
        reason: Cow<'a, str>,
        /// How many.
        count: u64,
    },
    /// A connection to a resolver ended; it became no session.
    NamesConnection {
        /// The agent.
        agent: Cow<'a, AgentName>,
        /// Id of the cgroup right below the agents' parent, under which the kernel counted it.
        account: u64,
        /// The resolver it dialled.
        destination: SocketAddr,
        /// Questions on it.
        questions: u64,
    },
    /// An agent connected to a resolver over TCP; what it asked for stands in records of its own.
    ResolverConnected {
        /// Id of the cgroup right below the agents' parent, under which the kernel counted it.
        account: u64,
        /// The resolver it meant.
        destination: SocketAddr,
    },
    /// The kernel programs refused connections.
    KernelDenied {
        /// The agent, if the cgroup is one.
        agent: Option<Cow<'a, AgentName>>,
        /// Cgroup of the caller.
        cgroup_id: u64,
        /// Process.
        pid: u32,
        /// User.
        uid: u32,
        /// What it dialled, as the kernel saw it.
        destination: Cow<'a, str>,
        /// Why.
        reason: Cow<'a, str>,
        /// How many times since the last such record.
        count: u64,
    },
    /// The kernel programs saw something that they let pass.
    KernelSaw {
        /// The agent, if the cgroup is one.
        agent: Option<Cow<'a, AgentName>>,
        /// Cgroup of the caller.
        cgroup_id: u64,
        /// Process.
        pid: u32,
        /// User.
        uid: u32,
        /// What.
        what: Cow<'a, str>,
        /// How many times since the last such record.
        count: u64,
    },
    /// A process of an agent is in another cgroup now: what it does from then on is not guarded, or is another agent's.
    AgentLeft {
        /// Name of the cgroup right below the agents' parent that it was in.
        account: Cow<'a, str>,
        /// The process.
        pid: u32,
        /// What runs in it.
        exe: Cow<'a, str>,
        /// Where it is, below the mount.
        cgroup: Cow<'a, str>,
        /// How many more there were at the same look, which are told nowhere else.
        others: u64,
    },
    /// The kernel had more to tell than its ring holds: reports of denials, and of what was seen and let pass, are missing from the record.
    /// Every denial was made and is counted, by reason and for each account.
    DenialsUntold {
        /// How many reports since the daemon started or the last such record.
        count: u64,
        /// How many since the kernel's tables were made. A daemon that starts says it, if there are any: what is more than in the record
        /// before was lost while none ran.
        total: u64,
    },
    /// Parts of the kernel guard were gone and are back.
    GuardMended {
        /// Programs that had not been in effect.
        missing: Vec<Cow<'a, str>>,
    },
    /// The kernel guard is not whole and cannot be mended: agents are frozen until it is.
    GuardBroken {
        /// What stands in the way.
        problem: Cow<'a, str>,
        /// Whether the agents' processes could be stopped.
        frozen: bool,
    },
    /// A network namespace that an agent is in now has a proxy.
    NamespaceOpened {
        /// Its cookie, as in the evidence of its connections.
        netns: u64,
        /// Name of the cgroup right below the agents' parent.
        account: Cow<'a, str>,
        /// The process that was seen in it.
        pid: u32,
    },
    /// Network namespaces that an agent is in have no proxy: nothing gets out of them.
    NamespaceRefused {
        /// Name of the cgroup right below the agents' parent.
        account: Cow<'a, str>,
        /// Why.
        reason: Cow<'a, str>,
        /// How many times since the last such record.
        count: u64,
    },
    /// The kernel's counts per account begin here: older connections are in none of them.
    CountingStarted {
        /// Id of the agents' parent cgroup.
        parent: u64,
    },
    /// An account's cgroup is gone; these were its last counts.
    AccountClosed {
        /// Id of the cgroup right below the agents' parent.
        account: u64,
        /// What the kernel had counted.
        #[serde(flatten)]
        counts: KernelCounts,
    },
    /// Policy (and, after a hold, people) decided a request.
    RequestDecided {
        /// The request.
        request: RequestId,
        /// The agent.
        agent: Cow<'a, AgentName>,
        /// Verified subject, if there is one.
        subject: Option<Cow<'a, str>>,
        /// Name of the resource.
        resource: Cow<'a, str>,
        /// The statement as it came; before it, marked, the texts of prepared statements that it runs by name.
        statement: Cow<'a, str>,
        /// Bound values.
        values: Cow<'a, [BoundValue]>,
        /// What policy saw.
        operation: Cow<'a, Operation>,
        /// The answer.
        decision: Cow<'a, Decision>,
        /// The ticket that held or released it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ticket: Option<TicketId>,
        /// Columns that will be masked.
        #[serde(default, skip_serializing_if = "<[MaskedColumn]>::is_empty")]
        masks: Cow<'a, [MaskedColumn]>,
    },
    /// A request ended; exactly one per request.
    RequestEnded {
        /// The request.
        request: RequestId,
        /// The agent.
        agent: Cow<'a, AgentName>,
        /// Verified subject, if there is one.
        subject: Option<Cow<'a, str>>,
        /// How.
        #[serde(flatten)]
        outcome: Cow<'a, Outcome>,
        /// What passed to the agent.
        tally: Tally,
    },
    /// A reply's columns were classified after the decision: what is masked in it.
    ReplyMasked {
        /// The request.
        request: RequestId,
        /// The agent.
        agent: Cow<'a, AgentName>,
        /// Columns that are masked.
        masks: Cow<'a, [MaskedColumn]>,
    },
    /// A ticket was opened.
    TicketOpened(TicketFacts<'a>),
    /// Somebody voted.
    TicketVoted(TicketFacts<'a>),
    /// A ticket reached a state it will not leave, or was approved.
    TicketClosed(TicketFacts<'a>),
    /// What was verified about an agent changed.
    IdentityChanged {
        /// The agent.
        agent: Cow<'a, AgentName>,
        /// What holds now.
        #[serde(flatten)]
        identity: Cow<'a, Identity>,
    },
    /// Somebody read the record.
    AuditRead {
        /// Who.
        by: Cow<'a, str>,
        /// What they asked for.
        what: Cow<'a, str>,
    },
    /// Something that should be here is not.
    Gap {
        /// First sequence number that was affected.
        from_sequence: u64,
        /// What happened.
        cause: Cow<'a, str>,
        /// How many events were refused meanwhile.
        refused: u64,
    },
}

/// What the kernel counted for one account, since the record says that counting started.
///
/// A format of the record, apart from the layout that the kernel programs use: old logs must stay readable when that changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KernelCounts {
    /// Connections sent to the proxy.
    pub redirected: u64,
    /// Connections that reached a socket of the proxy.
    pub delivered: u64,
    /// Connections that ended before.
    pub unanswered: u64,
    /// Connections to the agent's own servers, which no daemon sees.
    #[serde(default)]
    pub local: u64,
    /// Sockets, connections and datagrams denied.
    pub denied: u64,
    /// Packets dropped.
    pub dropped: u64,
}

/// What the three ticket events tell.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TicketFacts<'a> {
    /// The ticket.
    pub ticket: TicketId,
    /// Fingerprint of the request.
    pub fingerprint: Cow<'a, str>,
    /// The agent that waits.
    pub agent: Cow<'a, AgentName>,
    /// Its verified subject.
    pub subject: Option<Cow<'a, str>>,
    /// Name of the resource.
    pub resource: Cow<'a, str>,
    /// The person who acted, if one did.
    pub by: Option<Cow<'a, str>>,
    /// State of the ticket after the event.
    pub state: Cow<'a, str>,
    /// What the person wrote.
    pub reason: Option<Cow<'a, str>>,
}

/// One record as it is read back.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Record {
    /// Schema version.
    pub v: u32,
    /// Position in the log, from 1.
    pub seq: u64,
    /// When it was written.
    pub time: UnixMillis,
    /// What happened.
    #[serde(flatten)]
    pub event: Event<'static>,
    /// SHA-256 over the hash of the record before and this record's bytes, in hex.
    pub hash: String,
}
