//! The guard as a whole: install it, read it back, mend it, take it away.
//!
//! `install` leaves one complete set of programs pinned on the agents' parent and the daemon in a cgroup of its own; `mend`
//! puts back what somebody took away since. Programs, tables and pins are held by descriptor as well, so a pin that is
//! unlinked or a file system that is unmounted detaches nothing while the guard lives. `stand` does the same for a process that
//! is not the daemon; the daemon then `follow`s it, see `follow`.
//! INVARIANT: no step detaches anything before its replacement is in effect; a failure leaves the old guard.
//! Not done here: telling whether processes already below the parent hold older sockets.

use std::fs::{self, File};
use std::ops::Not as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aya::Ebpf;
use parking_lot::Mutex;
use proxy_common::account::{DRAINING, Parent};

use super::Settings;
use super::accounts::{AccountCounts, Accounts};
use super::births::Births;
use super::cgroup::{Cgroup, Tree};
use super::changes::Changes;
use super::datagrams::{DatagramError, NamePort};
use super::error::InterceptError;
use super::events::{Counters, Events};
use super::fitting::{self, Fitting, Link, daemon_place, needed, own_netns, settle};
use super::follow::Voice;
use super::jails;
use super::listener::Listener;
use super::maps::{Held, PARENT, Tables};
use super::namespaces::{AskersElsewhere, Elsewhere, Namespaces};
use super::optional::{self, Feature};
use super::pins::Pins;
use super::programs::{self, ACCEPTED, ProgramStatus};
use super::sights::Sights;
use super::sys;
use super::unreachable::Unreachable;
use crate::shutdown::Shutdown;

/// The installed guard. Dropping it leaves everything in place.
#[derive(Debug)]
pub struct Guard {
    pub(super) settings: Settings,
    pub(super) tree: Tree,
    pub(super) pins: Pins,
    pub(super) tables: Tables,
    pub(super) counts_are_new: bool,
    pub(super) place: Mutex<Place>,
    /// The process that holds the guard, when it is not this one.
    pub(super) voice: Option<Voice>,
}

/// Where the guard is now: the agents' parent may be made anew.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) parent: Cgroup,
    /// The daemon's own cgroup, once there is a daemon.
    pub(super) daemon: Option<Cgroup>,
    pub(super) generation: PathBuf,
    /// The programs, if this process loaded them.
    pub(super) object: Option<Ebpf>,
    /// Held so that the programs outlive their pins.
    pub(super) links: Vec<Link>,
    /// Which of the optional programs the kernel took.
    pub(super) features: Vec<Feature>,
    /// Held so that the tables do.
    pub(super) tables: Vec<Held>,
    /// Held so that nobody else guards the same agents, or retires these pins. None where another process does.
    pub(super) claims: Option<[File; 2]>,
}

impl Guard {
    /// Puts the guard in place for the daemon that this process is, or takes over the one that is.
    ///
    /// # Errors
    /// When anything is missing; what was guarded before still is.
    pub fn install(settings: &Settings) -> Result<Self, InterceptError> {
        settings.ports().try_for_each(refuse_ephemeral)?;
        let tree = Tree::find()?;
        // Before this process moves anywhere.
        tree.create(&settings.parent)?.require_roots_own()?;
        let daemon = settle(&tree, &settings.parent)?;
        Self::put(settings, tree, Some(daemon))
    }

    /// The same for a process that is not the daemon: whatever daemon was served before still is.
    ///
    /// # Errors
    /// As [`Guard::install`].
    pub fn stand(settings: &Settings) -> Result<Self, InterceptError> {
        settings.ports().try_for_each(refuse_ephemeral)?;
        let tree = Tree::find()?;
        let served = Pins::new(&settings.pin_dir).everything()?.into_iter().find_map(|generation| {
            let link = sys::open_pin(&generation.join(ACCEPTED.0)).ok()?;
            let id = sys::link_facts(&link).ok()?.cgroup_id;
            Cgroup::below(&tree.root().ok()?, id)
        });
        let guard = Self::put(settings, tree, served)?;
        // Whatever must be put back is put back without the verifier's time.
        let ready = programs::ready(&guard.tables)?;
        guard.place.lock().object = Some(ready);
        Ok(guard)
    }

    fn put(settings: &Settings, tree: Tree, daemon: Option<Cgroup>) -> Result<Self, InterceptError> {
        let parent = tree.create(&settings.parent)?;
        parent.require_roots_own()?;
        let pins = Pins::new(&settings.pin_dir);
        pins.prepare()?;
        let claims = Some([pins.claim()?, parent.claim()?]);
        let tables = Tables::in_directory(&pins.maps());
        let counted = Accounts::open(&tables).and_then(|accounts| accounts.counts());
        let counts_are_new = counted.is_ok_and(|counted| !counted.is_empty()).not();
        let generation = pins.generation(&programs::OBJECTS, parent.id());
        let (mut object, before) = (None, optional::standing(&pins.everything()?));
        let (links, features) = Fitting {
            settings,
            tree: &tree,
            pins: &pins,
            tables: &tables,
            parent: &parent,
            daemon: daemon.as_ref(),
            generation: &generation,
            before: &before,
            held: &[],
            object: &mut object,
        }
        .fit()?;
        let gone = parent.sweep(&Accounts::open(&tables)?.quarantined()?);
        tracing::info!(parent = %parent.path().display(), swept = gone, "agents are guarded");
        // Whoever stopped them because the guard was not whole may have died since.
        parent.freeze(false)?;
        let held = tables.hold()?;
        let place =
            Mutex::new(Place { parent, daemon, generation, object, links, features, tables: held, claims });
        Ok(Self { settings: settings.clone(), tree, pins, tables, counts_are_new, place, voice: None })
    }

