//! Unix sockets by who made the other end: no path, link or mount makes an outsider's socket the agent's own.
//!
//! The operator's word holds as for the programs that see names only: denied to all, or to whoever is not root. A jail has its
//! own answer to paths and none to abstract names, which are denied in it. INVARIANT: what the account itself made passes.
//! Known limit: a socket without a name, one end of a pair, was handed over by whoever made it, and passes.

use proxy_common::account::{UNIX_DENIED, UNIX_DENIED_TO_ROOT};

use crate::agent::{Agent, caller};
use crate::kernel::{self, Name};
use crate::{maps, rules};

/// The other end is about to be reached.
#[inline(always)]
pub fn peer(sock: u64) -> i32 {
    let Some(agent) = Agent::now() else { return rules::ALLOW };
    if agent.is_quarantined() {
        return rules::quarantined(&agent);
    }
    if kernel::maker(sock, &agent.parent) == Some(agent.account) {
        return rules::ALLOW;
    }
    let denied = match kernel::name(sock) {
        // Nothing can be read of it.
        _ if sock == 0 => denies(&agent),
        Name::None => false,
        Name::Abstract => denies_abstract(&agent),
        Name::Path => denies(&agent),
    };
    if denied { rules::unix(&agent) } else { rules::ALLOW }
}

/// A unix socket of others arrives.
#[inline(always)]
pub fn handed(agent: &Agent) -> i32 {
    if denies(agent) { rules::unix(agent) } else { rules::ALLOW }
}

#[inline(always)]
fn denies(agent: &Agent) -> bool {
    if agent.parent.flags & UNIX_DENIED_TO_ROOT != 0 {
        return true;
    }
    let (_, _, uid) = caller();
    uid != 0 && agent.parent.flags & UNIX_DENIED != 0 && !maps::is_jailed(agent.run())
}

#[inline(always)]
fn denies_abstract(agent: &Agent) -> bool {
    let jailed = agent.parent.flags & UNIX_DENIED != 0 && maps::is_jailed(agent.run());
    jailed || denies(agent)
}
