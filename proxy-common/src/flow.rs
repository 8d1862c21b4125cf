//! What the kernel notes about a connection: the stamp on a socket, and the key that carries it across.
//!
//! A stamp is written on the agent's socket at `connect()`, travels through a map keyed by the flow's
//! addresses, and ends as socket storage on the socket the daemon accepts. Addresses are IPv6 words in network
//! order; IPv4 is written as `::ffff:a.b.c.d`. Ports are in host order.
//! Known limit: the stamp names the process that called `connect()`; the descriptor may be passed on later.

/// What the kernel knew when an agent's process called `connect()`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Address the process asked for, before it was rewritten.
    pub address: [u32; 4],
    /// Cookie of the network namespace of the socket.
    pub netns_cookie: u64,
    /// Cookie of the agent's socket: tells two users of one flow key apart.
    pub socket_cookie: u64,
    /// Cgroup of the calling process.
    pub cgroup_id: u64,
    /// Account of the calling process: its ancestor right below the agents' parent.
    pub account: u64,
    /// When `connect()` was called: nanoseconds since boot, sleep included.
    pub connected_ns: u64,
    /// Process id (thread group) of the caller.
    pub pid: u32,
    /// User id of the caller.
    pub uid: u32,
    /// Port the process asked for.
    pub port: u16,
    /// Port of the proxy the socket was sent to: the only port it may talk to. For [`DNS`] the first of the resolver's ports.
    pub proxy_port: u16,
    /// What the socket may do: [`PROXY`], [`LOCAL`], [`BOUND`], [`DNS`], or nothing.
    pub kind: u32,
}

impl Stamp {
    /// Lets nothing through.
    pub const NONE: Self = Self {
        address: [0; 4],
        netns_cookie: 0,
        socket_cookie: 0,
        cgroup_id: 0,
        account: 0,
        connected_ns: 0,
        pid: 0,
        uid: 0,
        port: 0,
        proxy_port: 0,
        kind: 0,
    };
}

/// [`Stamp::kind`] of a socket that goes to the proxy. Zero is the kind of a socket that was met and refused.
pub const PROXY: u32 = 1;
/// [`Stamp::kind`] of a socket that connects to a server of its own account; only account and port are filled in.
pub const LOCAL: u32 = 2;
/// [`Stamp::kind`] of a socket that a process of the account bound, and may listen on; only the account is filled in.
pub const BOUND: u32 = 3;
/// [`Stamp::kind`] of a datagram socket that asks the resolver.
pub const DNS: u32 = 4;

/// One TCP flow as seen from the agent's side.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowKey {
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Address of the agent's end.
    pub source: [u32; 4],
    /// Address of the proxy's end.
    pub destination: [u32; 4],
    /// Port of the agent's end.
    pub source_port: u16,
    /// Port of the proxy's end.
    pub destination_port: u16,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Stamp>() == 72);
const _: () = assert!(size_of::<FlowKey>() == 48);

/// The IPv4 address `word` (network order) as IPv6 words.
#[must_use]
#[inline]
pub const fn mapped(word: u32) -> [u32; 4] {
    [0, 0, MAPPED_PREFIX, word]
}

/// Whether the words are an IPv4 address in IPv6 form.
#[must_use]
#[inline]
pub const fn is_mapped(words: [u32; 4]) -> bool {
    let [a, b, c, _] = words;
    a == 0 && b == 0 && c == MAPPED_PREFIX
}

/// Third word of `::ffff:0:0/96`, network order.
pub const MAPPED_PREFIX: u32 = 0x0000_ffff_u32.to_be();
/// `127.0.0.1`, network order.
pub const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();
/// `::1`, network order.
pub const LOOPBACK6: [u32; 4] = [0, 0, 0, 1_u32.to_be()];

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya hands map values out only for types that carry this marker.
unsafe impl aya::Pod for Stamp {}

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya hands map values out only for types that carry this marker.
unsafe impl aya::Pod for FlowKey {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_recognised_in_its_ipv6_form() {
        assert!(is_mapped(mapped(LOOPBACK4)));
        assert!(!is_mapped(LOOPBACK6));
    }
}
