//! Background work: names, tickets, runs, identities, kernel denials.
//!
//! Each is one task that ends with the daemon. Kernel denials are counted up for a second before they are recorded, so that an
//! agent cannot flood the record.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::broadcast::error::RecvError;

use super::services::Running;
use super::{DaemonError, leaving, stopping, watching};
use crate::audit::Event;
use crate::dns::Names;
use crate::identity::Resolver;
use crate::intercept::{DenyEvent, Events, Guard, Reason};
use crate::model::AgentName;
use crate::session::{LOOKUP_EVERY, Sessions};
use crate::shutdown::Phase;

/// How often tickets are looked through for expiry.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// How long kernel denials are counted up before they are recorded.
const DENIALS_EVERY: Duration = Duration::from_secs(1);
/// Different denials kept apart within that time; the rest is counted as one.
const DENIALS_MAX: usize = 256;

/// How often what is left of runs that are over is cleared away.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How often cgroups that a quarantined agent got meanwhile are stopped too.
const QUARANTINE_EVERY: Duration = Duration::from_secs(1);

/// Starts all of them.
pub(super) fn start(
    sessions: &Sessions,
    running: &Arc<Running>,
    (guard, names): (&Guard, &Names),
) -> Result<(), DaemonError> {
    let shutdown = &sessions.shutdown;
    let targets = sessions.targets.clone();
    shutdown.spawn("names", async move {
        loop {
            tokio::time::sleep(LOOKUP_EVERY).await;
            targets.look_up().await;
        }
    });
    let queue = running.queue.clone();
    shutdown.spawn("tickets", async move {
        loop {
            tokio::time::sleep(EXPIRE_EVERY).await;
            let expired = queue.expire().len();
            if expired > 0 {
                tracing::info!(expired, "tickets expired");
            }
        }
    });
    let (sweeper, clock) = (Arc::clone(running), sessions.clock.clone());
    shutdown.spawn("runs", async move {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let before = UNIX_EPOCH + Duration::from_millis(clock.now().0).saturating_sub(SWEEP_EVERY);
            match sweeper.guard.sweep_runs(before) {
                Ok(gone) => tracing::debug!(gone, "swept the cgroups of runs that are over"),
                Err(error) => tracing::warn!(%error, "the cgroups of runs that are over stay"),
            }
            sweeper.resolver.forget_steps();
        }
    });
    let stopped = Arc::clone(running);
    shutdown.spawn("quarantine", async move {
        loop {
            if let Err(error) = stopping::keep_up(&stopped) {
                tracing::error!(%error, "the kernel does not know who is quarantined; the daemon turns them away");
            }
            tokio::time::sleep(QUARANTINE_EVERY).await;
        }
    });
    let watched = Arc::clone(running);
    shutdown.spawn("guard", async move { watching::guard(&watched).await });
    let followed = Arc::clone(running);
    shutdown.spawn("leaving", async move { leaving::watch(&followed).await });
    let counted = Arc::clone(running);
    shutdown.spawn("accounts", async move { watching::accounts(&counted).await });
    let events = guard.events()?;
    let (recorder, names) = (Arc::clone(running), names.clone());
    shutdown.spawn("kernel-denials", async move { denials(events, &recorder, &names).await });
    let recorder = Arc::clone(running);
    let end = shutdown.clone();
    shutdown.spawn("identities", async move {
        tokio::select! {
            biased;
            () = end.reached(Phase::Draining) => {}
            () = identities(&recorder) => {}
        }
    });
    Ok(())
}

