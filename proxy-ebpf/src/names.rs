//! Names: questions to any resolver go to the daemon's, and answers come back as from the one that was asked.
//!
//! `connect` and `sendmsg` to UDP port 53 give the socket a stamp and the resolver a slot, and rewrite the address to the
//! daemon's port of that slot. The packet guard files whose the source port is, which is not known before. `recvmsg` and
//! `getpeername` show the resolver of the slot. Every other datagram is refused, with EPERM: clients of HTTP/3 then take
//! TCP at once.
//! INVARIANT: a datagram passes only plain, on loopback, to the resolver's ports of now, and only after its source port was
//! filed under its socket. Decided by address and port, never by the family the caller wrote.
//! Known limit: a source port that another agent used within the last two seconds is refused.

use proxy_common::event::Reason;
use proxy_common::flow::{DNS, LOOPBACK4, LOOPBACK6, Stamp, is_mapped, mapped};
use proxy_common::names::{DatagramFlow, DatagramKey, FLOW_FRESH_NS, PORT, Resolvers, SLOTS};

use crate::account::{self, Standing};
use crate::context::{Address, Packet, boot_ns};
use crate::denial::{self, ALLOW};
use crate::guard::{HEAD6, IPPROTO_UDP, LOOPBACK_DEVICE, is_loopback6};
use crate::maps::{self, Tally};
use crate::redirect;
use crate::stamping::{Asked, Asker};

/// IPv4 header without options, then the ports.
const HEAD4: usize = 24;
/// "More fragments" and the offset.
const FRAGMENT: [u8; 2] = [0x3f, 0xff];

#[inline(always)]
pub fn connect4(ctx: &Address) -> i32 {
    match ctx.protocol() {
        IPPROTO_UDP => ask4(ctx, Reason::ConnectProtocol),
        _ => redirect::connect4(ctx),
    }
}

#[inline(always)]
pub fn connect6(ctx: &Address) -> i32 {
    match ctx.protocol() {
        IPPROTO_UDP => ask6(ctx, Reason::ConnectProtocol),
        _ => redirect::connect6(ctx),
    }
}

#[inline(always)]
pub fn datagram4(ctx: &Address) -> i32 {
    // Neither address nor port: a connected socket with a control message. Where it may go was decided when it connected.
    if ctx.port() == 0 && ctx.ip4() == 0 && maps::asker_of(ctx.socket()).is_some() {
        return ALLOW;
    }
    // An IPv6 socket that is connected over IPv4: the kernel itself names the address that was rewritten at `connect`.
    if ctx.ip4() == LOOPBACK4 && asked(ctx).is_some() {
        return ALLOW;
    }
    ask4(ctx, Reason::Datagram)
}

#[inline(always)]
pub fn datagram6(ctx: &Address) -> i32 {
    if ctx.port() == 0 && ctx.ip6() == [0; 4] && maps::asker_of(ctx.socket()).is_some() {
        return ALLOW;
    }
    ask6(ctx, Reason::Datagram)
}

#[inline(always)]
fn ask4(ctx: &Address, otherwise: Reason) -> i32 {
    let address = mapped(ctx.ip4());
    match admit(ctx, address, otherwise) {
        Ok(port) => {
            ctx.set_ip4(LOOPBACK4);
            ctx.set_port(port);
            ALLOW
        }
        Err(reason) => denial::address(ctx, address, reason),
    }
}

#[inline(always)]
fn ask6(ctx: &Address, otherwise: Reason) -> i32 {
    let address = ctx.ip6();
    match admit(ctx, address, otherwise) {
        Ok(port) => {
            // A socket that speaks IPv4 in IPv6 form must stay with IPv4.
            ctx.set_ip6(if is_mapped(address) { mapped(LOOPBACK4) } else { LOOPBACK6 });
            ctx.set_port(port);
            ALLOW
        }
        Err(reason) => denial::address(ctx, address, reason),
    }
}

/// Stamps the socket; the port of the resolver it may go to.
#[inline(always)]
fn admit(ctx: &Address, address: [u32; 4], otherwise: Reason) -> Result<u16, Reason> {
    let port = ctx.port();
    if port != PORT {
        return Err(otherwise);
    }
    let netns_cookie = ctx.netns_cookie();
    let first = maps::dns_port(netns_cookie).ok_or(otherwise)?;
    let asker = Asker::of(ctx, address)?;
    let resolvers = maps::resolvers_for(asker.socket).ok_or(Reason::StampFailed)?;
    let slot = slot(resolvers, address).ok_or(Reason::ResolverSlots)?;
    asker.stamped(ctx, Asked { address, port, netns_cookie, proxy_port: first, kind: DNS })?;
    Ok(first + slot)
}

/// The slot of a resolver, taken if it has none.
#[inline(always)]
fn slot(resolvers: &mut Resolvers, address: [u32; 4]) -> Option<u16> {
    let taken = resolvers.taken;
    let mut index = 0;
    while index < SLOTS {
        if index as u32 >= taken {
            resolvers.addresses[index] = address;
            resolvers.taken = index as u32 + 1;
            return Some(index as u16);
        }
        if resolvers.addresses[index] == address {
            return Some(index as u16);
        }
        index += 1;
    }
    None
}

/// Shows the resolver that was asked instead of the daemon's.
#[inline(always)]
pub fn sender4(ctx: &Address) {
    // Anybody may have the same port at another address of loopback.
    if ctx.ip4() == LOOPBACK4
        && let Some(address) = asked(ctx)
        && is_mapped(address)
    {
        let [_, _, _, word] = address;
        ctx.set_ip4(word);
        ctx.set_port(PORT);
    }
}

