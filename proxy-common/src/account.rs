//! What the kernel programs know of the agents' parent, and what they count for each agent below it.
//!
//! An account is a cgroup right below the parent: the folder of an agent's runs, or a unit. Root alone can make one, so no
//! agent can make accounts. Counts only grow, from the moment the table is made; [`Account::filed`] alone goes up and down.
//! INVARIANT: a connection has an identity for the proxy only after it was counted, so what the daemon records can be checked
//! against the kernel.

/// The agents' parent cgroup, as the programs must know it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Its id.
    pub cgroup_id: u64,
    /// Its depth below the root of the tree, which has depth 0.
    pub level: u32,
    /// [`ANY_QUARANTINED`], [`SENTINEL`], [`DRAINING`], [`UNIX_DENIED`] and [`UNIX_DENIED_TO_ROOT`].
    pub flags: u32,
    /// The packet's mark (`SO_MARK`) on questions that the packet guard let through to the resolver. A number of this guard's own,
    /// never zero: only who has rights over the network can put it on a packet.
    pub seal: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Bits of a [`Parent::seal`]. Without the two by which Kubernetes tells the host's filter to drop or to masquerade a packet:
/// `0x8000` and `0x4000`.
pub const SEAL_BITS: u32 = 0xffff_3fff;

/// Some cgroup is quarantined: packets must be checked too.
pub const ANY_QUARANTINED: u32 = 1;
/// Levels below the parent on which a quarantined cgroup is looked for: `match` globs can name deeper ones than runs and units have.
pub const QUARANTINE_LEVELS: u32 = 4;
/// Tasks below the parent may not use sockets that were made outside.
pub const SENTINEL: u32 = 2;
/// The daemon is about to stop: what is on its way to it may arrive, nothing new may start.
pub const DRAINING: u32 = 4;
/// Unix sockets are not to be used by name; without this they are only seen.
pub const UNIX_DENIED: u32 = 8;
/// Nor by processes whose real user is root.
pub const UNIX_DENIED_TO_ROOT: u32 = 16;

/// Counts of one account; the key is the cgroup's id.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Connections sent to the proxy.
    pub redirected: u64,
    /// Connections whose stamp reached a socket of the proxy.
    pub delivered: u64,
    /// Connections that ended before the proxy had them: nobody listened, or the agent gave up.
    pub unanswered: u64,
    /// Sockets, connections and datagrams denied.
    pub denied: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Connections to servers of the account itself, which do not go to the proxy.
    pub local: u64,
    /// Datagrams that went to the resolver. Apart from connections, whose counts must add up.
    pub datagrams: u64,
    /// Connections on their way to the proxy now: entries of this account in the table of flows. Below zero, which is as good as
    /// zero, only where an account was forgotten while some were under way.
    pub filed: i64,
}

impl Account {
    /// That of an account that did nothing yet.
    pub const NONE: Self = Self {
        redirected: 0,
        delivered: 0,
        unanswered: 0,
        denied: 0,
        dropped: 0,
        local: 0,
        datagrams: 0,
        filed: 0,
    };
}

const _: () = assert!(size_of::<Parent>() == 24);
const _: () = assert!(size_of::<Account>() == 64);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya hands map values out only for types that carry this marker.
unsafe impl aya::Pod for Parent {}

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya hands map values out only for types that carry this marker.
unsafe impl aya::Pod for Account {}
