//! What may reach an agent's socket: nothing that nobody asked for.
//!
//! The packet guard drops an agent's answers, but a datagram needs none: without this an outsider could tell an agent what to do.
//! From another device nothing passes, and over loopback TCP alone: the proxy's answers, and whatever the packet guard lets an
//! agent answer. INVARIANT: only packets are looked at; a socket's family may say otherwise.
//! Known limit: over loopback the first segments of a TCP connection to an agent's listener do arrive; its answer does not leave.

use crate::context::Packet;
use crate::denial::{self, ALLOW};

const LOOPBACK_DEVICE: u32 = 1;
const IPPROTO_TCP: u8 = 6;
/// Up to and with the number of the protocol, in both versions.
const HEAD: usize = 10;

#[inline(always)]
pub fn packet(ctx: &Packet) -> i32 {
    if is_expected(ctx) { ALLOW } else { denial::inbound(ctx) }
}

/// Whether an agent may be told this.
#[inline(always)]
fn is_expected(ctx: &Packet) -> bool {
    ctx.device() == LOOPBACK_DEVICE && protocol(ctx) == Some(IPPROTO_TCP)
}

/// The protocol right behind the header. An IPv6 packet with more headers has another one there.
#[inline(always)]
fn protocol(ctx: &Packet) -> Option<u8> {
    let head = ctx.bytes::<HEAD>()?;
    match head[0] >> 4 {
        4 => Some(head[9]),
        6 => Some(head[6]),
        _ => None,
    }
}