/// Shows the resolver that was asked instead of the daemon's.
#[inline(always)]
pub fn sender6(ctx: &Address) {
    let from = ctx.ip6();
    if (from == LOOPBACK6 || from == mapped(LOOPBACK4))
        && let Some(address) = asked(ctx)
    {
        ctx.set_ip6(address);
        ctx.set_port(PORT);
    }
}

#[inline(always)]
pub fn peer4(ctx: &Address) {
    match maps::asker_of(ctx.socket()) {
        Some(_) => sender4(ctx),
        None => redirect::peer4(ctx),
    }
}

#[inline(always)]
pub fn peer6(ctx: &Address) {
    match maps::asker_of(ctx.socket()) {
        Some(_) => sender6(ctx),
        None => redirect::peer6(ctx),
    }
}

/// The resolver behind the port in `ctx`, if it is one of the daemon's.
#[inline(always)]
fn asked(ctx: &Address) -> Option<[u32; 4]> {
    let socket = ctx.socket();
    let stamp = maps::asker_of(socket)?;
    let resolvers = maps::resolvers_of(socket)?;
    let slot = usize::from(ctx.port().wrapping_sub(stamp.proxy_port));
    let mut index = 0;
    while index < SLOTS {
        if index == slot && (index as u32) < resolvers.taken {
            return Some(resolvers.addresses[index]);
        }
        index += 1;
    }
    None
}

/// Whether a port is one of the resolver's.
#[inline(always)]
pub fn is_ours(netns_cookie: u64, port: u32) -> bool {
    match maps::dns_port(netns_cookie) {
        Some(first) => port.wrapping_sub(u32::from(first)) < SLOTS as u32,
        None => false,
    }
}

/// A packet of a socket that asks the resolver.
#[inline(always)]
pub fn packet(ctx: &Packet, stamp: &Stamp) -> i32 {
    if ctx.device() != LOOPBACK_DEVICE {
        return denial::packet(ctx, Reason::PacketDevice);
    }
    let Some(key) = to_resolver(ctx, stamp.netns_cookie) else {
        return denial::packet(ctx, Reason::PacketShape);
    };
    if let Standing::Quarantined(_) = account::of_packet(ctx, stamp.account) {
        return denial::packet(ctx, Reason::Quarantined);
    }
    if let Err(reason) = file(&key, stamp) {
        return denial::packet(ctx, reason);
    }
    if !maps::tally(stamp.account, Tally::Datagrams) {
        return denial::packet(ctx, Reason::AccountFull);
    }
    // Whoever takes the source port afterwards can send from it too, but not this.
    ctx.seal(maps::parent().seal);
    ALLOW
}

/// Notes that the source port is this socket's.
#[inline(always)]
fn file(key: &DatagramKey, stamp: &Stamp) -> Result<(), Reason> {
    let now = boot_ns();
    if let Some(known) = maps::datagram_flow(key)
        && known.stamp.socket_cookie != stamp.socket_cookie
        && known.stamp.account != stamp.account
        && now.wrapping_sub(known.seen_ns) < FLOW_FRESH_NS
    {
        // The daemon may not have read the other's datagram yet; it would take it for this agent's.
        return Err(Reason::FlowShared);
    }
    if maps::put_datagram_flow(key, &DatagramFlow { stamp: *stamp, seen_ns: now }) {
        Ok(())
    } else {
        Err(Reason::StampFailed)
    }
}

/// The source of a packet that is plain UDP to the resolver. The version is read from the packet: the socket's family may
/// say otherwise.
#[inline(always)]
fn to_resolver(ctx: &Packet, netns_cookie: u64) -> Option<DatagramKey> {
    let first = ctx.bytes::<1>()?;
    let (source, port, target) = match first[0] >> 4 {
        // Exactly five words of header: options could route the packet on.
        4 => {
            let head = ctx.bytes::<HEAD4>()?;
            let whole = head[6] & FRAGMENT[0] == 0 && head[7] & FRAGMENT[1] == 0;
            let local = head[16] == 127 && head[17] == 0 && head[18] == 0 && head[19] == 1;
            if head[0] != 0x45 || u32::from(head[9]) != IPPROTO_UDP || !whole || !local {
                return None;
            }
            let source = mapped(word(&[head[12], head[13], head[14], head[15]]));
            (source, [head[20], head[21]], [head[22], head[23]])
        }
        // UDP right after the fixed header: no extension header of any kind, so no fragment either.
        6 => {
            let head = ctx.bytes::<HEAD6>()?;
            // From loopback too: the answer goes to the source, wherever that is.
            let local = is_loopback6(&head, 8) && is_loopback6(&head, 24);
            if u32::from(head[6]) != IPPROTO_UDP || !local {
                return None;
            }
            (LOOPBACK6, [head[40], head[41]], [head[42], head[43]])
        }
        _ => return None,
    };
    // The ports of now: a socket that was stamped before the daemon moved must not reach who has them today.
    if !is_ours(netns_cookie, u32::from(u16::from_be_bytes(target))) {
        return None;
    }
    Some(DatagramKey { netns_cookie, source, port: u16::from_be_bytes(port), reserved: [0; 3] })
}

/// Four bytes of a packet as a word in network order.
#[inline(always)]
fn word(bytes: &[u8; 4]) -> u32 {
    u32::from_ne_bytes(*bytes)
}
