//! The daemon's handles on the kernel's tables, always opened from their pins.
//!
//! INVARIANT: the pins' directory carries the layout's version, so a table opened here has the layout of
//! `proxy_common`; aya checks key and value sizes once more.

use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf, SkStorage};
use proxy_common::account::{Account, Parent};
use proxy_common::flow::{FlowKey, Stamp};
use proxy_common::names::{DatagramFlow, DatagramKey};
use proxy_common::scope::Scope;
use proxy_common::unreachable::{DestinationKey, Unreachable};

use super::error::InterceptError;
use super::pins;
use super::sys;

pub(super) const SOCKETS: &str = "SOCKETS";
pub(super) const SCOPES: &str = "SCOPES";
pub(super) const EVENTS: &str = "EVENTS";
pub(super) const COUNTERS: &str = "COUNTERS";
pub(super) const FLOWS: &str = "FLOWS";
pub(super) const RESOLVERS: &str = "RESOLVERS";
pub(super) const DATAGRAMS: &str = "DATAGRAMS";
pub(super) const PARENT: &str = "PARENT";
pub(super) const ACCOUNTS: &str = "ACCOUNTS";
pub(super) const QUARANTINED: &str = "QUARANTINED";
pub(super) const JAILED: &str = "JAILED";
pub(super) const UNREACHABLE: &str = "UNREACHABLE";
pub(super) const SIGHTED: &str = "SIGHTED";
pub(super) const SIGHTS: &str = "SIGHTS";
/// Every table of the object; each is pinned.
pub(super) const ALL: [&str; 14] = [
    SOCKETS,
    FLOWS,
    RESOLVERS,
    DATAGRAMS,
    SCOPES,
    PARENT,
    ACCOUNTS,
    QUARANTINED,
    JAILED,
    UNREACHABLE,
    EVENTS,
    COUNTERS,
    SIGHTED,
    SIGHTS,
];

/// Opens the tables pinned in one directory.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    directory: PathBuf,
}

impl Tables {
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Where a table is pinned.
    pub(super) fn pin(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn sockets(&self) -> Result<SkStorage<MapData, Stamp>, InterceptError> {
        self.open(SOCKETS, SkStorage::try_from)
    }

    pub(super) fn flows(&self) -> Result<HashMap<MapData, FlowKey, Stamp>, InterceptError> {
        self.open(FLOWS, HashMap::try_from)
    }

    pub(super) fn datagrams(&self) -> Result<HashMap<MapData, DatagramKey, DatagramFlow>, InterceptError> {
        self.open(DATAGRAMS, HashMap::try_from)
    }

    pub(super) fn scopes(&self) -> Result<HashMap<MapData, u64, Scope>, InterceptError> {
        self.open(SCOPES, HashMap::try_from)
    }

    pub(super) fn parent(&self) -> Result<Array<MapData, Parent>, InterceptError> {
        self.open(PARENT, Array::try_from)
    }

    pub(super) fn accounts(&self) -> Result<HashMap<MapData, u64, Account>, InterceptError> {
        self.open(ACCOUNTS, HashMap::try_from)
    }

    pub(super) fn jailed(&self) -> Result<HashMap<MapData, u64, u32>, InterceptError> {
        self.open(JAILED, HashMap::try_from)
    }

    pub(super) fn quarantined(&self) -> Result<HashMap<MapData, u64, u32>, InterceptError> {
        self.open(QUARANTINED, HashMap::try_from)
    }

    pub(super) fn unreachable(
        &self,
    ) -> Result<HashMap<MapData, DestinationKey, Unreachable>, InterceptError> {
        self.open(UNREACHABLE, HashMap::try_from)
    }

    pub(super) fn events(&self) -> Result<RingBuf<MapData>, InterceptError> {
        self.open(EVENTS, RingBuf::try_from)
    }

    pub(super) fn sights(&self) -> Result<RingBuf<MapData>, InterceptError> {
        self.open(SIGHTS, RingBuf::try_from)
    }

    pub(super) fn counters(&self) -> Result<PerCpuArray<MapData, u64>, InterceptError> {
        self.open(COUNTERS, PerCpuArray::try_from)
    }

    /// Handles on every table, to be kept.
    pub(super) fn hold(&self) -> Result<Vec<Held>, InterceptError> {
        ALL.into_iter()
            .map(|name| match MapData::from_pin(self.pin(name)) {
                Ok(table) => Ok(Held { name, table }),
                Err(source) => Err(InterceptError::Map { map: name, source: Box::new(source) }),
            })
            .collect()
    }

    fn open<T>(
        &self,
        name: &'static str,
        typed: impl FnOnce(Map) -> Result<T, MapError>,
    ) -> Result<T, InterceptError> {
        MapData::from_pin(self.pin(name))
            .and_then(Map::from_map_data)
            .and_then(typed)
            .map_err(|source| InterceptError::Map { map: name, source: Box::new(source) })
    }
}

/// A table that stays as long as this does, pinned or not.
#[derive(Debug)]
pub(super) struct Held {
    name: &'static str,
    table: MapData,
}

impl Held {
    /// The kernel's number for it; one that was made anew has another.
    pub(super) fn id(&self) -> u32 {
        self.table.info().map_or(0, |facts| facts.id())
    }

    /// Pins it where it belongs, if nothing is pinned there.
    pub(super) fn pin_again(&self, tables: &Tables) -> Result<(), InterceptError> {
        let pin = tables.pin(self.name);
        if pin.exists() {
            return Ok(());
        }
        sys::pin(self.table.fd(), &pin).map_err(|source| pins::pin("make", &pin, source))
    }
}
