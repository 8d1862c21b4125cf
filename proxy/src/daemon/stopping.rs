//! Quarantine: one agent stopped in the kernel, in its sessions, and if asked for in its processes.
//!
//! Order: the list on disk, the kernel, open sessions, processes, sockets: what still waits on one is told that it was aborted.
//! INVARIANT: the kernel's table names, at the latest a second after a cgroup is made, every cgroup of every agent on the list, and
//! no other.
//! Known limit: a cgroup that is younger than that is stopped by the daemon alone, which turns its connections away.

use std::collections::BTreeSet;

use super::services::Running;
use crate::abort::{self, AbortError, Count};
use crate::control::Services as _;
use crate::intercept::{Cgroup, InterceptError};
use crate::model::AgentName;
use crate::session::QUARANTINED;

/// Stops an agent.
pub(super) fn quarantine(
    running: &Running,
    agent: &AgentName,
    freeze: bool,
    by: &str,
) -> Result<String, String> {
    if !running.resolver.knows(agent) {
        return Err(format!("no agent named `{agent}` is configured"));
    }
    let listed = running.quarantine.stop(agent);
    let written = follow(running).map(drop);
    let sessions = running.registry.kill_all(agent, QUARANTINED);
    let frozen = if freeze { self::freeze(running, agent, true) } else { Ok(()) };
    let tops = running.resolver.cgroups_of(agent).into_iter().collect();
    let sockets = told(end_sockets(running, &tops));
    running.acted(by, "quarantine", &agent.0);
    let problems: Vec<String> = [
        listed.err().map(|error| format!("it is not kept over a restart: {error}")),
        written.err().map(|error| format!("the kernel does not stop it: {error}")),
        frozen.err().map(|error| format!("its processes go on: {error}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if problems.is_empty() {
        Ok(format!("agent `{agent}` is quarantined; {sessions} sessions ended, {sockets}"))
    } else {
        Err(format!("agent `{agent}` is quarantined, but {}", problems.join("; ")))
    }
}

/// Lets an agent go again.
pub(super) fn release(running: &Running, agent: &AgentName, by: &str) -> Result<String, String> {
    match running.quarantine.release(agent) {
        Ok(true) => {}
        Ok(false) => return Err(format!("agent `{agent}` is not quarantined")),
        Err(error) => return Err(format!("agent `{agent}` stays quarantined: {error}")),
    }
    running.acted(by, "release", &agent.0);
    follow(running).map(drop).map_err(|error| format!("the kernel still stops `{agent}`: {error}"))?;
    freeze(running, agent, false).map_err(|error| format!("processes of `{agent}` stay frozen: {error}"))?;
    Ok(format!("agent `{agent}` is released"))
}

/// Makes the kernel's table say what the list says; returns the cgroups that it did not name before.
fn follow(running: &Running) -> Result<BTreeSet<u64>, InterceptError> {
    let mut accounts = running.guard.accounts()?;
    let known: BTreeSet<u64> = accounts.quarantined()?.into_iter().collect();
    let agents = running.quarantine.list();
    let wanted: BTreeSet<u64> = agents.iter().flat_map(|agent| running.resolver.cgroups_of(agent)).collect();
    let (more, less): (BTreeSet<u64>, Vec<u64>) =
        (wanted.difference(&known).copied().collect(), known.difference(&wanted).copied().collect());
    if !more.is_empty() {
        accounts.quarantine(&more.iter().copied().collect::<Vec<u64>>())?;
    }
    if !less.is_empty() {
        accounts.release(&less)?;
    }
    accounts.announce()?;
    Ok(more)
}

/// Follows cgroups that quarantined agents got meanwhile, and ends what was opened in them before the kernel knew. Blocks.
pub(super) fn keep_up(running: &Running) -> Result<(), InterceptError> {
    let more = follow(running)?;
    if !more.is_empty() {
        match end_sockets(running, &more) {
            Ok(count) => tracing::info!(ended = count.ended, "ended sockets of quarantined agents"),
            Err(error) => {
                tracing::warn!(%error, "sockets of quarantined agents stay; nothing leaves on them")
            }
        }
    }
    Ok(())
}

fn end_sockets(running: &Running, tops: &BTreeSet<u64>) -> Result<Count, AbortError> {
    // The guard process may take seconds if it hangs; sessions go on meanwhile.
    tokio::task::block_in_place(|| abort::end_sockets(&running.intercept.parent, tops, &running.desk))
}

/// What became of the sockets, for the operator.
fn told(ended: Result<Count, AbortError>) -> String {
    match ended {
        Ok(Count { ended: 0, unmarked: true }) => {
            "but no sockets: this kernel does not tell whose they are; calls that wait on them go on waiting"
                .to_owned()
        }
        Ok(Count { ended, .. }) => format!("{ended} sockets ended"),
        Err(error) => format!("but not all sockets: {error}; calls that wait on them go on waiting"),
    }
}

/// Stops or continues the agent's processes, all at once, by their cgroups.
fn freeze(running: &Running, agent: &AgentName, stop: bool) -> Result<(), InterceptError> {
    let parent = running.guard.parent();
    running.resolver.cgroups_of(agent).into_iter().try_for_each(|id| {
        match Cgroup::below(&parent, id) {
            Some(cgroup) => cgroup.freeze(stop),
            // It is gone, and its processes with it.
            None => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_sockets_stay_the_operator_is_told_that_calls_go_on_waiting() {
        let absent = told(Err(AbortError::Absent { what: "end sockets" }));
        assert!(absent.contains("CONFIG_INET_DIAG_DESTROY") && absent.contains("go on waiting"), "{absent}");
        let unmarked = told(Ok(Count { ended: 0, unmarked: true }));
        assert!(unmarked.contains("go on waiting"), "{unmarked}");
        assert_eq!(told(Ok(Count { ended: 3, unmarked: false })), "3 sockets ended");
    }
}
