//! Programs that only some kernels take: each is tried, by loading and attaching it, and what came of it is kept.
//!
//! No version is looked at: kernels carry features back, and refuse them for reasons of their own. What the kernel took is
//! pinned, read back and mended like the rest of the guard; what it refused is told in its own words and left out.
//! INVARIANT: what the operator demands by name is never left out: without it there is no guard. Nor is what was in effect before.
//! Known limit: a program is tried when the guard is installed or mended, not when the kernel's settings change.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use aya::EbpfError;
use aya::maps::MapData;
use aya::programs::ProgramError;
use aya::sys::SyscallError;
use aya_obj::Object;
use aya_obj::generated::bpf_prog_type::{self, BPF_PROG_TYPE_CGROUP_SKB, BPF_PROG_TYPE_CGROUP_SOCK_ADDR};

use super::cgroup::Cgroup;
use super::error::InterceptError;
use super::fitting::{self, Link};
use super::maps::Tables;
use super::pins;
use super::programs::{self, Hook, OBJECT};
use super::security;
use super::sys::{self, Unloaded};
use super::{Ingress, SecurityHooks, Sentinel, Settings, UnixSockets};
use crate::causes::in_one_line;

/// One optional program, or layer of several, and what the kernel said to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Why it is not in effect, in the kernel's words; `None` if it is.
    pub refused: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    hook: Hook,
    purpose: &'static str,
    place: Place,
    /// Number of its kind, `enum bpf_prog_type`.
    kind: bpf_prog_type,
    demand: Demand,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Agents,
    Root,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// The guard is not whole without it.
    Must,
    /// Where the kernel takes it.
    May,
}

const INBOUND: &str = "drops what reaches agents unasked";
const LOCAL: &str = "sees or denies unix sockets by name";

/// What the settings ask for.
fn candidates(settings: &Settings) -> Vec<Candidate> {
    let mut all = Vec::new();
    if settings.ingress == Ingress::Closed {
        all.push(Candidate {
            hook: (INGRESS, 0),
            purpose: INBOUND,
            place: Place::Agents,
            kind: BPF_PROG_TYPE_CGROUP_SKB,
            demand: Demand::Must,
        });
    }
    let demand = match settings.unix_sockets {
        UnixSockets::Open => return all,
        UnixSockets::Audited | UnixSockets::DeniedUnlessRoot => Demand::May,
        UnixSockets::Denied => Demand::Must,
    };
    let local =
        |hook, place| Candidate { hook, purpose: LOCAL, place, kind: BPF_PROG_TYPE_CGROUP_SOCK_ADDR, demand };
    all.extend([("agent_unixconn", 49), ("agent_unixsend", 50)].map(|hook| local(hook, Place::Agents)));
    if settings.sentinel == Sentinel::On {
        all.extend([("sentinel_uconn", 49), ("sentinel_usend", 50)].map(|hook| local(hook, Place::Root)));
    }
    all
}

const INGRESS: &str = "agent_ingress";

/// Every optional program of the one object: what is not asked for is taken away.
const NAMES: [&str; 5] = [INGRESS, "agent_unixconn", "agent_unixsend", "sentinel_uconn", "sentinel_usend"];

/// Every optional program there is, and the layer that some are.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().chain([security::LAYER]).chain(security::hooks().map(|(name, _)| name))
}

/// Hooks of what the settings demand.
pub(super) fn demanded(settings: &Settings) -> impl Iterator<Item = Hook> {
    candidates(settings).into_iter().filter(|one| one.demand == Demand::Must).map(|one| one.hook)
}

/// Hooks of what the settings ask for without demanding it.
pub(super) fn wanted(settings: &Settings) -> impl Iterator<Item = Hook> {
    let layer = (settings.security_hooks == SecurityHooks::On).then(security::hooks);
    let single = candidates(settings).into_iter().filter(|one| one.demand == Demand::May).map(|one| one.hook);
    single.chain(layer.into_iter().flatten())
}

/// What of that may never be left out again: a layer that stands in one of these generations, whoever made it.
pub(super) fn standing(generations: &[PathBuf]) -> Vec<Feature> {
    let layer = Feature { name: security::LAYER, purpose: security::PURPOSE, refused: None };
    if generations.iter().any(|generation| security::stands_in(generation)) {
        vec![layer]
    } else {
        Vec::new()
    }
}

