//! How many processes and threads a run may have at a time, so that a fork bomb ends at its own limit and not at the host's.
//!
//! The run's cgroup counts them where the `pids` controller is at hand there (`pids.max`); who may make the cgroup sets it. Where
//! it is not, an account of the agent's own is limited as a whole (`RLIMIT_NPROC`), and root not at all, which is told.
//! INVARIANT: where the controller is at hand, no run starts without its limit. Known limits: the account's limit counts what
//! runs under that account elsewhere on the host, too; memory is not limited here.

use std::fs;
use std::io;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::error::JailError;
use super::{Account, Launcher};
use crate::intercept::{Cgroup, InterceptError, Tree};

/// What a run may have unless its agent's `processes` says otherwise: half of what `agents.slice` gives all agents together.
pub const PROCESSES: u32 = 2048;

/// What holds a run to its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Its cgroup.
    Cgroup,
    /// The limit of its account.
    Account,
    /// Nothing: it is root's, and the controller is not at hand.
    Nothing,
}

/// Limits the run in this fresh cgroup, `parent/agent/run`, if the controller is at hand below `parent`.
///
/// # Errors
/// When it is at hand and the limit cannot be set.
pub(super) fn limit(parent: &Cgroup, run: &Cgroup, most: u32) -> Result<(), JailError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| InterceptError::Cgroup { action: "limit the processes of", path, source }
    };
    let above = [Some(parent.path()), run.path().parent()];
    for folder in above.into_iter().flatten() {
        if !hand_down(folder).map_err(failed(folder))? {
            return Ok(());
        }
    }
    fs::write(run.path().join("pids.max"), most.to_string()).map_err(failed(run.path()))?;
    Ok(())
}

/// Lets the cgroups below `folder` count processes; false where it cannot itself.
fn hand_down(folder: &Path) -> io::Result<bool> {
    let has = |file: &str| -> io::Result<bool> {
        Ok(fs::read_to_string(folder.join(file))?.split_whitespace().any(|name| name == "pids"))
    };
    if !has("cgroup.controllers")? {
        return Ok(false);
    }
    if !has("cgroup.subtree_control")? {
        fs::write(folder.join("cgroup.subtree_control"), "+pids")?;
    }
    Ok(true)
}

/// Holds this process, which is in its run's cgroup and about to become the agent, to its limit.
///
/// # Errors
/// When it cannot be held.
pub fn hold(launcher: &Launcher, most: u32) -> Result<Held, JailError> {
    let tree = Tree::find()?;
    let own = tree.open(&tree.own()?)?;
    if is_limited(own.path()) {
        return Ok(Held::Cgroup);
    }
    match launcher {
        Launcher::Root(None) => Ok(Held::Nothing),
        Launcher::Root(Some(Account { .. })) | Launcher::Unprivileged => {
            let failed = |source| JailError::privileges("limit the processes of the agent's account", source);
            let (_, hard) = getrlimit(Resource::RLIMIT_NPROC).map_err(failed)?;
            let most = hard.min(most.into());
            setrlimit(Resource::RLIMIT_NPROC, most, most).map_err(failed)?;
            Ok(Held::Account)
        }
    }
}

fn is_limited(run: &Path) -> bool {
    fs::read_to_string(run.join("pids.max")).is_ok_and(|most| most.trim().parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_hands_the_controller_down_only_if_it_has_it_and_a_run_without_a_number_is_not_limited() {
        let dir = std::env::temp_dir().join(format!("chaperone-processes-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(hand_down(&dir).is_err(), "no cgroup");
        for (has, hands_down, answer, written) in [
            ("cpu memory\n", "", false, ""),
            ("cpu pids\n", "cpu\n", true, "+pids"),
            ("cpu pids\n", "cpu pids\n", true, "cpu pids\n"),
        ] {
            fs::write(dir.join("cgroup.controllers"), has).unwrap();
            fs::write(dir.join("cgroup.subtree_control"), hands_down).unwrap();
            assert_eq!(hand_down(&dir).unwrap(), answer, "{has}");
            assert_eq!(fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap(), written);
        }
        assert!(!is_limited(&dir));
        for (most, limited) in [("max\n", false), ("64\n", true)] {
            fs::write(dir.join("pids.max"), most).unwrap();
            assert_eq!(is_limited(&dir), limited, "{most}");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
