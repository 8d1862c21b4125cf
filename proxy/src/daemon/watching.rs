//! Watching the kernel guard: whole or mended twice a second, and the kernel's counts kept so that the record can be checked.
//!
//! Somebody with the right to may detach a program, unlink a pin, unmount the file system of pins, or remove the agents' cgroup
//! and make it anew. Each is put back at the next look and recorded. INVARIANT: while the guard cannot be made whole, the agents'
//! processes are frozen: they do nothing at all rather than something unseen.
//! Known limit: between two looks a detached program is missed for up to half a second.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};

use super::mending::{self, Found, LOOK_EVERY, State};
use super::services::Running;
use crate::audit::{Event, KernelCounts};
use crate::intercept::{AccountCounts, InterceptError};

/// How often accounts whose cgroup is gone are closed: they must look the same twice.
const CLOSE_EVERY: Duration = Duration::from_secs(20);

/// Reads the guard back for as long as the daemon runs.
pub(super) async fn guard(running: &Running) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut state = State::Whole;
    loop {
        look.tick().await;
        state = mending::look(&running.guard, state, |found| note(running, found));
        if running.guard.lost_tables() {
            let problem =
                "the guard process made the kernel's tables anew; this daemon ends, to be started again";
            tracing::error!("{problem}");
            running.note(&Event::GuardBroken { problem: Cow::Borrowed(problem), frozen: false });
            // As if told to: sessions are let go in order.
            if let Err(error) = raise(Signal::SIGTERM) {
                tracing::error!(%error, "this daemon serves nobody and does not end");
            }
            return;
        }
    }
}

/// Puts into the record what a look found: that the guard was mended, and once that it cannot be.
fn note(running: &Running, found: Found) {
    match found {
        Found::Nothing | Found::Broken { before: State::Broken, .. } => {}
        Found::Mended { missing, stuck: _ } => {
            running.note(&Event::GuardMended { missing: missing.into_iter().map(Cow::Borrowed).collect() });
        }
        Found::Broken { problem, frozen, before: State::Whole } => {
            running.note(&Event::GuardBroken { problem: Cow::Owned(problem), frozen });
        }
    }
}

/// Records the last counts of accounts whose cgroup is gone, and forgets them in the kernel.
pub(super) async fn accounts(running: &Running) {
    let mut look = tokio::time::interval(CLOSE_EVERY);
    let mut before = BTreeMap::new();
    loop {
        look.tick().await;
        match close(running, &before) {
            Ok(now) => before = now,
            Err(error) => {
                tracing::warn!(%error, "accounts of agents that are gone stay in the kernel's table")
            }
        }
    }
}

/// Closes what has not changed since `before`; returns the counts of those that are gone and still stay.
fn close(
    running: &Running,
    before: &BTreeMap<u64, KernelCounts>,
) -> Result<BTreeMap<u64, KernelCounts>, InterceptError> {
    let alive: Vec<u64> = running.guard.parent().children()?.into_iter().map(|(_, id)| id).collect();
    let mut table = running.guard.accounts()?;
    let unrecorded = running.gate.not_yet_recorded();
    let mut staying = BTreeMap::new();
    for account in table.counts()? {
        let (id, counts) = (account.cgroup_id, recorded(&account));
        if alive.contains(&id) {
            continue;
        }
        if before.get(&id) != Some(&counts) || unrecorded.contains_key(&id) {
            staying.insert(id, counts);
            continue;
        }
        // Written before it is forgotten: found twice it counts once, lost it would be a difference.
        let closed = running.appender.append(&Event::AccountClosed { account: id, counts });
        match closed {
            Ok(_) => table.forget(id)?,
            Err(error) => {
                tracing::warn!(%error, account = id, "an account's last counts are not recorded yet");
                staying.insert(id, counts);
            }
        }
    }
    Ok(staying)
}

/// The kernel's counts as the record knows them; the one place where the two meet. The types stay apart because the kernel's
/// changes with each layout of the tables, and the record's is read for as long as there are logs.
#[must_use]
pub fn recorded(account: &AccountCounts) -> KernelCounts {
    KernelCounts {
        redirected: account.redirected,
        delivered: account.delivered,
        unanswered: account.unanswered,
        local: account.local,
        denied: account.denied,
        dropped: account.dropped,
    }
}