async fn identities(running: &Running) {
    let mut changes = running.resolver.subscribe();
    loop {
        match changes.recv().await {
            Ok(change) => running.note(&Event::IdentityChanged {
                agent: Cow::Borrowed(&change.principal.agent),
                identity: Cow::Borrowed(&change.principal.identity),
            }),
            Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "changes of identity were not recorded"),
            Err(RecvError::Closed) => return,
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Denial {
    reason: &'static str,
    denied: bool,
    cgroup_id: u64,
    pid: u32,
    uid: u32,
    destination: String,
}

async fn denials(mut events: Events, running: &Running, names: &Names) {
    let mut counted: HashMap<Denial, Count> = HashMap::new();
    let mut untold = Untold(None);
    let mut flush = tokio::time::interval(DENIALS_EVERY);
    loop {
        // Nothing is lost when either arm is dropped: counts live outside, the ring keeps its records.
        tokio::select! {
            event = events.next() => match event {
                Ok(event) if chooses(&event, names) => tracing::debug!(?event, "an address was tried, not used"),
                Ok(event) => count(&mut counted, &event, &running.resolver),
                Err(error) => {
                    tracing::error!(%error, "kernel denials cannot be read");
                    return;
                }
            },
            _ = flush.tick() => {
                for (denial, count) in counted.drain() {
                    running.note(&told(denial, count));
                }
                if let Some(total) = lost(running)
                    && let Some(count) = untold.more(total)
                {
                    tracing::warn!(count, total, "the kernel had more to tell than its ring holds");
                    running.note(&Event::DenialsUntold { count, total });
                }
            }
        }
    }
}

/// How many reports found the ring full, as the kernel counts them; `None` while its table cannot be read.
fn lost(running: &Running) -> Option<u64> {
    running.guard.counters().ok().map(|counters| counters.events_lost)
}

/// The kernel's count as it stands in the record; none before this daemon's first look.
struct Untold(Option<u64>);

impl Untold {
    /// How many more there are, if that is to be told: at first, whether there are any at all, and then each time there are more. A count
    /// that went back is that of new tables.
    fn more(&mut self, lost: u64) -> Option<u64> {
        match self.0.replace(lost) {
            None => (lost > 0).then_some(0),
            Some(before) => Some(lost.checked_sub(before).unwrap_or(lost)).filter(|more| *more > 0),
        }
    }
}

/// The C library connects a datagram socket to every address it was told, to see which is best, and sends nothing. Each is
/// refused, and counted by the kernel; as records they would be all that an auditor sees.
fn chooses(event: &DenyEvent, names: &Names) -> bool {
    event.reason == Reason::ConnectProtocol
        && event.destination.is_some_and(|address| names.was_told(event.cgroup_id, address.ip()))
}

fn told(denial: Denial, Count { agent, count }: Count) -> Event<'static> {
    let Denial { reason, denied, cgroup_id, pid, uid, destination } = denial;
    let (reason, agent) = (Cow::Borrowed(reason), agent.map(Cow::Owned));
    if denied {
        let destination = Cow::Owned(destination);
        Event::KernelDenied { agent, cgroup_id, pid, uid, destination, reason, count }
    } else {
        Event::KernelSaw { agent, cgroup_id, pid, uid, what: reason, count }
    }
}

/// How often, and whose.
struct Count {
    agent: Option<AgentName>,
    count: u64,
}

fn count(counted: &mut HashMap<Denial, Count>, event: &DenyEvent, resolver: &Resolver) {
    let mut denial = Denial {
        reason: event.reason.as_str(),
        denied: event.reason.denies(),
        cgroup_id: event.cgroup_id,
        pid: event.pid.unwrap_or(0),
        uid: event.uid.unwrap_or(u32::MAX),
        destination: event.destination.map_or_else(String::new, |address| address.to_string()),
    };
    if counted.len() >= DENIALS_MAX && !counted.contains_key(&denial) {
        denial = Denial {
            reason: "many",
            denied: denial.denied,
            cgroup_id: event.cgroup_id,
            pid: 0,
            uid: u32::MAX,
            destination: String::new(),
        };
    }
    let (cgroup, pid) = (denial.cgroup_id, denial.pid);
    // Looked up while the process may still be there, and once for each kind of denial only.
    let fresh = || Count { agent: resolver.agent_near(cgroup, event.account, pid), count: 0 };
    let entry = counted.entry(denial).or_insert_with(fresh);
    entry.count = entry.count.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::Untold;

    #[test]
    fn what_could_not_be_told_is_told_once_and_new_tables_count_from_nothing() {
        let mut untold = Untold(None);
        let told = [5, 5, 7, 7, 2, 0].map(|lost| untold.more(lost));
        assert_eq!(told, [Some(0), None, Some(2), None, Some(2), None]);
        assert_eq!(Untold(None).more(0), None);
    }
}
