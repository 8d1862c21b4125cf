//! The sentinel at the root of the tree: no process below the agents' parent uses a socket that was made outside.
//!
//! The other programs belong to the socket's cgroup, which is the one it was made in. A socket that was opened before its
//! process became an agent, or that an outsider passed on, never meets them; it meets these, which look at the process.
//! Everybody else's connections pass after one comparison.
//! INVARIANT: denies only processes below the parent. Known limit: a socket that is already connected sends without asking.

use proxy_common::event::Reason;
use proxy_common::flow::mapped;

use crate::context::{Address, current_ancestor};
use crate::denial::{self, ALLOW};
use crate::{local, maps};

#[inline(always)]
pub fn address4(ctx: &Address) -> i32 {
    if may_pass(ctx) { ALLOW } else { denial::foreign(ctx, mapped(ctx.ip4()), Reason::SocketForeign) }
}

#[inline(always)]
pub fn address6(ctx: &Address) -> i32 {
    if may_pass(ctx) { ALLOW } else { denial::foreign(ctx, ctx.ip6(), Reason::SocketForeign) }
}

/// A unix socket that was made outside is used by name: as one that was made inside.
#[inline(always)]
pub fn local(ctx: &Address) -> i32 {
    if may_pass(ctx) { ALLOW } else { local::verdict() }
}

#[inline(always)]
fn may_pass(ctx: &Address) -> bool {
    let parent = maps::parent();
    if !maps::watches_sockets(&parent) || current_ancestor(parent.level) != parent.cgroup_id {
        return true;
    }
    // The programs below ran first, and marked every socket they met, let through or not.
    maps::is_met(ctx.socket())
}
