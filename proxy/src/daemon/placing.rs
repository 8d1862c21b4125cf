//! Launchers without root: who may start which agent, and the placing of the process that asks.
//!
//! Only accounts that the configuration names for this very agent; what else is checked is the jail's business. The cgroup is
//! guarded before anything is in it. INVARIANT: a refused caller is in no agent's cgroup, unless it ended or changed under our
//! eyes, and then it is at worst guarded. What was placed is in the record.

use std::path::PathBuf;

use super::services::Running;
use crate::control::{Peer, Services as _};
use crate::intercept::{Cgroup, Tree};
use crate::jail::{self, JailError, Newcomer, PROCESSES};
use crate::model::AgentName;

/// Places the caller; the answer is its cgroup below the cgroup2 mount.
pub(super) fn place(
    running: &Running,
    caller: Peer,
    agent: &AgentName,
    step: Option<&str>,
) -> Result<String, String> {
    let uid = caller.uid;
    if !running.launchers.get(agent).is_some_and(|accounts| accounts.contains(&uid)) {
        // The same words whether or not there is such an agent.
        return Err(format!("this account may not start an agent `{agent}`; its `run_by` does not name it"));
    }
    let newcomer = Newcomer::new(caller.pid, uid, caller.handle).map_err(told)?;
    let processes = running.processes.get(agent).copied().unwrap_or(PROCESSES);
    let cgroup = jail::guarded(&running.intercept, &agent.0, processes)
        .map_err(|problem| format!("nothing would guard it: {}", told(problem)))?;
    let placed = below(&cgroup).and_then(|run| {
        if let Some(step) = step {
            running
                .steps
                .note(&run, step)
                .map_err(|problem| format!("could not keep the step: {problem}"))?;
        }
        newcomer.place(&cgroup).map_err(told)?;
        Ok(run)
    });
    match placed {
        Ok(run) => {
            running.acted(&format!("uid:{uid}"), "run", &agent.0);
            Ok(format!("/{}", run.display()))
        }
        Err(why) => {
            if let Err(problem) = cgroup.remove() {
                tracing::info!(%problem, "left a cgroup that is in use");
            }
            tracing::info!(uid, %agent, why, "a process was not placed");
            Err(why)
        }
    }
}

fn below(cgroup: &Cgroup) -> Result<PathBuf, String> {
    let tree = Tree::find().map_err(|problem| problem.to_string())?;
    cgroup.path().strip_prefix(tree.mount()).map(PathBuf::from).map_err(|problem| problem.to_string())
}

/// With its cause, which says what the kernel answered.
fn told(problem: JailError) -> String {
    match std::error::Error::source(&problem) {
        Some(cause) => format!("{problem}: {cause}"),
        None => problem.to_string(),
    }
}
