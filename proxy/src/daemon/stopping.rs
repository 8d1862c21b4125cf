//! Quarantine: one agent stopped in the kernel, in its sessions, and if asked for in its processes.
//!
//! Order: the list on disk, the kernel, open sessions, processes. INVARIANT: the kernel's table names, at the latest a second
//! after a cgroup is made, every cgroup of every agent on the list, and no other.
//! Known limit: a cgroup that is younger than that is stopped by the daemon alone, which turns its connections away.

use std::collections::BTreeSet;

use super::services::Running;
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
    let written = follow(running);
    let sessions = running.registry.kill_all(agent, QUARANTINED);
    let frozen = if freeze { self::freeze(running, agent, true) } else { Ok(()) };
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
        Ok(format!("agent `{agent}` is quarantined; {sessions} sessions ended"))
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
    follow(running).map_err(|error| format!("the kernel still stops `{agent}`: {error}"))?;
    freeze(running, agent, false).map_err(|error| format!("processes of `{agent}` stay frozen: {error}"))?;
    Ok(format!("agent `{agent}` is released"))
}

/// Makes the kernel's table say what the list says.
pub(super) fn follow(running: &Running) -> Result<(), InterceptError> {
    let mut accounts = running.guard.accounts()?;
    let known: BTreeSet<u64> = accounts.quarantined()?.into_iter().collect();
    let agents = running.quarantine.list();
    let wanted: BTreeSet<u64> = agents.iter().flat_map(|agent| running.resolver.cgroups_of(agent)).collect();
    let (more, less): (Vec<u64>, Vec<u64>) =
        (wanted.difference(&known).copied().collect(), known.difference(&wanted).copied().collect());
    if !more.is_empty() {
        accounts.quarantine(&more)?;
    }
    if !less.is_empty() {
        accounts.release(&less)?;
    }
    accounts.announce()
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
