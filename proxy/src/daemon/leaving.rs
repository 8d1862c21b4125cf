//! Processes that leave their agent's cgroup alive.
//!
//! Only root without a jail can move one; no program of the kernel's is asked when it does. So the daemon keeps in mind which
//! processes it saw in which account, and looks each second where those are that are no longer there. It records them and does
//! nothing else: connections that they had stay guarded, and what they do from then on is no agent's any more.
//! Known limits: who leaves within a second of its start is not missed, nor is a child that is started elsewhere right away.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::services::Running;
use crate::audit::Event;
use crate::identity::started;
use crate::intercept::{Cgroup, Tree};

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
        for left in tokio::task::block_in_place(|| look(&parent, &mut seen)) {
            note(running, &left);
        }
    }
}

fn note(running: &Running, left: &Left) {
    let Left { pid, account, cgroup } = left;
    tracing::warn!(pid, account, cgroup = %cgroup.display(), "a process left its agent's cgroup");
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    running.note(&Event::AgentLeft {
        account: Cow::Borrowed(account),
        pid: *pid,
        exe: exe.to_string_lossy(),
        cgroup: cgroup.to_string_lossy(),
    });
}

/// Who is no longer where it was seen. Those that are gone are forgotten.
fn look(parent: &Cgroup, seen: &mut HashMap<u32, Seen>) -> Vec<Left> {
    let now = accounts(parent);
    let left: Vec<Left> = seen
        .iter()
        .filter(|(pid, before)| now.get(*pid) != Some(&before.account))
        .filter_map(|(pid, before)| elsewhere(parent, *pid, before))
        .collect();
    seen.retain(|pid, before| now.get(pid) == Some(&before.account));
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
fn elsewhere(parent: &Cgroup, pid: u32, before: &Seen) -> Option<Left> {
    // Asked after the place: a number that is used again meanwhile is not the same process.
    let cgroup = Tree::of(pid).ok()?;
    if started(pid)? != before.started {
        return None;
    }
    let own = Tree::find().ok()?.mount().join(cgroup.strip_prefix("/").unwrap_or(&cgroup));
    let account = own.strip_prefix(parent.path()).ok().and_then(first);
    (account.as_ref() != Some(&before.account)).then(|| Left { pid, account: before.account.clone(), cgroup })
}

/// Each process and the name of the cgroup right below the parent that it is in.
fn accounts(parent: &Cgroup) -> HashMap<u32, String> {
    let Ok(children) = parent.children() else { return HashMap::new() };
    let processes = |name: String| {
        let pids = parent.at_child(&name).map(|child| child.processes()).unwrap_or_default();
        pids.into_iter().map(move |pid| (pid, name.clone()))
    };
    children.into_iter().flat_map(|(name, _)| processes(name)).collect()
}

fn first(path: &Path) -> Option<String> {
    path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned())
}
