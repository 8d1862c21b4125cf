//! Redirection: stamp the agent's socket, send it to the proxy, carry the stamp to the proxy's socket.
//!
//! Path of one connection: `connect` stamps and rewrites; `agent_flow` files the stamp under the flow's
//! addresses once the source port is known; `accepted` moves it to the proxy's new socket and deletes the entry.
//! INVARIANT: a connection is rewritten only after its stamp is stored; whatever fails denies the connection. One that starts is
//! counted for its account as redirected, and later as delivered or unanswered; each entry of the table is counted as filed.
//! Loopback destinations are captured like all others, the proxy's own port included: the daemon refuses that one. Only what goes
//! to a server of the caller's own account keeps its address; `listeners` says why that is safe.

use proxy_common::event::{Counter, Reason};
use proxy_common::flow::{FlowKey, LOCAL, LOOPBACK4, LOOPBACK6, PROXY, Stamp, is_mapped, mapped};

use crate::context::{Address, Operation};
use crate::denial::{self, ALLOW};
use crate::maps::{self, Tally};
use crate::stamping::{Asked, Asker};
use crate::{listeners, sighting, unreachable};

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const TCP_CLOSE: u32 = 7;
const OP_CONNECT: u32 = 3;
const OP_PASSIVE_ESTABLISHED: u32 = 5;
const OP_STATE: u32 = 10;
const WATCH_STATE: u32 = 1 << 2;

#[inline(always)]
pub fn connect4(ctx: &Address) -> i32 {
    let address = mapped(ctx.ip4());
    match admit(ctx, address) {
        Ok(Way::Proxy(port)) => {
            ctx.set_ip4(LOOPBACK4);
            ctx.set_port(port);
            ALLOW
        }
        Ok(Way::Local) => ALLOW,
        Err(reason) => denial::address(ctx, address, reason),
    }
}

#[inline(always)]
pub fn connect6(ctx: &Address) -> i32 {
    let address = ctx.ip6();
    match admit(ctx, address) {
        Ok(Way::Local) => ALLOW,
        Ok(Way::Proxy(port)) => {
            // A socket that speaks IPv4 in IPv6 form must stay with IPv4.
            let proxy = if is_mapped(address) { mapped(LOOPBACK4) } else { LOOPBACK6 };
            ctx.set_ip6(proxy);
            ctx.set_port(port);
            ALLOW
        }
        Err(reason) => denial::address(ctx, address, reason),
    }
}

/// Where a connection goes.
enum Way {
    /// To the proxy, on this port.
    Proxy(u16),
    /// Where it asked to go: to a server of its own account.
    Local,
}

/// Stamps the socket and says where it goes.
#[inline(always)]
fn admit(ctx: &Address, address: [u32; 4]) -> Result<Way, Reason> {
    if ctx.protocol() != IPPROTO_TCP {
        return Err(Reason::ConnectProtocol);
    }
    let port = ctx.port();
    if port == 0 {
        return Err(Reason::PortZero);
    }
    let netns_cookie = ctx.netns_cookie();
    let Some(proxy_port) = maps::proxy_port(netns_cookie) else {
        sighting::note(netns_cookie);
        return Err(Reason::NamespaceUnknown);
    };
    let asker = Asker::of(ctx, address)?;
    let account = asker.account;
    if listeners::is_own(ctx, address, port, account) {
        let stamp = Stamp { account, port, kind: LOCAL, ..Stamp::NONE };
        if !maps::tally(account, Tally::Local) {
            return Err(Reason::AccountFull);
        }
        return if maps::put_stamp(asker.socket, &stamp) { Ok(Way::Local) } else { Err(Reason::StampFailed) };
    }
    if unreachable::is_unreachable(account, address, port) {
        return Err(Reason::Unreachable);
    }
    if maps::is_draining(&maps::parent()) {
        return Err(Reason::Draining);
    }
    // It is counted when it starts, which not all do. What cannot be counted cannot be checked against the record.
    let counts = maps::counts(account).ok_or(Reason::AccountFull)?;
    if counts.is_at_quota() {
        return Err(Reason::FlowQuota);
    }
    asker.stamped(ctx, Asked { address, port, netns_cookie, proxy_port, kind: PROXY })?;
    Ok(Way::Proxy(proxy_port))
}

