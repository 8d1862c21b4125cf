//! The guard as a whole: install it, read it back, take it away.
//!
//! `install` leaves one complete set of programs pinned on the agents' parent and the daemon in a cgroup of its
//! own. A complete set of the same object on the same parent is taken over untouched, so a restart has no gap;
//! another set is retired only after ours is attached, so an upgrade has none either.
//! INVARIANT: no step detaches anything before its replacement is in effect; a failure leaves the old guard.
//! Known limit: while two sets are attached, for milliseconds, new connections look as if the agent had dialled
//! the proxy, and are refused. Not done here: telling whether processes already below the parent hold older sockets.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use proxy_common::account::{ANY_QUARANTINED, Parent, SENTINEL as WATCH_SOCKETS};
use proxy_common::scope::Scope;

use super::accounts::Accounts;
use super::cgroup::{Cgroup, Tree};
use super::error::InterceptError;
use super::events::{Counters, Events};
use super::listener::Listener;
use super::maps::{self, SCOPES, Tables};
use super::pins::{self, Pins};
use super::programs::{self, ACCEPTED, GUARDS, Hook, ProgramStatus, SENTINEL};
use super::sys;
use super::{Sentinel, Settings};

/// What the daemon's own cgroup is called, after the agents' parent.
const DAEMON_SUFFIX: &str = "-daemon";

/// The installed guard. Dropping it leaves everything in place.
#[derive(Debug)]
pub struct Guard {
    port: u16,
    generation: PathBuf,
    tables: Tables,
    parent: Cgroup,
    daemon: Cgroup,
    sentinel: Sentinel,
    /// Held so that the programs outlive an unmounted bpffs.
    _links: Vec<OwnedFd>,
    /// Held so that no other daemon guards the same agents, or retires these pins.
    _claims: [File; 2],
}

impl Guard {
    /// Puts the guard in place, or takes over the one that is.
    ///
    /// # Errors
    /// When anything is missing; what was guarded before still is.
    pub fn install(settings: &Settings) -> Result<Self, InterceptError> {
        refuse_ephemeral(settings.port)?;
        let tree = Tree::find()?;
        let parent = tree.create(&settings.parent)?;
        parent.require_roots_own()?;
        let daemon = settle(&tree, &settings.parent)?;
        let pins = Pins::new(&settings.pin_dir);
        pins.prepare()?;
        let claims = [pins.claim()?, parent.claim()?];
        let tables = Tables::in_directory(&pins.maps());
        let generation = pins.generation(programs::OBJECT, parent.id());
        let about = Parent { cgroup_id: parent.id(), level: tree.level(&parent), flags: 0 };
        let mut links = match take_over(&generation, &parent, &tables) {
            Some(links) => {
                tracing::info!(pins = %generation.display(), "took over the guard in place");
                open_scope(&tables, about, settings)?;
                links
            }
            None => attach_all(&pins, &tables, &generation, (&parent, about), settings)?,
        };
        links.push(follow(&tables, &generation, (ACCEPTED, &daemon))?);
        links.extend(watch_sockets(&tables, &generation, &tree, settings.sentinel)?);
        pins.retire_others(&generation)?;
        let gone = parent.sweep(&Accounts::open(&tables)?.quarantined()?);
        tracing::info!(parent = %parent.path().display(), swept = gone, "agents are guarded");
        let (port, sentinel) = (settings.port, settings.sentinel);
        Ok(Self { port, generation, tables, parent, daemon, sentinel, _links: links, _claims: claims })
    }

    /// Opens the proxy's port. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(&self) -> Result<Listener, InterceptError> {
        Listener::bind(self.port, self.tables.sockets()?)
    }

    /// The stream of the kernel's denials; one reader at a time. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the ring cannot be opened.
    pub fn events(&self) -> Result<Events, InterceptError> {
        Events::new(self.tables.events()?)
    }

    /// The kernel's counters now.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn counters(&self) -> Result<Counters, InterceptError> {
        Counters::read(&self.tables.counters()?)
    }

    /// Connections between `connect()` and their arrival; a number that only grows means that some get lost.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn flows_waiting(&self) -> Result<usize, InterceptError> {
        Ok(self.tables.flows()?.keys().filter(Result::is_ok).count())
    }

    /// Removes the cgroups of runs that are over and were made before `before`; returns how many are gone.
    ///
    /// # Errors
    /// When it cannot be told which must stay.
    pub fn sweep_runs(&self, before: SystemTime) -> Result<usize, InterceptError> {
        Ok(self.parent.sweep_runs(before, &self.accounts()?.quarantined()?))
    }

    /// The kernel's counts per agent, and the switch that stops one.
    ///
    /// # Errors
    /// When the tables cannot be opened.
    pub fn accounts(&self) -> Result<Accounts, InterceptError> {
        Accounts::open(&self.tables)
    }

    /// What the kernel says about every program now.
    #[must_use]
    pub fn effective(&self) -> Vec<ProgramStatus> {
        needed(self.sentinel)
            .map(|hook| programs::status(hook, &self.parent, &self.generation))
            .chain([programs::status(ACCEPTED, &self.daemon, &self.generation)])
            .collect()
    }

    /// The agents' parent.
    #[must_use]
    pub fn parent(&self) -> &Cgroup {
        &self.parent
    }

    /// The daemon's own cgroup.
    #[must_use]
    pub fn daemon(&self) -> &Cgroup {
        &self.daemon
    }
}

