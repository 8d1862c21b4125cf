//! What the kernel counted for each agent, and the switch that stops one.
//!
//! An account is a cgroup right below the agents' parent. Its counts only grow; they are what the record is checked against.
//! Quarantine names cgroups, and covers everything below them. INVARIANT: it is announced to the programs only after it is
//! written, and no longer only when nothing is left, so that they never look for what is not there, nor miss what is.
//! Known limit: counts of an account that is gone stay until they are forgotten.

use aya::maps::{Array, HashMap, MapData, MapError};
use proxy_common::account::{ANY_QUARANTINED, Account, Parent};

use super::error::InterceptError;
use super::maps::{ACCOUNTS, PARENT, QUARANTINED, Tables};

/// The kernel's counts for one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccountCounts {
    /// The cgroup right below the agents' parent.
    pub cgroup_id: u64,
    /// Connections sent to the proxy.
    pub redirected: u64,
    /// Connections that reached a socket of the proxy.
    pub delivered: u64,
    /// Connections that ended before.
    pub unanswered: u64,
    /// Sockets, connections and datagrams denied.
    pub denied: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Connections to servers of the account itself, which did not go to the proxy.
    pub local: u64,
    /// Datagrams that went to the resolver.
    pub datagrams: u64,
    /// Connections on their way to the proxy now.
    pub under_way: u64,
}

/// The accounts' table.
pub struct Accounts {
    table: HashMap<MapData, u64, Account>,
    quarantined: HashMap<MapData, u64, u32>,
    parent: Array<MapData, Parent>,
}

/// aya's arrays have no `Debug` of their own.
impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

impl Accounts {
    pub(super) fn open(tables: &Tables) -> Result<Self, InterceptError> {
        Ok(Self { table: tables.accounts()?, quarantined: tables.quarantined()?, parent: tables.parent()? })
    }

    /// Every account that ever connected or was denied something.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn counts(&self) -> Result<Vec<AccountCounts>, InterceptError> {
        self.table.iter().map(|entry| entry.map(counts).map_err(|source| map(ACCOUNTS, source))).collect()
    }

    /// Stops everything below these cgroups.
    ///
    /// # Errors
    /// When the kernel has no room; those that were written before it are stopped.
    pub fn quarantine(&mut self, cgroups: &[u64]) -> Result<(), InterceptError> {
        let written = cgroups.iter().try_for_each(|cgroup| self.quarantined.insert(cgroup, 1, 0));
        self.announce()?;
        written.map_err(|source| map(QUARANTINED, source))
    }

    /// Lets these cgroups go again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release(&mut self, cgroups: &[u64]) -> Result<(), InterceptError> {
        for cgroup in cgroups {
            gone(self.quarantined.remove(cgroup)).map_err(|source| map(QUARANTINED, source))?;
        }
        self.announce()
    }

    /// The cgroups that are stopped.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn quarantined(&self) -> Result<Vec<u64>, InterceptError> {
        self.quarantined.keys().collect::<Result<_, _>>().map_err(|source| map(QUARANTINED, source))
    }

    /// Forgets an account whose cgroup is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget(&mut self, cgroup: u64) -> Result<(), InterceptError> {
        gone(self.table.remove(&cgroup)).map_err(|source| map(ACCOUNTS, source))
    }

    /// Says that no account has anything under way: for a table of flows that is new while the accounts' is not. To be called
    /// before a program fills it: what is counted meanwhile is lost.
    pub(super) fn nothing_is_under_way(&mut self) -> Result<(), InterceptError> {
        let entries: Vec<(u64, Account)> =
            self.table.iter().collect::<Result<_, _>>().map_err(|source| map(ACCOUNTS, source))?;
        let written = entries
            .into_iter()
            .filter(|(_, account)| account.filed != 0)
            .try_for_each(|(id, account)| self.table.insert(id, Account { filed: 0, ..account }, 0));
        written.map_err(|source| map(ACCOUNTS, source))
    }

    /// Tells the programs whether they have to look for quarantined cgroups.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn announce(&mut self) -> Result<(), InterceptError> {
        let any = !self.quarantined()?.is_empty();
        let parent = self.parent.get(&0, 0).map_err(|source| map(PARENT, source))?;
        let flags = if any { parent.flags | ANY_QUARANTINED } else { parent.flags & !ANY_QUARANTINED };
        if flags == parent.flags {
            return Ok(());
        }
        self.parent.set(0, Parent { flags, ..parent }, 0).map_err(|source| map(PARENT, source))
    }
}

fn counts((cgroup_id, account): (u64, Account)) -> AccountCounts {
    AccountCounts {
        cgroup_id,
        redirected: account.redirected,
        delivered: account.delivered,
        unanswered: account.unanswered,
        denied: account.denied,
        dropped: account.dropped,
        local: account.local,
        datagrams: account.datagrams,
        under_way: u64::try_from(account.filed).unwrap_or(0),
    }
}

/// What is not there need not be removed.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

fn map(name: &'static str, source: MapError) -> InterceptError {
    InterceptError::Map { map: name, source: Box::new(source) }
}
