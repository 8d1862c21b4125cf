//! Processes that leave their agent's cgroup alive.
//!
//! Only root without a jail can move one; no program of the kernel's is asked when it does. So the daemon keeps in mind which
//! processes it saw in which account, and looks each second where those are that are no longer there. It records them and does
//! nothing else: connections that they had stay guarded, and what they do from then on is no agent's any more.
//! Known limits: nobody misses who leaves within a second of its start, or while no daemon runs; a child that is started elsewhere right
//! away; a process whose number was another's of the same agent a second before; threads that leave one by one. The self-test's own
//! hostile process leaves its cgroup on purpose, and is not told.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::services::Running;
use crate::audit::Event;
use crate::identity::started;
use crate::intercept::{Cgroup, InterceptError, Tree};
use crate::selftest::CGROUP as SELFTEST;

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Processes told one by one at a look; how many more there were stands with the last.
const TOLD_MAX: usize = 16;
/// Processes kept in mind; the kernel's own limit is four million, and no host has as many agents.
const SEEN_MAX: usize = 65_536;

/// A process, told from a later one with its number by when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    started: u64,
    account: String,
}

/// One that is elsewhere now.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    pid: u32,
    account: String,
    cgroup: PathBuf,
}

/// Looks for as long as the daemon runs.
pub(super) async fn watch(running: &Running) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    let mut seen = HashMap::new();
    loop {
        every.tick().await;
        let parent = running.guard.parent();
        let mut left = tokio::task::block_in_place(|| look(&parent, &mut seen));
        let others = left.len().saturating_sub(TOLD_MAX);
        left.truncate(TOLD_MAX);
        let last = left.pop();
        left.iter().for_each(|one| note(running, one, 0));
        if let Some(last) = last {
            note(running, &last, others);
        }
    }
}

fn note(running: &Running, left: &Left, others: usize) {
    let Left { pid, account, cgroup } = left;
    tracing::warn!(pid, account, cgroup = %cgroup.display(), "a process left its agent's cgroup");
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    running.note(&Event::AgentLeft {
        account: Cow::Borrowed(account),
        pid: *pid,
        exe: exe.to_string_lossy(),
        cgroup: cgroup.to_string_lossy(),
        others: u64::try_from(others).unwrap_or(u64::MAX),
    });
}

/// Who is no longer where it was seen. Those that are gone are forgotten.
fn look(parent: &Cgroup, seen: &mut HashMap<u32, Seen>) -> Vec<Left> {
    let (Ok(now), Ok(tree)) = (accounts(parent), Tree::find()) else { return Vec::new() };
    let mut left = Vec::new();
    seen.retain(|pid, before| {
        if now.get(pid) == Some(&before.account) {
            return true;
        }
        left.extend(elsewhere((&tree, parent), *pid, before));
        false
    });
    for (pid, account) in now {
        if seen.len() < SEEN_MAX
            && !seen.contains_key(&pid)
            && let Some(started) = started(pid)
        {
            seen.insert(pid, Seen { started, account });
        }
    }
    left
}

/// Where a process is that was seen in an account; `None` if it is there, or gone.
fn elsewhere((tree, parent): (&Tree, &Cgroup), pid: u32, before: &Seen) -> Option<Left> {
    // Asked after the place: a number that is used again meanwhile is not the same process.
    let cgroup = Tree::of(pid).ok()?;
    if started(pid)? != before.started {
        return None;
    }
    let own = tree.mount().join(cgroup.strip_prefix("/").unwrap_or(&cgroup));
    let account = own.strip_prefix(parent.path()).ok().and_then(first);
    (account.as_ref() != Some(&before.account)).then(|| Left { pid, account: before.account.clone(), cgroup })
}

/// Each process and the name of the cgroup right below the parent that it is in.
fn accounts(parent: &Cgroup) -> Result<HashMap<u32, String>, InterceptError> {
    let processes = |name: String| {
        let pids = parent.at_child(&name).map(|child| child.processes()).unwrap_or_default();
        pids.into_iter().map(move |pid| (pid, name.clone()))
    };
    let agents = parent.children()?.into_iter().map(|(name, _)| name);
    Ok(agents.filter(|name| !name.starts_with(SELFTEST)).flat_map(processes).collect())
}

fn first(path: &Path) -> Option<String> {
    path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned())
}