/// What the kernel says about the programs that must guard `target`, read from the pins alone: for `doctor` and
/// for launchers that are not the daemon.
///
/// # Errors
/// When the pin directory cannot be read.
pub fn effective(settings: &Settings, target: &Cgroup) -> Result<Vec<ProgramStatus>, InterceptError> {
    let generations = Pins::new(&settings.pin_dir).generations()?;
    let read = |generation: &Path| -> Vec<ProgramStatus> {
        needed(settings.sentinel).map(|hook| programs::status(hook, target, generation)).collect()
    };
    let mut best = read(&settings.pin_dir);
    for generation in generations {
        let found = read(&generation);
        if count(&found) > count(&best) {
            best = found;
        }
    }
    Ok(best)
}

fn count(found: &[ProgramStatus]) -> usize {
    found.iter().filter(|status| status.effective).count()
}

/// Takes the guard away: pins, then the cgroups that are empty. Links that a living [`Guard`] holds go with it.
///
/// # Errors
/// When a pin cannot be removed.
pub fn uninstall(settings: &Settings) -> Result<(), InterceptError> {
    Pins::new(&settings.pin_dir).clear()?;
    let tree = Tree::find()?;
    for place in [settings.parent.clone(), daemon_place(&settings.parent)] {
        if let Ok(cgroup) = tree.open(&place) {
            let _gone = cgroup.sweep(&[]);
            if let Err(problem) = cgroup.remove() {
                tracing::info!(%problem, "left a cgroup that is in use");
            }
        }
    }
    Ok(())
}

fn take_over(generation: &Path, parent: &Cgroup, tables: &Tables) -> Option<Vec<OwnedFd>> {
    let links: Vec<OwnedFd> =
        GUARDS.into_iter().map_while(|hook| programs::reopen(hook, parent, generation)).collect();
    let whole = links.len() == GUARDS.len()
        && GUARDS.into_iter().all(|hook| programs::status(hook, parent, generation).effective)
        && tables.sockets().is_ok()
        && Accounts::open(tables).is_ok()
        && tables.events().is_ok()
        && tables.counters().is_ok();
    whole.then_some(links)
}

fn attach_all(
    pins: &Pins,
    tables: &Tables,
    generation: &Path,
    (parent, about): (&Cgroup, Parent),
    settings: &Settings,
) -> Result<Vec<OwnedFd>, InterceptError> {
    let mut object = programs::load(tables)?;
    open_scope(tables, about, settings)?;
    let staging = pins.stage()?;
    let mut links = Vec::with_capacity(GUARDS.len());
    for hook in GUARDS {
        links.push(programs::attach(&mut object, hook, parent, &staging)?);
    }
    pins.commit(&staging, generation)?;
    let missing: Vec<&str> = GUARDS
        .into_iter()
        .map(|hook| programs::status(hook, parent, generation))
        .filter(|status| !status.effective)
        .map(|status| status.name)
        .collect();
    if missing.is_empty() {
        Ok(links)
    } else {
        Err(InterceptError::Unguarded { missing: missing.join(", ") })
    }
}

/// Attaches a program to a cgroup that may be another one than at the last start: a service manager makes the daemon's anew.
fn follow(
    tables: &Tables,
    generation: &Path,
    (hook, cgroup): (Hook, &Cgroup),
) -> Result<OwnedFd, InterceptError> {
    if let Some(link) = programs::reopen(hook, cgroup, generation)
        && programs::status(hook, cgroup, generation).effective
    {
        return Ok(link);
    }
    let (name, _) = hook;
    let old = generation.join(name);
    if old.exists() {
        pins::remove(&old)?;
    }
    programs::attach(&mut programs::load(tables)?, hook, cgroup, generation)
}

