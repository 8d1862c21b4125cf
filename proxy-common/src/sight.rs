//! The kernel's word on a network namespace that has no proxy yet: an agent's process is in it.
//!
//! Told when such a process makes a socket, so that the proxy may be there before the socket is used, and again when it is
//! used too early. Advisory: no verdict depends on it, and a flood of namespaces displaces marks, never scopes.

/// One sighting.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// When: nanoseconds since boot, sleep included.
    pub at_ns: u64,
    /// Cookie of the namespace.
    pub netns_cookie: u64,
    /// Process id (thread group) of the caller.
    pub pid: u32,
    /// The calling thread: it may be in another namespace than the rest of its process.
    pub tid: u32,
}

/// A namespace is not told again for so long: an agent that asks in a circle is not to fill the ring.
pub const TOLD_AGAIN_NS: u64 = 100_000_000;

const _: () = assert!(size_of::<Sight>() == 24);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya hands ring records out only for types that carry this marker.
unsafe impl aya::Pod for Sight {}
