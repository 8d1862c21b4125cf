//! The sentinel at the root of the tree: no process below the agents' parent uses a socket that was made outside.
//!
//! The other programs belong to the socket's cgroup, which is the one it was made in. A socket that was opened before its
//! process became an agent, or that an outsider passed on, never meets them; it meets these, which look at the process.
//! Everybody else's connections pass after one comparison.
//! INVARIANT: denies only processes below the parent. Known limit: a socket that is already connected sends without asking.

use proxy_common::event::{DenyEvent, Reason};
use proxy_common::flow::mapped;

use crate::account;
use crate::context::{Address, Caller, boot_ns, current_ancestor};
use crate::maps::{self, Tally};

const ALLOW: i32 = 1;
const DENY: i32 = 0;

#[inline(always)]
pub fn address4(ctx: &Address) -> i32 {
    if may_pass(ctx) { ALLOW } else { deny(ctx, mapped(ctx.ip4())) }
}

#[inline(always)]
pub fn address6(ctx: &Address) -> i32 {
    if may_pass(ctx) { ALLOW } else { deny(ctx, ctx.ip6()) }
}

#[inline(always)]
fn may_pass(ctx: &Address) -> bool {
    let parent = maps::parent();
    if !maps::watches_sockets(&parent) || current_ancestor(parent.level) != parent.cgroup_id {
        return true;
    }
    // The programs below ran first, and stamped what they let through.
    maps::stamp_of(ctx.socket()).is_some()
}

#[inline(always)]
fn deny(ctx: &Address, address: [u32; 4]) -> i32 {
    let caller = Caller::now();
    maps::tally(account::of_caller().account(), Tally::Denied);
    maps::report(&DenyEvent {
        at_ns: boot_ns(),
        cgroup_id: caller.cgroup_id,
        address,
        pid: caller.pid,
        uid: caller.uid,
        reason: Reason::SocketForeign as u32,
        protocol: ctx.protocol(),
        port: u32::from(ctx.port()),
        family: ctx.family(),
    });
    DENY
}