/// Attaches the sentinel to the root of the tree, or takes it away.
fn watch_sockets(
    tables: &Tables,
    generation: &Path,
    tree: &Tree,
    sentinel: Sentinel,
) -> Result<Vec<OwnedFd>, InterceptError> {
    let root = tree.root()?;
    match sentinel {
        Sentinel::On => SENTINEL.into_iter().map(|hook| follow(tables, generation, (hook, &root))).collect(),
        Sentinel::Off => {
            let pinned = SENTINEL.into_iter().map(|(name, _)| generation.join(name));
            pinned.filter(|pin| pin.exists()).try_for_each(|pin| pins::remove(&pin))?;
            Ok(Vec::new())
        }
    }
}

/// The programs that must run for an agent.
fn needed(sentinel: Sentinel) -> impl Iterator<Item = Hook> {
    let root: &[Hook] = match sentinel {
        Sentinel::On => &SENTINEL,
        Sentinel::Off => &[],
    };
    GUARDS.into_iter().chain(root.iter().copied())
}

/// Tells the programs whom they guard and where the proxy of this network namespace is.
fn open_scope(tables: &Tables, about: Parent, settings: &Settings) -> Result<(), InterceptError> {
    let failed = |map, source| InterceptError::Map { map, source: Box::new(source) };
    let mut parent = tables.parent()?;
    let known = parent.get(&0, 0).map_err(|source| failed(maps::PARENT, source))?;
    let watch = match settings.sentinel {
        Sentinel::On => WATCH_SOCKETS,
        Sentinel::Off => 0,
    };
    // A quarantine outlives the daemon that was told of it.
    let about = Parent { flags: known.flags & ANY_QUARANTINED | watch, ..about };
    parent.set(0, about, 0).map_err(|source| failed(maps::PARENT, source))?;
    let probe = TcpListener::bind(("127.0.0.1", 0));
    let cookie = probe
        .and_then(|socket| sys::netns_cookie(&socket))
        .map_err(|source| InterceptError::Kernel { action: "identify the network namespace", source })?;
    let scope = Scope { proxy_port: settings.port, reserved: [0; 3] };
    tables.scopes()?.insert(cookie, scope, 0).map_err(|source| failed(SCOPES, source))
}

/// The daemon's own cgroup: where it is, unless that is the root or among the agents.
fn settle(tree: &Tree, parent: &Path) -> Result<Cgroup, InterceptError> {
    let own = tree.own()?;
    let agents = Path::new("/").join(parent.strip_prefix("/").unwrap_or(parent));
    if own != Path::new("/") && !own.starts_with(&agents) {
        return tree.open(&own);
    }
    let daemon = tree.create(&daemon_place(parent))?;
    daemon.admit(std::process::id())?;
    tracing::info!(cgroup = %daemon.path().display(), "moved the daemon into a cgroup of its own");
    Ok(daemon)
}

fn daemon_place(parent: &Path) -> PathBuf {
    let mut name = parent.as_os_str().to_owned();
    name.push(DAEMON_SUFFIX);
    PathBuf::from(name)
}

/// A port the kernel hands out could end up as an agent's source port, or as somebody else's listener.
fn refuse_ephemeral(port: u16) -> Result<(), InterceptError> {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"))
            .map_err(|source| InterceptError::Kernel { action: "read the ephemeral port range", source })
    };
    let (range, reserved) = (read("ip_local_port_range")?, read("ip_local_reserved_ports")?);
    match ephemeral(port, &range, &reserved) {
        Some((first, last)) => Err(InterceptError::PortEphemeral { port, first, last }),
        None => Ok(()),
    }
}

/// The range, if the port is in it and not reserved. An unreadable range counts as all ports.
fn ephemeral(port: u16, range: &str, reserved: &str) -> Option<(u16, u16)> {
    let mut bounds = range.split_whitespace().map_while(|bound| bound.parse::<u16>().ok());
    let (first, last) = bounds.next().zip(bounds.next()).unwrap_or((0, u16::MAX));
    let kept = reserved.trim().split(',').any(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        matches!((low.parse::<u16>(), high.parse::<u16>()), (Ok(low), Ok(high)) if (low..=high).contains(&port))
    });
    ((first..=last).contains(&port) && !kept).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_the_ephemeral_range_is_refused_unless_reserved() {
        assert_eq!(ephemeral(40_000, "32768\t60999\n", "\n"), Some((32_768, 60_999)));
        assert_eq!(ephemeral(40_000, "32768\t60999\n", "8080,39999-40001\n"), None);
        assert_eq!(ephemeral(15_001, "32768\t60999\n", "\n"), None);
        assert_eq!(ephemeral(15_001, "nonsense", ""), Some((0, u16::MAX)));
    }

    #[test]
    fn the_daemons_cgroup_is_a_sibling_of_the_agents() {
        assert_eq!(daemon_place(Path::new("a/agents.slice")), PathBuf::from("a/agents.slice-daemon"));
    }
}
