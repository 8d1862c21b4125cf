//! Whose account something is, and whether it may act at all.
//!
//! An account is the cgroup right below the agents' parent. Programs run for the socket's cgroup, accounts are the calling
//! process's: a socket that was handed on is charged to whoever uses it.
//! INVARIANT: a quarantined cgroup covers everything below it, to the depth that is looked at here.
//! Known limit: quarantine is looked for on the four levels below the parent.

use core::intrinsics::cold_path;

use proxy_common::account::{Parent, QUARANTINE_LEVELS};

use crate::context::{Packet, current_ancestor};
use crate::maps;

/// Whether an account may act.
pub enum Standing {
    /// It may.
    Free(u64),
    /// It, or a cgroup between it and the process, is quarantined.
    Quarantined(u64),
}

impl Standing {
    #[inline(always)]
    pub fn account(&self) -> u64 {
        match self {
            Self::Free(account) | Self::Quarantined(account) => *account,
        }
    }
}

/// The standing of the process that runs now.
#[inline(always)]
pub fn of_caller() -> Standing {
    let parent = maps::parent();
    let account = current_ancestor(parent.level + 1);
    standing(&parent, account, current_ancestor)
}

/// The standing of a packet: of the cgroup its socket was made in, and of the account that connected it.
#[inline(always)]
pub fn of_packet(ctx: &Packet, account: u64) -> Standing {
    let parent = maps::parent();
    if maps::any_quarantined(&parent) && maps::is_quarantined(account) {
        return Standing::Quarantined(account);
    }
    standing(&parent, account, |level| ctx.ancestor(level))
}

#[inline(always)]
fn standing(parent: &Parent, account: u64, ancestor: impl Fn(u32) -> u64) -> Standing {
    if !maps::any_quarantined(parent) {
        return Standing::Free(account);
    }
    cold_path();
    let mut below = 1;
    while below <= QUARANTINE_LEVELS {
        if maps::is_quarantined(ancestor(parent.level + below)) {
            return Standing::Quarantined(account);
        }
        below += 1;
    }
    Standing::Free(account)
}

/// The account that a packet's socket was made in.
#[inline(always)]
pub fn of_socket(ctx: &Packet) -> u64 {
    ctx.ancestor(maps::parent().level + 1)
}
