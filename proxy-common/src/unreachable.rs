//! Destinations that the daemon could not reach a moment ago.
//!
//! The agent's connection to the proxy always succeeds, so the first connection to a dead destination is reset. The daemon notes
//! why, for a moment: whoever of the same account connects there again gets the error that it would have got without a proxy.
//! INVARIANT: an entry only ever refuses; a missing one lets nothing through that would not be sent to the proxy anyway.

/// Whose destination.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DestinationKey {
    /// The account whose connection failed: others learn nothing from it.
    pub account: u64,
    /// The address dialled, as IPv6 words in network order.
    pub address: [u32; 4],
    /// The port dialled, host order.
    pub port: u32,
    /// Zero.
    pub reserved: u32,
}

/// What the kernel said to the daemon, and until when that is told again.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreachable {
    /// Nanoseconds since boot, sleep included.
    pub until_ns: u64,
    /// The error's number, positive.
    pub errno: u32,
    /// Zero.
    pub reserved: u32,
}

/// Largest number that the kernel takes for an error.
pub const ERRNO_MAX: u32 = 4095;

const _: () = assert!(size_of::<DestinationKey>() == 32);
const _: () = assert!(size_of::<Unreachable>() == 16);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya hands map values out only for types that carry this marker.
unsafe impl aya::Pod for DestinationKey {}

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya hands map values out only for types that carry this marker.
unsafe impl aya::Pod for Unreachable {}
