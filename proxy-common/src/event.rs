//! What the kernel programs tell the daemon: why something was denied, and how often.
//!
//! One [`DenyEvent`] per denial goes into a ring; one counter per [`Reason`], and a few more, count everything
//! even when the ring is full. Neither takes part in a verdict. A few reasons are no denials: what was seen and let pass.

/// Why the kernel denied something. The number is the index of its counter.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A socket that is neither TCP, MPTCP nor UDP.
    SocketKind = 0,
    /// `connect()` of something that is not TCP, UDP included.
    ConnectProtocol = 1,
    /// A destination without a port.
    PortZero = 2,
    /// A network namespace without a proxy.
    NamespaceUnknown = 3,
    /// A socket bound to a network device, or to an IPv6 address that is not loopback.
    DeviceBound = 4,
    /// The kernel gave no room for the stamp.
    StampFailed = 5,
    /// A datagram that is no question to a resolver.
    Datagram = 6,
    /// A socket option that steers packets.
    SocketOption = 7,
    /// An attempt to take the proxy's port.
    ProxyPort = 8,
    /// A packet of a socket without a stamp.
    PacketUnstamped = 9,
    /// A packet that would have left by another device than loopback.
    PacketDevice = 10,
    /// A packet to another address or port than the proxy's, or with routing options.
    PacketShape = 11,
    /// A socket that was made outside the agents' cgroups, or before its process was put there.
    SocketForeign = 12,
    /// The agent is quarantined.
    Quarantined = 13,
    /// The kernel had no room to count for this agent.
    AccountFull = 14,
    /// The daemon is stopping.
    Draining = 15,
    /// The daemon could not reach the destination a moment ago.
    Unreachable = 16,
    /// A packet over loopback to a socket that is not of the sender's account.
    PacketForeign = 17,
    /// A unix socket, by name.
    UnixSocket = 18,
    /// A unix socket, by name, that was let pass: seen, not denied.
    UnixSocketSeen = 19,
    /// A packet to an agent's socket that nobody asked for.
    Unsolicited = 20,
    /// A ninth resolver on one socket.
    ResolverSlots = 21,
    /// A datagram from a source port that another agent used a moment ago.
    FlowShared = 22,
    /// The account has as many connections on their way to the proxy as it may have at a time.
    FlowQuota = 23,
    /// The kernel had no room to note a connection's identity.
    FlowsFull = 24,
    /// An attempt to take hold of a process that is not of the agent's account.
    Process = 25,
    /// An attempt to manage kernel programs.
    Programs = 26,
}

impl Reason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 27] = [
        Self::SocketKind,
        Self::ConnectProtocol,
        Self::PortZero,
        Self::NamespaceUnknown,
        Self::DeviceBound,
        Self::StampFailed,
        Self::Datagram,
        Self::SocketOption,
        Self::ProxyPort,
        Self::PacketUnstamped,
        Self::PacketDevice,
        Self::PacketShape,
        Self::SocketForeign,
        Self::Quarantined,
        Self::AccountFull,
        Self::Draining,
        Self::Unreachable,
        Self::PacketForeign,
        Self::UnixSocket,
        Self::UnixSocketSeen,
        Self::Unsolicited,
        Self::ResolverSlots,
        Self::FlowShared,
        Self::FlowQuota,
        Self::FlowsFull,
        Self::Process,
        Self::Programs,
    ];

    /// The word for it in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SocketKind => "socket-kind",
            Self::ConnectProtocol => "connect-protocol",
            Self::PortZero => "port-zero",
            Self::NamespaceUnknown => "namespace-unknown",
            Self::DeviceBound => "device-bound",
            Self::StampFailed => "stamp-failed",
            Self::Datagram => "datagram",
            Self::SocketOption => "socket-option",
            Self::ProxyPort => "proxy-port",
            Self::PacketUnstamped => "packet-unstamped",
            Self::PacketDevice => "packet-device",
            Self::PacketShape => "packet-shape",
            Self::SocketForeign => "socket-foreign",
            Self::Quarantined => "quarantined",
            Self::AccountFull => "account-full",
            Self::Draining => "draining",
            Self::Unreachable => "unreachable",
            Self::PacketForeign => "packet-foreign",
            Self::UnixSocket => "unix-socket",
            Self::UnixSocketSeen => "unix-socket-seen",
            Self::Unsolicited => "unsolicited",
            Self::ResolverSlots => "resolver-slots",
            Self::FlowShared => "flow-shared",
            Self::FlowQuota => "flow-quota",
            Self::FlowsFull => "flows-full",
            Self::Process => "process",
            Self::Programs => "kernel-programs",
        }
    }

    /// Whether something was denied, and not only seen.
    #[must_use]
    pub const fn denies(self) -> bool {
        !matches!(self, Self::UnixSocketSeen)
    }

    /// The reason with this number.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u32 == code)
    }
}

/// Counters that are not a denial's; they follow the reasons.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Connections sent to the proxy.
    Redirected = 32,
    /// Connections whose stamp reached the proxy's socket.
    Delivered = 33,
    /// Stamps that could not be carried: the proxy will refuse the connection.
    FlowLost = 34,
    /// Deny events that found the ring full.
    EventLost = 35,
}

/// Number of counters.
pub const COUNTERS: usize = 36;

/// One denial.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenyEvent {
    /// When: nanoseconds since boot, sleep included.
    pub at_ns: u64,
    /// Cgroup of the calling process; for packets, of the socket.
    pub cgroup_id: u64,
    /// The cgroup right below the agents' parent that it is charged to; 0 where the kernel cannot say. It is there when that of the
    /// run is gone.
    pub account: u64,
    /// Destination as IPv6 words in network order; zero where there is none.
    pub address: [u32; 4],
    /// Process id; 0 where the kernel cannot say.
    pub pid: u32,
    /// User id; `u32::MAX` where the kernel cannot say.
    pub uid: u32,
    /// The [`Reason`]'s number.
    pub reason: u32,
    /// IP protocol of the socket; for socket options, the level.
    pub protocol: u32,
    /// Port, host order; for socket options, the option's number.
    pub port: u32,
    /// Address family.
    pub family: u32,
}

const _: () = assert!(size_of::<DenyEvent>() == 64);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya hands ring records out only for types that carry this marker.
unsafe impl aya::Pod for DenyEvent {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_number_of_its_place_and_leaves_room_for_the_counters() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert_eq!(Reason::from_code(reason as u32), Some(reason));
        }
        assert!(Reason::ALL.len() <= Counter::Redirected as usize);
        assert_eq!(Counter::EventLost as usize + 1, COUNTERS);
        assert_eq!(Reason::from_code(99), None);
    }
}