/// Hooks of what the settings ask for and is pinned in a generation: of a layer all, if any is.
pub(super) fn pinned(settings: &Settings, generation: &Path) -> Vec<Hook> {
    let is_pinned = |hook: &Hook| generation.join(hook.0).exists();
    let has_layer = security::hooks().any(|hook| is_pinned(&hook));
    wanted(settings).filter(|hook| is_pinned(hook) || has_layer && hook.1 == sys::SECURITY_HOOK).collect()
}

/// Hooks of what the settings ask for and the kernel took.
pub(super) fn taken(settings: &Settings, features: &[Feature]) -> impl Iterator<Item = Hook> {
    wanted(settings).filter(|(name, kind)| {
        was_taken(if *kind == sys::SECURITY_HOOK { security::LAYER } else { name }, features)
    })
}

/// An optional program as another process tells of it.
pub(super) fn heard((name, refused): &(String, Option<String>)) -> Option<Feature> {
    let name = names().find(|known| known == name)?;
    let purpose = match name {
        INGRESS => INBOUND,
        security::LAYER => security::PURPOSE,
        _ => LOCAL,
    };
    Some(Feature { name, purpose, refused: refused.clone() })
}

fn was_taken(name: &str, features: &[Feature]) -> bool {
    features.iter().any(|feature| feature.name == name && feature.refused.is_none())
}

/// Where optional programs go.
#[derive(Debug)]
pub(super) struct Optional<'a> {
    pub(super) tables: &'a Tables,
    pub(super) generation: &'a Path,
    pub(super) parent: &'a Cgroup,
    pub(super) root: &'a Cgroup,
    /// Links that were made before.
    pub(super) held: &'a [Link],
}

impl Optional<'_> {
    /// Attaches what the settings ask for and the kernel takes, and takes the rest away.
    pub(super) fn fit(
        &self,
        settings: &Settings,
        before: &[Feature],
    ) -> Result<(Vec<Link>, Vec<Feature>), InterceptError> {
        let (mut links, mut features, mut object) = (Vec::new(), Vec::new(), None);
        let candidates = candidates(settings);
        for candidate in &candidates {
            let (name, purpose) = (candidate.hook.0, candidate.purpose);
            let refused = match self.follow(candidate, &mut object) {
                Ok(link) => {
                    links.push((candidate.hook, link));
                    None
                }
                Err(problem) if candidate.demand == Demand::Must || was_taken(name, before) => {
                    return Err(problem);
                }
                Err(problem) => {
                    let told = in_one_line(&problem);
                    tracing::warn!(program = name, %told, "the kernel refuses an optional program");
                    Some(told)
                }
            };
            features.push(Feature { name, purpose, refused });
        }
        self.unpin(NAMES.into_iter().filter(|name| !candidates.iter().any(|one| one.hook.0 == *name)))?;
        let (layer, feature) = self.secure(settings, before)?;
        links.extend(layer);
        features.extend(feature);
        Ok((links, features))
    }

    /// Puts the programs on security hooks, all of them or none.
    fn secure(
        &self,
        settings: &Settings,
        before: &[Feature],
    ) -> Result<(Vec<Link>, Option<Feature>), InterceptError> {
        let names = || security::hooks().map(|(name, _)| name);
        if settings.security_hooks == SecurityHooks::Off {
            self.unpin(names())?;
            return Ok((Vec::new(), None));
        }
        let mut ready = None;
        let attached: Result<_, _> = security::hooks().map(|hook| self.secured(hook, &mut ready)).collect();
        let attached = attached.and_then(|links| security::require_asked().map(|()| links));
        let (links, refused) = match attached {
            Ok(links) => (links, None),
            Err(problem) if was_taken(security::LAYER, before) => return Err(problem),
            Err(problem) => {
                let told = in_one_line(&problem);
                tracing::warn!(layer = security::LAYER, %told, "the kernel refuses an optional layer");
                self.unpin(names())?;
                (Vec::new(), Some(told))
            }
        };
        Ok((links, Some(Feature { name: security::LAYER, purpose: security::PURPOSE, refused })))
    }

    fn secured(&self, hook: Hook, ready: &mut Option<security::Ready>) -> Result<Link, InterceptError> {
        if let Some(link) = self.standing(hook, self.parent)? {
            return Ok((hook, link));
        }
        let ready = match ready {
            Some(ready) => ready,
            None => ready.insert(security::Ready::read(self.tables)?),
        };
        ready.attach(hook.0, self.generation).map(|link| (hook, link))
    }

    fn unpin(&self, names: impl Iterator<Item = &'static str>) -> Result<(), InterceptError> {
        let pins = names.map(|name| self.generation.join(name));
        pins.filter(|pin| pin.exists()).try_for_each(|pin| pins::remove(&pin))
    }

    /// The link that is there already, pinned again if its pin led elsewhere.
    fn standing(&self, hook: Hook, cgroup: &Cgroup) -> Result<Option<OwnedFd>, InterceptError> {
        if let Some(link) = programs::reopen(hook, cgroup, self.generation)
            && programs::status(hook, cgroup, self.generation).effective
        {
            return Ok(Some(link));
        }
        let old = self.generation.join(hook.0);
        if old.exists() {
            pins::remove(&old)?;
        }
        Ok(fitting::keep(self.held, hook, cgroup, self.generation))
    }

    fn follow(&self, candidate: &Candidate, object: &mut Option<Ready>) -> Result<OwnedFd, InterceptError> {
        let (hook, generation) = (candidate.hook, self.generation);
        let cgroup = match candidate.place {
            Place::Agents => self.parent,
            Place::Root => self.root,
        };
        if let Some(link) = self.standing(hook, cgroup)? {
            return Ok(link);
        }
        let ready = match object {
            Some(ready) => ready,
            None => {
                let refused = |source| programs::refused("chaperone-ebpf", source);
                object.insert(Ready::read(self.tables).map_err(refused)?)
            }
        };
        let program = ready.load(candidate).map_err(|source| programs::refused(hook.0, source))?;
        programs::fasten(&program, hook, cgroup, generation)
    }
}