    /// Serves another daemon: the one in this cgroup, given as its path below the mount.
    ///
    /// # Errors
    /// When it is no place for a daemon, or the program cannot be put there.
    pub fn serve(&self, own: &Path) -> Result<(), InterceptError> {
        let cgroup = self.tree.open(own)?;
        let mut place = self.place.lock();
        if cgroup.path().starts_with(place.parent.path()) || cgroup.path() == self.tree.mount() {
            let source = std::io::Error::other("a daemon lives neither among the agents nor at the root");
            return Err(InterceptError::Cgroup { action: "serve", path: cgroup.path().to_owned(), source });
        }
        place.daemon = Some(cgroup);
        self.refit(&mut place)
    }

    /// Puts back whatever was taken away since: pins, programs, the agents' parent. Returns what was missing, which is empty
    /// when nothing was.
    ///
    /// # Errors
    /// When something cannot be put back; what is still in place stays.
    pub fn mend(&self) -> Result<Vec<&'static str>, InterceptError> {
        if let Some(voice) = &self.voice {
            return self.hear(voice);
        }
        let mut place = self.place.lock();
        // A service manager removes a stopped daemon's cgroup: nothing is missing then.
        place.daemon = place.daemon.take().filter(Cgroup::is_there);
        let missing: Vec<&'static str> = self
            .read_back(&place)
            .into_iter()
            .filter(|status| !status.effective)
            .map(|status| status.name)
            .collect();
        let parent = self.tree.create(&self.settings.parent)?;
        if missing.is_empty() && parent.id() == place.parent.id() {
            return Ok(missing);
        }
        parent.require_roots_own()?;
        self.pins.prepare()?;
        let is_new = parent.id() != place.parent.id();
        if let Some([pins, cgroup]) = &mut place.claims {
            if identity(pins)? != identity(&File::open(self.pins.root()).map_err(trouble)?)? {
                *pins = self.pins.claim()?;
            }
            if is_new {
                *cgroup = parent.claim()?;
            }
        }
        if is_new {
            place.generation = self.pins.generation(&programs::OBJECTS, parent.id());
            place.parent = parent;
        }
        self.refit(&mut place)?;
        Ok(missing)
    }

    fn refit(&self, place: &mut Place) -> Result<(), InterceptError> {
        for table in &place.tables {
            table.pin_again(&self.tables)?;
        }
        fitting::pin_again(&place.links, &place.generation)?;
        let Place { parent, daemon, generation, object, links: held, features: before, .. } = place;
        let (links, features) = Fitting {
            settings: &self.settings,
            tree: &self.tree,
            pins: &self.pins,
            tables: &self.tables,
            parent,
            daemon: daemon.as_ref(),
            generation,
            before,
            held,
            object,
        }
        .fit()?;
        place.links = links;
        place.features = features;
        Ok(())
    }

    /// Stops every agent's processes, or lets them go on: for the time that the guard cannot be mended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn freeze(&self, stop: bool) -> Result<(), InterceptError> {
        self.place.lock().parent.freeze(stop)
    }

    /// Lets nothing new start, or lets it again: a daemon that stops takes what is on its way before it closes its port.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn drain(&self, on: bool) -> Result<(), InterceptError> {
        let failed = |source| InterceptError::Map { map: PARENT, source: Box::new(source) };
        let mut table = self.tables.parent()?;
        let parent = table.get(&0, 0).map_err(failed)?;
        let flags = if on { parent.flags | DRAINING } else { parent.flags & !DRAINING };
        table.set(0, Parent { flags, ..parent }, 0).map_err(failed)
    }

    /// Word of cgroups that are made or removed beside the agents' one. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no watch.
    pub fn changes(&self) -> Result<Changes, InterceptError> {
        let parent = self.parent();
        Changes::of(parent.path().parent().unwrap_or(self.tree.mount()))
    }

    /// Whether the kernel's counts began with this guard: what happened before is in none of them.
    #[must_use]
    pub fn counts_are_new(&self) -> bool {
        self.counts_are_new
    }

    /// Opens the proxy's port. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(&self) -> Result<Listener, InterceptError> {
        Listener::bind(self.settings.port, self.tables.sockets()?, own_netns()?)
    }

    /// The other network namespaces that agents are in, and where connections from them arrive. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the tables cannot be opened.
    pub fn namespaces(
        &self,
        shutdown: &Shutdown,
    ) -> Result<(Namespaces, Elsewhere, AskersElsewhere), InterceptError> {
        let about = (self.settings.parent.as_path(), fitting::scope(&self.settings));
        Namespaces::open(about, own_netns()?, &self.tables, shutdown)
    }

    /// The stream of new cgroups of agents; one reader at a time. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the kernel does not let them be watched.
    pub fn births(&self) -> Result<Births, InterceptError> {
        Births::watch(&self.settings.parent)
    }

    /// The stream of namespaces without a proxy in which an agent was seen; one reader at a time. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the ring cannot be opened.
    pub fn sights(&self) -> Result<Sights, InterceptError> {
        Sights::new(self.tables.sights()?)
    }

    /// Opens the resolver's ports, one for each slot and loopback address; none where it is switched off. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn name_ports(&self) -> Result<Vec<NamePort>, DatagramError> {
        match self.settings.dns_port {
            Some(first) => NamePort::bind_all(first, &self.tables),
            None => Ok(Vec::new()),
        }
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
        let parent = self.parent();
        let gone = parent.sweep_runs(before, &self.accounts()?.quarantined()?);
        jails::forget(&self.tables, &parent)?;
        Ok(gone)
    }

    /// The kernel's counts per agent, and the switch that stops one.
    ///
    /// # Errors
    /// When the tables cannot be opened.
    pub fn accounts(&self) -> Result<Accounts, InterceptError> {
        Accounts::open(&self.tables)
    }

    /// Where it is noted that a destination was out of reach.
    ///
    /// # Errors
    /// When the table cannot be opened.
    pub fn unreachable(&self) -> Result<Unreachable, InterceptError> {
        Unreachable::open(&self.tables)
    }

    /// What the kernel says about every program now.
    #[must_use]
    pub fn effective(&self) -> Vec<ProgramStatus> {
        match &self.voice {
            Some(voice) => voice.programs().unwrap_or_else(|| self.attached()),
            None => self.read_back(&self.place.lock()),
        }
    }

    pub(super) fn read_back(&self, place: &Place) -> Vec<ProgramStatus> {
        let daemon = place.daemon.iter().map(|daemon| programs::status(ACCEPTED, daemon, &place.generation));
        let taken = optional::taken(&self.settings, &place.features);
        needed(&self.settings)
            .chain(taken)
            .map(|hook| programs::status(hook, &place.parent, &place.generation))
            .chain(daemon)
            .collect()
    }

    /// Which of the optional programs the kernel took, and in which words it refused the others.
    #[must_use]
    pub fn features(&self) -> Vec<Feature> {
        self.place.lock().features.clone()
    }

    /// The agents' parent.
    #[must_use]
    pub fn parent(&self) -> Cgroup {
        self.place.lock().parent.clone()
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
        // What the kernel took is pinned; what it refused is not asked for.
        let pinned = optional::pinned(settings, generation);
        needed(settings).chain(pinned).map(|hook| programs::status(hook, target, generation)).collect()
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

/// What the kernel counted for each account, read from the pins alone.
///
/// # Errors
/// When there is no guard, or its tables cannot be read.
pub fn counts(settings: &Settings) -> Result<Vec<AccountCounts>, InterceptError> {
    Accounts::open(&Tables::in_directory(&Pins::new(&settings.pin_dir).maps()))?.counts()
}

/// How many scopes the kernel's table holds: the host's, the one that stands for everywhere, and those of other namespaces.
///
/// # Errors
/// When there is no guard, or its table cannot be read.
pub fn scopes(settings: &Settings) -> Result<usize, InterceptError> {
    let tables = Tables::in_directory(&Pins::new(&settings.pin_dir).maps());
    Ok(tables.scopes()?.keys().filter(Result::is_ok).count())
}

/// Takes the guard away: pins, then the cgroups that are empty. Links that a living [`Guard`] holds go with it.
///
/// # Errors
/// When a daemon holds the guard, when agents still run and `force` is not set, or when a pin cannot be removed.
pub fn uninstall(settings: &Settings, force: bool) -> Result<(), InterceptError> {
    let pins = Pins::new(&settings.pin_dir);
    // A daemon that runs would put everything back.
    let _claim = if settings.pin_dir.exists() { Some(pins.claim()?) } else { None };
    let tree = Tree::find()?;
    if let Ok(parent) = tree.open(&settings.parent)
        && !force
        && parent.is_populated()?
    {
        let source = std::io::Error::other("agents run in it; stop them, or say `--force`");
        return Err(InterceptError::Cgroup { action: "unguard", path: parent.path().to_owned(), source });
    }
    pins.clear()?;
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

fn identity(file: &File) -> Result<(u64, u64), InterceptError> {
    file.metadata().map(|facts| (facts.dev(), facts.ino())).map_err(trouble)
}

fn trouble(source: std::io::Error) -> InterceptError {
    InterceptError::Kernel { action: "look at the pin directory", source }
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
}
