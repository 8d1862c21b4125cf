//! Putting the guard in place: over the one that is there, or beside it until it is whole.
//!
//! A complete set of the same object on the same parent is taken over untouched, so a restart has no gap; another set is
//! retired only after ours is attached, so an upgrade has none either.
//! INVARIANT: no step detaches anything before its replacement is in effect; a failure leaves the old guard.
//! Known limit: while two sets are attached, for milliseconds, new connections look as if the agent had dialled the proxy, and
//! are refused.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use proxy_common::account::{
    ANY_QUARANTINED, Parent, SEAL_BITS, SENTINEL as WATCH_SOCKETS, UNIX_DENIED, UNIX_DENIED_TO_ROOT,
};
use proxy_common::scope::{EVERYWHERE, Scope};

use super::accounts::Accounts;
use super::cgroup::{Cgroup, Tree};
use super::error::InterceptError;
use super::maps::{self, SCOPES, Tables};
use super::optional::{self, Feature, Optional};
use super::pins::{self, Pins};
use super::programs::{self, ACCEPTED, GUARDS, Hook, SENTINEL};
use super::sys;
use super::{Sentinel, Settings, UnixSockets};

/// What the daemon's own cgroup is called, after the agents' parent.
const DAEMON_SUFFIX: &str = "-daemon";

/// One program's link and the cgroup it belongs on.
pub(super) type Link = (Hook, OwnedFd);

/// What must be where.
#[derive(Debug)]
pub(super) struct Fitting<'a> {
    pub(super) settings: &'a Settings,
    pub(super) tree: &'a Tree,
    pub(super) pins: &'a Pins,
    pub(super) tables: &'a Tables,
    pub(super) parent: &'a Cgroup,
    /// None while there is no daemon.
    pub(super) daemon: Option<&'a Cgroup>,
    pub(super) generation: &'a Path,
    /// What was in effect before, and must be again: a kernel that took a program does not refuse it later.
    pub(super) before: &'a [Feature],
    /// Links that were made before: those still in place need not be made anew.
    pub(super) held: &'a [Link],
    /// The programs, once they are loaded: what is loaded already is attached at once.
    pub(super) object: &'a mut Option<Ebpf>,
}

impl Fitting<'_> {
    /// Attaches what is missing, everything if need be, and retires other sets. The links keep it in place, pinned or not.
    pub(super) fn fit(mut self) -> Result<(Vec<Link>, Vec<Feature>), InterceptError> {
        let (cgroup_id, level) = (self.parent.id(), self.tree.level(self.parent));
        let about = Parent { cgroup_id, level, flags: 0, seal: 0, reserved: 0 };
        let mut links = match take_over(self.generation, self.parent, self.tables) {
            Some(links) => {
                tracing::info!(pins = %self.generation.display(), "took over the guard in place");
                open_scope(self.tables, about, self.settings)?;
                links
            }
            None => self.attach_all(about)?,
        };
        if let Some(daemon) = self.daemon {
            links.push((ACCEPTED, self.follow((ACCEPTED, daemon))?));
        }
        links.extend(self.watch_sockets()?);
        let optional = Optional {
            tables: self.tables,
            generation: self.generation,
            parent: self.parent,
            root: &self.tree.root()?,
            held: self.held,
        };
        let (more, features) = optional.fit(self.settings, self.before)?;
        links.extend(more);
        self.pins.retire_others(self.generation)?;
        Ok((links, features))
    }

    fn attach_all(&mut self, about: Parent) -> Result<Vec<Link>, InterceptError> {
        let Self { settings, pins, tables, parent, generation, .. } = *self;
        let flows_are_new = tables.flows().is_err();
        let object = loaded(self.object, tables)?;
        if flows_are_new {
            Accounts::open(tables)?.nothing_is_under_way()?;
        }
        open_scope(tables, about, settings)?;
        let staging = pins.stage()?;
        let mut links = Vec::with_capacity(GUARDS.len());
        for hook in GUARDS {
            links.push((hook, programs::attach(object, hook, parent, &staging)?));
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
    fn follow(&mut self, (hook, cgroup): (Hook, &Cgroup)) -> Result<OwnedFd, InterceptError> {
        if let Some(link) = programs::reopen(hook, cgroup, self.generation)
            && programs::status(hook, cgroup, self.generation).effective
        {
            return Ok(link);
        }
        let (name, _) = hook;
        let old = self.generation.join(name);
        if old.exists() {
            pins::remove(&old)?;
        }
        if let Some(link) = keep(self.held, hook, cgroup, self.generation) {
            return Ok(link);
        }
        programs::attach(loaded(self.object, self.tables)?, hook, cgroup, self.generation)
    }

    /// Attaches the sentinel to the root of the tree, or takes it away.
    fn watch_sockets(&mut self) -> Result<Vec<Link>, InterceptError> {
        let root = self.tree.root()?;
        match self.settings.sentinel {
            Sentinel::On => {
                SENTINEL.into_iter().map(|hook| self.follow((hook, &root)).map(|link| (hook, link))).collect()
            }
            Sentinel::Off => {
                let pinned = SENTINEL.into_iter().map(|(name, _)| self.generation.join(name));
                pinned.filter(|pin| pin.exists()).try_for_each(|pin| pins::remove(&pin))?;
                Ok(Vec::new())
            }
        }
    }
}

fn loaded<'o>(object: &'o mut Option<Ebpf>, tables: &Tables) -> Result<&'o mut Ebpf, InterceptError> {
    match object {
        Some(object) => Ok(object),
        None => Ok(object.insert(programs::load(tables)?)),
    }
}

