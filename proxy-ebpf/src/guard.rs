//! Refusals: what an agent's socket may be, may be set to, and may put on the wire.
//!
//! The packet guard is the boundary: whatever the other programs overlook (routing headers, socket options in
//! control messages, sockets made elsewhere), a packet passes only if it stays on loopback, is plain, over IPv6 comes from loopback
//! too, and is one of three: TCP of a socket with a stamp to the stamped proxy port on 127.0.0.1 or ::1; UDP of a socket that asks
//! the resolver to the resolver's ports (`names`); or TCP that `listeners` says goes to a socket of the same account.
//! INVARIANT: unknown means denied. Known limits: IPv4 options are refused altogether, so labelled networking
//! (CIPSO) on loopback does not work; servers inside an agent get no packet out to anybody else.

use proxy_common::event::Reason;
use proxy_common::flow::{DNS, PROXY, Stamp};
use proxy_common::scope::EVERYWHERE;

use crate::account::{self, Standing};
use crate::context::{Packet, SockOption, Socket};
use crate::denial::{self, ALLOW};
use crate::{listeners, maps, names, sighting};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_UDP: u32 = 17;
const IPPROTO_MPTCP: u32 = 262;
pub const LOOPBACK_DEVICE: u32 = 1;
/// The kernel hands a program at most a page of an option's value.
const OPTION_BYTES_MAX: i32 = 4096;
/// IPv4 header without options, then the ports.
const HEAD4: usize = 24;
/// IPv6 header, then the ports.
pub const HEAD6: usize = 44;

/// Stream sockets of TCP and MPTCP, datagram sockets of UDP (whose use is denied later, but for questions to resolvers); nothing else.
#[inline(always)]
pub fn socket_kind(ctx: &Socket) -> i32 {
    match (ctx.kind(), ctx.protocol()) {
        (SOCK_STREAM, IPPROTO_TCP | IPPROTO_MPTCP) | (SOCK_DGRAM, IPPROTO_UDP) => {
            sighting::note(ctx.netns_cookie());
            ALLOW
        }
        _ => denial::socket(ctx, Reason::SocketKind, 0),
    }
}

/// The proxy's ports belong to the proxy, above all while it is down, and in namespaces where it is not yet.
#[inline(always)]
pub fn bound_port(ctx: &Socket) -> i32 {
    let port = ctx.port();
    match maps::port_everywhere().or(maps::proxy_port(ctx.netns_cookie())) {
        Some(taken) if u32::from(taken) == port || names::is_ours(EVERYWHERE, port) => {
            denial::socket(ctx, Reason::ProxyPort, port)
        }
        // Without any proxy there is no port to protect, and no packet gets out.
        Some(_) | None => {
            listeners::bound(ctx);
            ALLOW
        }
    }
}

#[inline(always)]
pub fn option(ctx: &SockOption) -> i32 {
    let (level, name) = (ctx.level(), ctx.name());
    if steers(level, name) {
        return denial::option(ctx);
    }
    // A longer value would fail with EFAULT unless the kernel is told to take the caller's bytes.
    if ctx.length() > OPTION_BYTES_MAX {
        ctx.keep_original();
    }
    ALLOW
}

/// Options that choose a route, a device, a mark, a foreign source or another transport; and those that join a group or change
/// what is wanted of one. The kernel announces that on the wire by itself, in packets that belong to no socket and so pass the
/// packet guard, and the numbers in them are the caller's choice.
#[inline(always)]
fn steers(level: i32, name: i32) -> bool {
    match level {
        // SOL_IP: HDRINCL, OPTIONS, FREEBIND, IPSEC_POLICY, XFRM_POLICY, TRANSPARENT; ADD_MEMBERSHIP to MSFILTER, and the MCAST set.
        0 => matches!(name, 3 | 4 | 15 | 16 | 17 | 19 | 35..=48),
        // SOL_SOCKET: BINDTODEVICE, MARK, BINDTOIFINDEX.
        1 => matches!(name, 25 | 36 | 62),
        // SOL_TCP: REPAIR, REPAIR_QUEUE, REPAIR_OPTIONS, REPAIR_WINDOW, ULP.
        6 => matches!(name, 19 | 20 | 22 | 29 | 31),
        // SOL_IPV6: 2292 set, FLOWLABEL_MGR (may carry a routing header), IPSEC_POLICY, XFRM_POLICY, HDRINCL,
        // PKTINFO, HOPOPTS, RTHDRDSTOPTS, RTHDR, DSTOPTS, TRANSPARENT, FREEBIND; JOIN and LEAVE_GROUP, JOIN and LEAVE_ANYCAST, the MCAST set.
        41 => {
            matches!(name, 2..=6 | 20 | 21 | 27 | 28 | 32 | 34 | 35 | 36 | 42..=48 | 50 | 54 | 55 | 57 | 59 | 75 | 78)
        }
        _ => false,
    }
}

#[inline(always)]
pub fn packet(ctx: &Packet) -> i32 {
    match maps::mark_of(ctx.socket()) {
        Some(stamp) if stamp.kind == PROXY => stamped(ctx, stamp),
        Some(stamp) if stamp.kind == DNS => names::packet(ctx, stamp),
        mark => listeners::packet(ctx, mark),
    }
}

/// A packet of a socket that goes to the proxy.
#[inline(always)]
fn stamped(ctx: &Packet, stamp: &Stamp) -> i32 {
    if ctx.device() != LOOPBACK_DEVICE {
        return denial::packet(ctx, Reason::PacketDevice);
    }
    if !goes_to_proxy(ctx, stamp.proxy_port) {
        return denial::packet(ctx, Reason::PacketShape);
    }
    match account::of_packet(ctx, stamp.account) {
        Standing::Free(_) => ALLOW,
        Standing::Quarantined(_) => denial::packet(ctx, Reason::Quarantined),
    }
}

/// Whether an IPv6 header has `::1` at this place. The source matters as much as the destination: the kernel lets a socket send
/// from any IPv6 address, and the answer would go out to it. Over IPv4 a route from a foreign address is refused by the kernel.
#[inline(always)]
pub fn is_loopback6<const N: usize>(head: &[u8; N], at: usize) -> bool {
    head[at..at + 15].iter().all(|byte| *byte == 0) && head[at + 15] == 1
}

/// Plain TCP to the proxy. The version is read from the packet: the socket's family may say otherwise.
#[inline(always)]
fn goes_to_proxy(ctx: &Packet, proxy_port: u16) -> bool {
    let Some(first) = ctx.bytes::<1>() else { return false };
    match first[0] >> 4 {
        // Exactly five words of header: options could route the packet on.
        4 => match ctx.bytes::<HEAD4>() {
            Some(head) => {
                head[0] == 0x45
                    && u32::from(head[9]) == IPPROTO_TCP
                    && head[16] == 127
                    && head[17] == 0
                    && head[18] == 0
                    && head[19] == 1
                    && u16::from_be_bytes([head[22], head[23]]) == proxy_port
            }
            None => false,
        },
        // TCP right after the fixed header: no extension header of any kind.
        6 => match ctx.bytes::<HEAD6>() {
            Some(head) => {
                u32::from(head[6]) == IPPROTO_TCP
                    && is_loopback6(&head, 8)
                    && is_loopback6(&head, 24)
                    && u16::from_be_bytes([head[42], head[43]]) == proxy_port
            }
            None => false,
        },
        _ => false,
    }
}
