//! How a denial is told: counted for its account, reported once, and answered with the verdict that denies.
//!
//! INVARIANT: telling never changes the verdict; every function here returns [`DENY`], but for what was only seen.
//! All of it is marked as rare, so that the compiler keeps it out of the way of what is let through: between two connections the
//! daemon works, and each line of code that they touch must come from memory again.

use core::intrinsics::cold_path;

use proxy_common::event::{DenyEvent, Reason};
use proxy_common::flow::Stamp;

use crate::account;
use crate::context::{Address, Caller, Packet, SockOption, Socket, boot_ns};
use crate::maps::{self, Tally};

pub const ALLOW: i32 = 1;
pub const DENY: i32 = 0;
const AF_UNIX: u32 = 1;
const IPPROTO_TCP: u32 = 6;

/// An address that may not be used, by a socket of the agents: the sentinel, which comes last, need not tell it again.
#[inline(always)]
pub fn address(ctx: &Address, address: [u32; 4], reason: Reason) -> i32 {
    cold_path();
    maps::mark_met(ctx.socket());
    foreign(ctx, address, reason)
}

/// An address that may not be used, by a socket that was made elsewhere.
#[inline(always)]
pub fn foreign(ctx: &Address, address: [u32; 4], reason: Reason) -> i32 {
    cold_path();
    let event = by_caller(reason);
    told(&DenyEvent {
        address,
        protocol: ctx.protocol(),
        port: u32::from(ctx.port()),
        family: ctx.family(),
        ..event
    })
}

/// A socket that may not be made or bound.
#[inline(always)]
pub fn socket(ctx: &Socket, reason: Reason, port: u32) -> i32 {
    cold_path();
    let event = by_caller(reason);
    told(&DenyEvent { protocol: ctx.protocol(), port, family: ctx.family(), ..event })
}

/// A socket option. Not counted for the account: kernels before 6.0 cannot say whose it is.
#[inline(always)]
pub fn option(ctx: &SockOption) -> i32 {
    cold_path();
    let event = event(&Caller::without_pid(), 0, Reason::SocketOption);
    maps::report(&DenyEvent { protocol: ctx.level() as u32, port: ctx.name() as u32, ..event });
    DENY
}

/// A unix socket that may not be used by name.
#[inline(always)]
pub fn local(reason: Reason) -> i32 {
    told(&DenyEvent { family: AF_UNIX, ..by_caller(reason) })
}

/// A unix socket that is used by name and may be: reported, not denied, and not counted for its account.
#[inline(always)]
pub fn seen_local(caller: &Caller) {
    let account = account::of_caller().account();
    maps::report(&DenyEvent { family: AF_UNIX, ..event(caller, account, Reason::UnixSocketSeen) });
}

/// A connection that starts and cannot be given an identity: the daemon will reset it. Told of whoever connected.
#[inline(always)]
pub fn flow(stamp: &Stamp, family: u32, reason: Reason) {
    cold_path();
    maps::tally(stamp.account, Tally::Denied);
    let caller = Caller { cgroup_id: stamp.cgroup_id, pid: stamp.pid, uid: stamp.uid };
    maps::report(&DenyEvent {
        address: stamp.address,
        protocol: IPPROTO_TCP,
        port: u32::from(stamp.port),
        family,
        ..event(&caller, stamp.account, reason)
    });
}

/// A packet that came in unasked. Counted and not reported: whoever sends it is outside, and could fill the ring so that what
/// agents do is lost.
#[inline(always)]
pub fn inbound(ctx: &Packet) -> i32 {
    cold_path();
    maps::tally(account::of_socket(ctx), Tally::Dropped);
    maps::count(Reason::Unsolicited as u32);
    DENY
}

/// A packet. It may leave in any process's time: whoever runs now proves nothing.
#[inline(always)]
pub fn packet(ctx: &Packet, reason: Reason) -> i32 {
    cold_path();
    let account = account::of_socket(ctx);
    maps::tally(account, Tally::Dropped);
    maps::report(&event(&Caller { cgroup_id: ctx.cgroup_id(), pid: 0, uid: u32::MAX }, account, reason));
    DENY
}

#[inline(always)]
fn told(event: &DenyEvent) -> i32 {
    cold_path();
    maps::tally(event.account, Tally::Denied);
    maps::report(event);
    DENY
}

#[inline(always)]
fn by_caller(reason: Reason) -> DenyEvent {
    event(&Caller::now(), account::of_caller().account(), reason)
}

#[inline(always)]
fn event(caller: &Caller, account: u64, reason: Reason) -> DenyEvent {
    DenyEvent {
        at_ns: boot_ns(),
        cgroup_id: caller.cgroup_id,
        account,
        address: [0; 4],
        pid: caller.pid,
        uid: caller.uid,
        reason: reason as u32,
        protocol: 0,
        port: 0,
        family: 0,
    }
}