/// Pins again the links that are still on a cgroup, where somebody unlinked the pin.
pub(super) fn pin_again(links: &[Link], generation: &Path) -> Result<(), InterceptError> {
    pins::directory(generation)?;
    for ((name, attach_type), link) in links {
        let pin = generation.join(name);
        let alive = sys::link_facts(link).is_ok_and(|facts| facts.is_on(*attach_type, None));
        if alive && !pin.exists() {
            sys::pin(link, &pin).map_err(|source| pins::pin("make", &pin, source))?;
        }
    }
    Ok(())
}

fn take_over(generation: &Path, parent: &Cgroup, tables: &Tables) -> Option<Vec<Link>> {
    let links: Vec<Link> = GUARDS
        .into_iter()
        .map_while(|hook| Some((hook, programs::reopen(hook, parent, generation)?)))
        .collect();
    let whole = links.len() == GUARDS.len()
        && GUARDS.into_iter().all(|hook| programs::status(hook, parent, generation).effective)
        && tables.sockets().is_ok()
        && tables.flows().is_ok()
        && Accounts::open(tables).is_ok()
        && tables.unreachable().is_ok()
        && tables.datagrams().is_ok()
        && tables.events().is_ok()
        && tables.sights().is_ok()
        && tables.counters().is_ok();
    whole.then_some(links)
}

/// Pins a link anew that is held and still on its cgroup, where its set was replaced.
pub(super) fn keep(held: &[Link], hook: Hook, cgroup: &Cgroup, generation: &Path) -> Option<OwnedFd> {
    let (_, link) = held.iter().find(|(one, _)| *one == hook)?;
    let on_it = sys::link_facts(link).ok()?.is_on(hook.1, Some(cgroup.id()));
    let pinned = on_it && sys::pin(link, &generation.join(hook.0)).is_ok();
    pinned.then(|| link.try_clone().ok()).flatten()
}

/// The programs that must run for an agent.
pub(super) fn needed(settings: &Settings) -> impl Iterator<Item = Hook> {
    let root: &[Hook] = match settings.sentinel {
        Sentinel::On => &SENTINEL,
        Sentinel::Off => &[],
    };
    GUARDS.into_iter().chain(root.iter().copied()).chain(optional::demanded(settings))
}

/// A number that others do not know.
fn fresh_seal() -> Result<u32, InterceptError> {
    let random = getrandom::u32().map_err(|problem| InterceptError::Kernel {
        action: "give a random number",
        source: std::io::Error::other(problem.to_string()),
    })?;
    Ok((random & SEAL_BITS).max(1))
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
    let local = match settings.unix_sockets {
        UnixSockets::Open | UnixSockets::Audited => 0,
        UnixSockets::DeniedUnlessRoot => UNIX_DENIED,
        UnixSockets::Denied => UNIX_DENIED | UNIX_DENIED_TO_ROOT,
    };
    // A quarantine outlives the daemon that was told of it, and the seal is asked for by whoever reads datagrams.
    let seal = if known.seal == 0 { fresh_seal()? } else { known.seal };
    let about = Parent { flags: known.flags & ANY_QUARANTINED | watch | local, seal, ..about };
    parent.set(0, about, 0).map_err(|source| failed(maps::PARENT, source))?;
    let scope = scope(settings);
    let mut scopes = tables.scopes()?;
    [EVERYWHERE, own_netns()?]
        .into_iter()
        .try_for_each(|cookie| scopes.insert(cookie, scope, 0))
        .map_err(|source| failed(SCOPES, source))
}

/// What the programs must know of the proxy in a namespace: the same in each.
pub(super) fn scope(settings: &Settings) -> Scope {
    Scope { proxy_port: settings.port, dns_port: settings.dns_port.unwrap_or(0), reserved: [0; 2] }
}

/// Cookie of the network namespace that this process is in: the host's.
pub(super) fn own_netns() -> Result<u64, InterceptError> {
    let probe = TcpListener::bind(("127.0.0.1", 0));
    probe
        .and_then(|socket| sys::netns_cookie(&socket))
        .map_err(|source| InterceptError::Kernel { action: "identify the network namespace", source })
}

/// The daemon's own cgroup: where it is, unless that is the root or among the agents.
pub(super) fn settle(tree: &Tree, parent: &Path) -> Result<Cgroup, InterceptError> {
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

pub(super) fn daemon_place(parent: &Path) -> PathBuf {
    let mut name = parent.as_os_str().to_owned();
    name.push(DAEMON_SUFFIX);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_cgroup_is_a_sibling_of_the_agents() {
        assert_eq!(daemon_place(Path::new("a/agents.slice")), PathBuf::from("a/agents.slice-daemon"));
    }
}
