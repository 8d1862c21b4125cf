//! Interception: the kernel programs, the listener they feed, and the agents' cgroups.
//!
//! Every connection of a process below the agents' parent cgroup arrives at [`Listener`] with its [`Origin`];
//! everything else such a process tries to put on the wire is dropped by the kernel. The programs stay when the
//! daemon dies: without a listener agents get "connection refused", never a way around.
//! Refuses: a connection without a stamp (reset), a proxy port the kernel could hand to somebody else, a pin
//! directory that is not on bpffs. Loop exclusion is by cgroup: the daemon must live outside the agents' parent.
//! Questions to resolvers arrive at [`NamePort`] likewise; every other datagram is denied.
//! Other network namespaces than the host's get listeners of their own as soon as an agent is seen in them.
//! Known limits: the first connection in a new namespace may come too early and is denied; a process that others moved into the
//! tree keeps the connections it had (start agents with `chaperone run`); unix sockets are seen by name only, and only by kernels
//! from 6.7 on.
//! This is the only room with unsafe code, all of it in `sys`.

mod accounts;
mod births;
mod btf;
mod cgroup;
mod changes;
mod datagrams;
mod destination;
mod entry;
mod error;
mod events;
mod fitting;
mod follow;
mod guard;
mod jails;
mod listener;
mod maps;
mod namespaces;
mod optional;
mod pins;
mod programs;
mod security;
mod sights;
mod sys;
mod unreachable;
mod uplinks;

use std::path::PathBuf;

pub use accounts::{AccountCounts, Accounts};
pub use births::Births;
pub use cgroup::{Cgroup, Tree};
pub use changes::Changes;
pub use datagrams::{Datagram, DatagramError, NamePort};
pub use destination::Origin;
pub use error::InterceptError;
pub use events::{Counters, DenyEvent, Events};
pub use follow::{Hello, Line, Word, voice_of};
pub use guard::{Guard, counts, effective, scopes, uninstall};
pub use jails::note_jail;
pub use listener::{Connection, Listener};
pub use namespaces::{Askers, AskersElsewhere, Elsewhere, Met, NamespaceError, Namespaces, PER_ACCOUNT_MAX};
pub use optional::Feature;
pub use programs::ProgramStatus;
pub use proxy_common::ABI as LAYOUT;
pub use proxy_common::event::Reason;
pub use proxy_common::names::SLOTS;
pub use security::{NAMES as SECURITY_PROGRAMS, secured};
pub use sights::{Sight, Sights};
pub use sys::raw;
pub use sys::{
    close_descriptors_on_exec, make_mounts_read_only, process_handle, set_window_size, window_size,
};
pub use unreachable::Unreachable;
pub use uplinks::{Uplink, uplinks};

/// Whether agents are kept from sockets that were opened before they were agents, or that others passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sentinel {
    /// Yes: every process's `connect` and `sendmsg` on the host runs one comparison more.
    On,
    /// No: nothing is attached to the root of the tree.
    Off,
}

/// What becomes of an agent's unix sockets when it connects them, or sends on them, by name. Pairs and sockets that are open
/// already have no name and are not concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixSockets {
    /// Nothing is attached.
    Open,
    /// Each use is recorded.
    Audited,
    /// Each use is denied, where the kernel can, but to runs in a jail and to what runs as root; those are recorded. A jail says
    /// itself which sockets there are, and a service manager speaks to the journal from within a unit's cgroup before it becomes
    /// the agent.
    DeniedUnlessRoot,
    /// Each use is denied; where the kernel cannot, there is no guard.
    Denied,
}

/// What may reach an agent's sockets from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    /// Whatever the network brings.
    Open,
    /// Nothing that nobody asked for.
    Closed,
}

/// Whether programs on the kernel's security hooks see what no other hook does, where the kernel takes such programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityHooks {
    /// Yes: every process on the host runs one comparison more where it makes or uses a socket, or looks into another process.
    On,
    /// No: nothing is attached to them.
    Off,
}

/// What is captured and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The agents' parent cgroup below the cgroup2 mount, `agents.slice`.
    pub parent: PathBuf,
    /// Directory on bpffs for pins, `/sys/fs/bpf/chaperone`.
    pub pin_dir: PathBuf,
    /// TCP port of the proxy on 127.0.0.1 and ::1; below the ephemeral range.
    pub port: u16,
    /// First of the [`SLOTS`] UDP ports of the resolver on the same addresses; `None` denies all datagrams.
    pub dns_port: Option<u16>,
    /// Whether programs on the root of the tree keep agents from sockets that were made outside.
    pub sentinel: Sentinel,
    /// What becomes of unix sockets.
    pub unix_sockets: UnixSockets,
    /// What may reach agents.
    pub ingress: Ingress,
    /// Whether security hooks are used.
    pub security_hooks: SecurityHooks,
}

impl Settings {
    /// Every port that belongs to the daemon.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        let slots = u16::try_from(SLOTS).unwrap_or(u16::MAX);
        let resolver = self.dns_port.map(|first| first..first.saturating_add(slots));
        std::iter::once(self.port).chain(resolver.into_iter().flatten())
    }
}
