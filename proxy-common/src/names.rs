//! What the kernel notes about questions to a resolver: which resolver a socket asked, and whose a source port is.
//!
//! A socket may ask several resolvers, and expects each answer from the one it asked. So each of a socket's resolvers has a
//! slot, and each slot a port of the daemon's: the port an answer comes from names the resolver to show.
//! Addresses are IPv6 words in network order, ports in host order, as in `flow`.
//! Known limit: a ninth resolver on one socket is refused.

use crate::flow::Stamp;

/// Slots of one socket, and consecutive ports of the daemon's resolver. Clients read at most three resolvers from their
/// configuration; eight leaves room for those that try more.
pub const SLOTS: usize = 8;
/// The port of resolvers.
pub const PORT: u16 = 53;
/// How long a source port stays the last agent's: longer than a datagram waits for the daemon to read it.
pub const FLOW_FRESH_NS: u64 = 2_000_000_000;

/// The resolvers one socket asked, by slot.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolvers {
    /// Their addresses.
    pub addresses: [[u32; 4]; SLOTS],
    /// How many slots are taken.
    pub taken: u32,
    /// Zero.
    pub reserved: u32,
}

/// One end of a conversation with the resolver, as the daemon sees it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatagramKey {
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Source address.
    pub source: [u32; 4],
    /// Source port.
    pub port: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// Whose a source port is.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatagramFlow {
    /// The stamp of the socket behind it.
    pub stamp: Stamp,
    /// When its last datagram left: nanoseconds since boot, sleep included.
    pub seen_ns: u64,
}

const _: () = assert!(size_of::<Resolvers>() == 136);
const _: () = assert!(size_of::<DatagramKey>() == 32);
const _: () = assert!(size_of::<DatagramFlow>() == 80);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya hands map values out only for types that carry this marker.
unsafe impl aya::Pod for DatagramKey {}

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya hands map values out only for types that carry this marker.
unsafe impl aya::Pod for DatagramFlow {}