/// The object with its tables put in. Reading it takes a while: it is done once, and only if something is missing.
#[derive(Debug)]
struct Ready {
    object: Object,
    /// The instructions name them by descriptor.
    _tables: Vec<MapData>,
}

impl Ready {
    fn read(tables: &Tables) -> Result<Self, EbpfError> {
        let mut object = Object::parse(OBJECT)?;
        // Other programs use what is loaded for them alone, and are not wanted here.
        let others = object.programs.extract_if(|name, _| !NAMES.contains(&name.as_str()));
        let others: HashSet<_> = others.map(|(_, program)| program.function_key()).collect();
        object.functions.retain(|key, _| !others.contains(key));
        let mut opened = Vec::new();
        for (name, shape) in &object.maps {
            // A table that is not pinned is none of ours: a program that used it would not pass the verifier.
            if let Ok(table) = MapData::from_pin(tables.pin(name)) {
                opened.push((name.clone(), table, shape.clone()));
            }
        }
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps = opened.iter().map(|(name, table, shape)| (name.as_str(), number(table), shape));
        object.relocate_maps(maps, &text)?;
        object.relocate_calls(&text)?;
        Ok(Self { object, _tables: opened.into_iter().map(|(_, table, _)| table).collect() })
    }

    fn load(&self, candidate: &Candidate) -> Result<OwnedFd, EbpfError> {
        let (name, attach_type) = candidate.hook;
        let function = self
            .object
            .programs
            .get(name)
            .and_then(|program| self.object.functions.get(&program.function_key()))
            .ok_or(EbpfError::ProgramError(ProgramError::NotLoaded))?;
        let license = &self.object.license;
        let program = Unloaded { name, license, kind: candidate.kind as u32, attach_type };
        sys::load(&program, &function.instructions).map_err(|io_error| {
            let call = "bpf(BPF_PROG_LOAD)";
            EbpfError::ProgramError(ProgramError::SyscallError(SyscallError { call, io_error }))
        })
    }
}

fn number(table: &MapData) -> RawFd {
    table.fd().as_fd().as_raw_fd()
}
