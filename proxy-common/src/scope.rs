//! What is captured: one record per network namespace that has a proxy in it.
//!
//! INVARIANT: a namespace without a record has no proxy, and every program denies there.

/// Key of the record that says which ports are the proxy's in every namespace, known or not: no agent may bind them anywhere.
/// No namespace has this cookie.
pub const EVERYWHERE: u64 = 0;

/// The proxy of one network namespace; the key is the namespace's cookie.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// TCP port on 127.0.0.1 and ::1, host order; never 0.
    pub proxy_port: u16,
    /// First of the resolver's UDP ports on the same addresses, host order; 0 where there is no resolver.
    pub dns_port: u16,
    /// Zero.
    pub reserved: [u16; 2],
}

const _: () = assert!(size_of::<Scope>() == 8);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya hands map values out only for types that carry this marker.
unsafe impl aya::Pod for Scope {}
