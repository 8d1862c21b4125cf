//! Ends the sockets of agents, so that what waits on them is told: `connection aborted` instead of silence.
//!
//! Netlink's `SOCK_DESTROY`, for every TCP and UDP socket that was made in one of the cgroups or below, in the host's network
//! namespace and in each that a process of theirs is in. The daemon may enter namespaces and makes a netlink socket in each; the
//! guard process may end sockets, and does it on those ([`Errands`]). A daemon that holds the guard itself does both.
//! INVARIANT: nothing is ended that was not made below the agents' parent. What the kernel cannot do is told, and changes nothing:
//! no packet of a quarantined agent goes anywhere, with or without this.
//! Known limits: a namespace that only a descriptor holds is not looked at; of sockets that share one port (`SO_REUSEPORT`)
//! some may stay; other families than IPv4 and IPv6 are not concerned.

mod errand;
mod netlink;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

pub use errand::{Errands, desk_of};

use crate::intercept::{Cgroup, InterceptError, Tree};
use netlink::Sockets;

/// Cgroups of one agent: beyond it the rest is left to the kernel's guard.
const CGROUPS_MAX: usize = 16_384;
/// How deep below an agent's topmost cgroup is looked.
const LEVELS_MAX: usize = 16;
/// Network namespaces of one agent: more than the daemon listens in.
const NAMESPACES_MAX: usize = 256;

/// Why sockets were not ended.
#[derive(Debug, thiserror::Error)]
pub enum AbortError {
    /// The kernel was built without it, or a module of it is missing.
    #[error("this kernel does not {what} (`CONFIG_INET_DIAG_DESTROY`, modules `tcp_diag` and `udp_diag`)")]
    Absent {
        /// What it lacks.
        what: &'static str,
    },
    /// The kernel refused.
    #[error("could not {action}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// What was heard or handed over makes no sense.
    #[error("what was told about sockets makes no sense")]
    Unreadable,
    /// The cgroups cannot be found.
    #[error("the cgroups cannot be found: {0}")]
    Cgroups(#[from] InterceptError),
    /// The guard process was not reached.
    #[error(
        "the guard process does not do it: {source}; `systemctl reload chaperone-guard` makes it the program that is installed"
    )]
    Guard {
        /// Why.
        source: io::Error,
    },
    /// The guard process refused.
    #[error("the guard process says: {0}")]
    Refused(String),
}

impl AbortError {
    fn is_no_right(&self) -> bool {
        matches!(self, Self::Kernel { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Count {
    /// Sockets that were ended.
    pub ended: usize,
    /// The kernel does not tell in which cgroup a socket was made, so that none could be found.
    pub unmarked: bool,
}

impl Count {
    fn plus(self, other: Self) -> Self {
        Self { ended: self.ended.saturating_add(other.ended), unmarked: self.unmarked || other.unmarked }
    }
}

/// Whether this kernel can do it. Ends nothing and takes no rights.
///
/// # Errors
/// With what is missing.
pub fn probe() -> Result<(), AbortError> {
    Sockets::here()?.probe()
}

/// Ends every socket that was made in one of the cgroups `tops`, or below. `parent` is the agents' parent below the cgroup2 mount,
/// `desk` where a guard process takes errands. Blocks for some milliseconds.
///
/// # Errors
/// When not all of them could be ended.
pub fn end_sockets(parent: &Path, tops: &BTreeSet<u64>, desk: &Path) -> Result<Count, AbortError> {
    let parent = Tree::find()?.open(parent)?;
    let places = places_of(&parent, tops);
    // A thread of its own enters the namespaces, and ends: the others never leave the host's.
    let thread = std::thread::Builder::new().name("abort".into()).spawn(move || everywhere(places));
    let ended_early = || io::Error::other("its thread ended early");
    let opened = thread
        .and_then(|thread| thread.join().unwrap_or_else(|_| Err(ended_early())))
        .map_err(|source| AbortError::Kernel { action: "enter the agent's network namespaces", source })?;
    let mut done = Count::default();
    let mut problem = None;
    for sockets in opened {
        let ended = sockets.and_then(|sockets| match errand::send(desk, tops, &sockets) {
            // There is none: a daemon that holds the guard has the right itself.
            Err(AbortError::Guard { source }) if is_nobody(&source) => {
                let own = sockets.end(&below(&parent, tops));
                own.map_err(|error| if error.is_no_right() { AbortError::Guard { source } } else { error })
            }
            done => done,
        });
        match ended {
            Ok(count) => done = done.plus(count),
            // Nor would it for the others.
            Err(error @ AbortError::Guard { .. }) => return Err(error),
            // The others first.
            Err(error) => problem = Some(error),
        }
    }
    problem.map_or(Ok(done), Err)
}

fn is_nobody(source: &io::Error) -> bool {
    matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// A netlink socket in this namespace, and one in each of those.
fn everywhere(places: Vec<File>) -> io::Result<Vec<Result<Sockets, AbortError>>> {
    let mut opened = vec![Sockets::here()];
    for place in places {
        let entered = setns(&place, CloneFlags::CLONE_NEWNET).map_err(|source| AbortError::Kernel {
            action: "enter a network namespace of the agent",
            source: source.into(),
        });
        opened.push(entered.and_then(|()| Sockets::here()));
    }
    Ok(opened)
}

/// The network namespaces that the processes of these cgroups are in, threads included; the own one is left out. A number that
/// is another process's by now leads to a namespace in which nothing of theirs is found.
fn places_of(parent: &Cgroup, tops: &BTreeSet<u64>) -> Vec<File> {
    let number = |file: &Path| fs::metadata(file).map(|facts| (facts.dev(), facts.ino()));
    let own = number(Path::new("/proc/self/ns/net")).ok();
    let mut places: BTreeMap<(u64, u64), File> = BTreeMap::new();
    let cgroups = tops.iter().filter_map(|id| Cgroup::below(parent, *id));
    for pid in cgroups.flat_map(|cgroup| cgroup.processes()) {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for file in threads.map(|thread| thread.path().join("ns/net")) {
            let Ok(place) = number(&file) else { continue };
            if Some(place) == own || places.contains_key(&place) || places.len() >= NAMESPACES_MAX {
                continue;
            }
            if let Ok(open) = File::open(&file) {
                places.insert(place, open);
            }
        }
    }
    places.into_values().collect()
}

/// The ids of those of the cgroups `tops` that are below the agents' parent, and of everything below them.
fn below(parent: &Cgroup, tops: &BTreeSet<u64>) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<(PathBuf, usize)> = Vec::new();
    for cgroup in tops.iter().filter_map(|id| Cgroup::below(parent, *id)) {
        found.insert(cgroup.id());
        folders.push((cgroup.path().to_owned(), LEVELS_MAX));
    }
    while let Some((folder, levels)) = folders.pop() {
        let Some(levels) = levels.checked_sub(1) else { continue };
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(facts) = entry.metadata() else { continue };
            if facts.is_dir() && found.len() < CGROUPS_MAX {
                found.insert(facts.ino());
                folders.push((entry.path(), levels));
            }
        }
    }
    found
}