/// Shows the destination the agent asked for.
#[inline(always)]
pub fn peer4(ctx: &Address) {
    if let Some(stamp) = maps::stamp_of(ctx.socket())
        && ctx.port() == stamp.proxy_port
        && is_mapped(stamp.address)
    {
        let [_, _, _, word] = stamp.address;
        ctx.set_ip4(word);
        ctx.set_port(stamp.port);
    }
}

/// Shows the destination the agent asked for.
#[inline(always)]
pub fn peer6(ctx: &Address) {
    if let Some(stamp) = maps::stamp_of(ctx.socket())
        && ctx.port() == stamp.proxy_port
    {
        ctx.set_ip6(stamp.address);
        ctx.set_port(stamp.port);
    }
}

/// The agent's side of a flow: file the stamp when the connection starts, clean up when it ends early.
#[inline(always)]
pub fn agent_flow(ctx: &Operation) {
    let code = ctx.code();
    if code == OP_CONNECT {
        let Some(stamp) = maps::stamp_of(ctx.socket()) else { return };
        if let Err(reason) = file(ctx, stamp) {
            maps::count(Counter::FlowLost as u32);
            denial::flow(stamp, ctx.family(), reason);
        }
    } else if code == OP_STATE && ctx.state() == TCP_CLOSE {
        let key = agent_key(ctx);
        if let Some(stamp) = maps::flow(&key)
            && stamp.socket_cookie == ctx.socket_cookie()
        {
            let account = stamp.account;
            if maps::drop_flow(&key) {
                maps::flow_ended(account, Tally::Unanswered);
            }
        }
    }
}

/// Counts a connection and files its stamp. What is not filed arrives without an identity, and the daemon resets it.
#[inline(always)]
fn file(ctx: &Operation, stamp: &Stamp) -> Result<(), Reason> {
    let counts = maps::counts(stamp.account).ok_or(Reason::AccountFull)?;
    counts.add(Tally::Redirected);
    maps::count(Counter::Redirected as u32);
    if !counts.take_place() {
        counts.add(Tally::Unanswered);
        return Err(Reason::FlowQuota);
    }
    // An entry that nobody would clean up could be met by a later flow with the same key.
    if ctx.watch_state(WATCH_STATE) && maps::put_flow(&agent_key(ctx), stamp) {
        return Ok(());
    }
    counts.give_back();
    counts.add(Tally::Unanswered);
    Err(Reason::FlowsFull)
}

/// The proxy's side of a flow: the new socket takes the stamp over, once.
#[inline(always)]
pub fn accepted(ctx: &Operation) {
    if ctx.code() != OP_PASSIVE_ESTABLISHED {
        return;
    }
    let Some(stamp) = maps::take_flow(&proxy_key(ctx)) else { return };
    let (counter, tally) = if maps::put_stamp(ctx.socket(), &stamp) {
        (Counter::Delivered, Tally::Delivered)
    } else {
        (Counter::FlowLost, Tally::Unanswered)
    };
    maps::count(counter as u32);
    maps::flow_ended(stamp.account, tally);
}

#[inline(always)]
fn agent_key(ctx: &Operation) -> FlowKey {
    let (local, remote) = ends(ctx);
    FlowKey {
        netns_cookie: ctx.netns_cookie(),
        source: local,
        destination: remote,
        source_port: ctx.local_port(),
        destination_port: ctx.remote_port(),
        reserved: 0,
    }
}

#[inline(always)]
fn proxy_key(ctx: &Operation) -> FlowKey {
    let (local, remote) = ends(ctx);
    FlowKey {
        netns_cookie: ctx.netns_cookie(),
        source: remote,
        destination: local,
        source_port: ctx.remote_port(),
        destination_port: ctx.local_port(),
        reserved: 0,
    }
}

/// Local and remote address; IPv4 in its IPv6 form, so that both sides of a flow build the same key.
/// All fields are read before the choice: reads at the same place of two branches would be merged into one at a
/// variable offset, which the verifier refuses.
#[inline(always)]
fn ends(ctx: &Operation) -> ([u32; 4], [u32; 4]) {
    let four = (mapped(ctx.local_ip4()), mapped(ctx.remote_ip4()));
    let six = (ctx.local_ip6(), ctx.remote_ip6());
    if ctx.family() == AF_INET { four } else { six }
}
