//! What may reach an agent's socket: nothing that nobody asked for.
//!
//! The packet guard drops an agent's answers, but a datagram needs none: without this an outsider could tell an agent what to do.
//! From another device nothing passes, and over loopback TCP, and UDP from the resolver's own addresses and ports: the answers of the proxy, and
//! whatever the packet guard lets an agent answer. INVARIANT: only packets are looked at; a socket's family may say otherwise.
//! Known limit: over loopback the first segments of a TCP connection to an agent's listener do arrive; its answer does not leave.

use proxy_common::scope::EVERYWHERE;

use crate::context::Packet;
use crate::denial::{self, ALLOW};
use crate::guard::is_loopback6;
use crate::names;

const LOOPBACK_DEVICE: u32 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// IPv4 header without options, then the port of the sender.
const HEAD4: usize = 22;
/// IPv6 header, then the port of the sender.
const HEAD6: usize = 42;

#[inline(always)]
pub fn packet(ctx: &Packet) -> i32 {
    if is_expected(ctx) { ALLOW } else { denial::inbound(ctx) }
}

/// Whether an agent may be told this.
#[inline(always)]
fn is_expected(ctx: &Packet) -> bool {
    if ctx.device() != LOOPBACK_DEVICE {
        return false;
    }
    match sender(ctx) {
        Some(Sender { protocol: IPPROTO_TCP, .. }) => true,
        // Anybody may have these ports at another address of loopback; the daemon has them at its own.
        Some(Sender { protocol: IPPROTO_UDP, own: true, port }) => names::is_ours(EVERYWHERE, port),
        _ => false,
    }
}

/// What a packet says of whom it comes from.
struct Sender {
    protocol: u8,
    /// Whether the address is 127.0.0.1 or ::1.
    own: bool,
    port: u32,
}

/// The protocol right behind the header, and the port it comes from. An IPv6 packet with more headers has another protocol there,
/// and an IPv4 packet with options has no port where this looks for one.
#[inline(always)]
fn sender(ctx: &Packet) -> Option<Sender> {
    let first = ctx.bytes::<1>()?;
    match first[0] >> 4 {
        4 => {
            let head = ctx.bytes::<HEAD4>()?;
            let own = head[12] == 127 && head[13] == 0 && head[14] == 0 && head[15] == 1;
            let port = u32::from(u16::from_be_bytes([head[20], head[21]]));
            Some(Sender { protocol: head[9], own, port })
        }
        6 => {
            let head = ctx.bytes::<HEAD6>()?;
            let port = u32::from(u16::from_be_bytes([head[40], head[41]]));
            Some(Sender { protocol: head[6], own: is_loopback6(&head, 8), port })
        }
        _ => None,
    }
}
