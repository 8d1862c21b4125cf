//! Catalog snapshots shared by the sessions of one database.
//!
//! INVARIANT: a snapshot is never older than what its caller accepts; if a newer one cannot be had, the caller is told.
//! What relations were called in earlier snapshots goes on into later ones, so that a class does not get lost by a rename.
//! Known limit: that memory ends with the daemon.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::catalog::Catalog;
use super::dial::{DialError, Dialer};
use crate::clock::Clock;

/// A snapshot this fresh serves anybody who does not ask for a newer one: a burst of connections reads the catalog once.
const FRESH: Duration = Duration::from_secs(2);
/// Databases remembered. More are read each time.
const DATABASES_MAX: usize = 256;

/// Resource and database.
type Key = (String, String);

/// All snapshots. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Snapshots {
    known: Arc<Mutex<HashMap<Key, Arc<Entry>>>>,
    clock: Clock,
}

/// What is known of one database.
#[derive(Debug, Default)]
struct Entry {
    /// One reader at a time: a thousand sessions that begin together must not open a thousand catalog connections. Readers of
    /// other databases do not wait, for a resource may hang.
    reading: tokio::sync::Mutex<()>,
    newest: Mutex<Option<(Instant, Arc<Catalog>)>>,
}

impl Snapshots {
    pub(super) fn new(clock: Clock) -> Self {
        Self { known: Arc::default(), clock }
    }

    /// A snapshot of `database` on `resource` at most [`FRESH`] old, or read after `since` ago when that is not zero.
    pub(super) async fn current(
        &self,
        resource: &str,
        database: &str,
        dialer: &Dialer,
        newer_than: Duration,
    ) -> Result<Arc<Catalog>, DialError> {
        let key = (resource.to_owned(), database.to_owned());
        self.current_with(key, newer_than, || dialer.catalog(database)).await
    }

    async fn current_with<R>(
        &self,
        key: Key,
        newer_than: Duration,
        read: impl FnOnce() -> R,
    ) -> Result<Arc<Catalog>, DialError>
    where
        R: Future<Output = Result<Catalog, DialError>>,
    {
        let accepted = if newer_than.is_zero() { FRESH } else { newer_than };
        let asked = self.clock.instant();
        let entry = self.entry(&key);
        if let Some(catalog) = entry.remembered(accepted, asked) {
            return Ok(catalog);
        }
        let _turn = entry.reading.lock().await;
        // Whoever had the turn before may have read what is wanted here.
        let now = self.clock.instant();
        if let Some(catalog) = entry.remembered(accepted, asked) {
            return Ok(catalog);
        }
        match read().await {
            Ok(mut catalog) => {
                let mut newest = entry.newest.lock();
                if let Some((_, earlier)) = &*newest {
                    catalog.remember(earlier);
                }
                let catalog = Arc::new(catalog);
                // The time before reading, so that a change during the read counts as newer.
                *newest = Some((now, Arc::clone(&catalog)));
                Ok(catalog)
            }
            Err(error) => {
                // A database that does not exist must not take the place of one that does.
                if entry.newest.lock().is_none() {
                    self.known.lock().remove(&key);
                }
                Err(error)
            }
        }
    }

    fn entry(&self, key: &Key) -> Arc<Entry> {
        let mut known = self.known.lock();
        if let Some(entry) = known.get(key) {
            return Arc::clone(entry);
        }
        let entry = Arc::new(Entry::default());
        if known.len() < DATABASES_MAX {
            known.insert(key.clone(), Arc::clone(&entry));
        }
        entry
    }
}

impl Entry {
    /// The newest snapshot, if it was read less than `accepted` before `asked`.
    fn remembered(&self, accepted: Duration, asked: Instant) -> Option<Arc<Catalog>> {
        let newest = self.newest.lock();
        let (at, catalog) = newest.as_ref()?;
        (asked.saturating_duration_since(*at) < accepted).then(|| Arc::clone(catalog))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn key(resource: &str) -> Key {
        (resource.to_owned(), "shop".to_owned())
    }

    #[tokio::test]
    async fn a_database_that_hangs_holds_up_nobody_elses_sessions() {
        let snapshots = Snapshots::new(Clock::system());
        let other = snapshots.clone();
        let hangs = async move {
            other.current_with(key("hangs"), Duration::ZERO, pending::<Result<Catalog, DialError>>).await
        };
        let serves = async {
            tokio::task::yield_now().await;
            let read = || ready(Ok(Catalog::default()));
            timeout(SOON, snapshots.current_with(key("serves"), Duration::ZERO, read)).await
        };
        tokio::select! {
            _ = hangs => panic!("a read that hangs came back"),
            served = serves => assert!(served.unwrap().is_ok()),
        }
    }

    #[tokio::test]
    async fn sessions_that_begin_together_read_once_and_a_failure_is_not_remembered() {
        let (snapshots, reads) = (Snapshots::new(Clock::system()), AtomicUsize::new(0));
        let fails = || ready(Err(DialError::NoTls(([127, 0, 0, 1], 1).into())));
        assert!(snapshots.current_with(key("one"), Duration::ZERO, fails).await.is_err());
        assert!(snapshots.known.lock().is_empty());
        let read = || async {
            reads.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(Catalog::default())
        };
        let both = tokio::join!(
            snapshots.current_with(key("one"), Duration::ZERO, read),
            snapshots.current_with(key("one"), Duration::ZERO, read),
        );
        assert!(both.0.is_ok() && both.1.is_ok());
        assert_eq!(reads.load(Ordering::Relaxed), 1);
    }
}
