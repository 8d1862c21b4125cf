//! Watching for network namespaces that agents are in: at the kernel's word, and by a look each second.
//!
//! When a cgroup of an agent is made, somebody is about to start something in it: the daemon then looks often for a while, so that a
//! container's first program finds the proxy there.
//! Each gets a proxy at first sight, and loses it when no agent is in it any more. What could not be had is denied by the kernel;
//! that is counted up between two looks and recorded, so that an agent cannot flood the record.
//! INVARIANT: the scopes that an earlier daemon left are gone, or have listeners again, before this one says that it is ready.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Interval, MissedTickBehavior};

use super::services::Running;
use crate::audit::Event;
use crate::intercept::{Births, InterceptError, Met, NamespaceError, Namespaces, Sight, Sights};
use crate::shutdown::Shutdown;

/// How often the processes of all agents are looked through.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often, for a while after a cgroup of an agent was made: a runtime takes tens of milliseconds from there to its program.
const LOOK_OFTEN: Duration = Duration::from_millis(10);
/// For how long.
const OFTEN_FOR: u32 = 100;

/// Refusals that are not recorded yet, by account and reason.
type Refused = BTreeMap<(String, String), u64>;

/// What tells of new namespaces.
pub(super) struct Signs {
    pub(super) sights: Sights,
    pub(super) births: Births,
}

/// Looks once, so that containers that outlived the daemon before have a proxy again, then for as long as the daemon runs.
pub(super) async fn start(
    (namespaces, signs): (&Namespaces, Signs),
    running: &Arc<Running>,
    shutdown: &Shutdown,
) -> Result<(), InterceptError> {
    let mut refused = Refused::new();
    look(namespaces, running, &mut refused).await?;
    let stale = namespaces.forget_stale()?;
    tracing::info!(found = namespaces.count(), stale, "looked for network namespaces of agents");
    let (namespaces, running) = (namespaces.clone(), Arc::clone(running));
    shutdown.spawn("namespaces", async move { watch(&namespaces, signs, &running, refused).await });
    Ok(())
}

async fn watch(namespaces: &Namespaces, mut signs: Signs, running: &Running, mut refused: Refused) {
    let mut tick = every(LOOK_EVERY);
    let mut often = every(LOOK_OFTEN);
    let mut left = 0_u32;
    loop {
        // Nothing is lost when an arm is dropped: the kernel keeps what was not taken.
        let broken = tokio::select! {
            sight = signs.sights.next() => match sight {
                Ok(sight) => {
                    if let Some(met) = meet(namespaces, sight).await {
                        note(running, met, &mut refused);
                    }
                    None
                }
                Err(error) => Some(error),
            },
            born = signs.births.next() => {
                left = OFTEN_FOR;
                born.err()
            }
            _ = often.tick(), if left > 0 => {
                left = left.saturating_sub(1);
                glance(namespaces, running, &mut refused).await
            }
            _ = tick.tick() => look(namespaces, running, &mut refused).await.err(),
        };
        if let Some(error) = broken {
            tracing::error!(%error, "new network namespaces of agents are found late");
            // Whatever is broken is not to be asked in a circle.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

async fn meet(namespaces: &Namespaces, sight: Sight) -> Option<Met> {
    let namespaces = namespaces.clone();
    match spawn_blocking(move || namespaces.meet(&sight)).await {
        Ok(met) => met,
        Err(error) => {
            tracing::error!(%error, "a network namespace was not looked at");
            None
        }
    }
}

/// Finds new namespaces.
async fn glance(namespaces: &Namespaces, running: &Running, refused: &mut Refused) -> Option<InterceptError> {
    let namespaces = namespaces.clone();
    match through(spawn_blocking(move || namespaces.glance())).await {
        Ok(met) => {
            met.into_iter().for_each(|one| note(running, one, refused));
            None
        }
        Err(error) => Some(error),
    }
}

/// Finds new namespaces, gives up those that nobody is in, and tells what could not be had.
async fn look(
    namespaces: &Namespaces,
    running: &Running,
    refused: &mut Refused,
) -> Result<(), InterceptError> {
    let namespaces = namespaces.clone();
    let met = through(spawn_blocking(move || namespaces.look())).await?;
    met.into_iter().for_each(|one| note(running, one, refused));
    for ((account, reason), count) in std::mem::take(refused) {
        tracing::warn!(
            account,
            reason,
            count,
            "network namespaces of an agent have no proxy; they stay denied"
        );
        let (account, reason) = (Cow::Owned(account), Cow::Owned(reason));
        running.note(&Event::NamespaceRefused { account, reason, count });
    }
    Ok(())
}

async fn through(looking: JoinHandle<Result<Vec<Met>, InterceptError>>) -> Result<Vec<Met>, InterceptError> {
    looking.await.map_err(|error| InterceptError::Kernel {
        action: "look through the agents' processes",
        source: std::io::Error::other(error),
    })?
}

fn note(running: &Running, met: Met, refused: &mut Refused) {
    let Met { account, pid, outcome } = met;
    match outcome {
        Ok(netns) => {
            tracing::info!(netns, account, pid, "a network namespace has a proxy now");
            running.note(&Event::NamespaceOpened { netns, account: Cow::Owned(account), pid });
        }
        // Whoever is gone or no agent needs no proxy.
        Err(error @ (NamespaceError::Process { .. } | NamespaceError::NotAnAgent { .. })) => {
            tracing::debug!(%error, pid, "a network namespace was given no proxy");
        }
        Err(error) => {
            let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            let reason = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
            let count = refused.entry((account, reason)).or_insert(0);
            *count = count.saturating_add(1);
        }
    }
}
