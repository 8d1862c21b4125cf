//! Unix sockets: connected to, or sent to, by name. Denied or seen, as the operator says.
//!
//! The kernel tells the socket and the process, not the name; and no name would do: a relative path, a link and a path by
//! descriptor name the same socket. So all of them are denied, or none. Pairs and inherited sockets have no name and pass.
//! Where root closed a jail around a run, the jail decides which there are. Quarantine denies them whatever the operator says. Minimum kernel 6.7.
//! Known limit: who is behind the name is not known here, so an agent's talk to itself by name is denied as well.

use proxy_common::event::Reason;

use crate::account::{self, Standing};
use crate::context::{Address, Caller, current_ancestor};
use crate::denial::{self, ALLOW};
use crate::maps;

/// How deep below the parent a run's cgroup lies: below the folder of its agent.
const RUN: u32 = 2;

/// For a socket that was made by an agent.
#[inline(always)]
pub fn by_name(ctx: &Address) -> i32 {
    // The sentinel at the root comes after this, and need not look at the socket again.
    maps::mark_met(ctx.socket());
    verdict()
}

/// For the process that runs now.
#[inline(always)]
pub fn verdict() -> i32 {
    if let Standing::Quarantined(_) = account::of_caller() {
        return denial::local(Reason::Quarantined);
    }
    let caller = Caller::now();
    let parent = maps::parent();
    if maps::denies_local(&parent, caller.uid, current_ancestor(parent.level + RUN)) {
        return denial::local(Reason::UnixSocket);
    }
    denial::seen_local(&caller);
    ALLOW
}
