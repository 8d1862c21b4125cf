//! Catalog snapshots shared by the sessions of one database.
//!
//! INVARIANT: a snapshot is never older than what its caller accepts; if a newer one cannot be had, the caller is told.
//! What relations were called in earlier snapshots goes on into later ones, so that a class does not get lost by a rename.
//! Known limit: that memory ends with the daemon.

use std::collections::HashMap;
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

type Known = HashMap<(String, String), (Instant, Arc<Catalog>)>;

/// All snapshots. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Snapshots {
    known: Arc<Mutex<Known>>,
    /// One reader at a time: a thousand sessions that begin together must not open a thousand catalog connections.
    reading: Arc<tokio::sync::Mutex<()>>,
    clock: Clock,
}

impl Snapshots {
    pub(super) fn new(clock: Clock) -> Self {
        Self { known: Arc::default(), reading: Arc::default(), clock }
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
        let accepted = if newer_than.is_zero() { FRESH } else { newer_than };
        let asked = self.clock.instant();
        if let Some(catalog) = self.remembered(&key, accepted, asked) {
            return Ok(catalog);
        }
        let _turn = self.reading.lock().await;
        // Whoever had the turn before may have read what is wanted here.
        let now = self.clock.instant();
        if let Some(catalog) = self.remembered(&key, accepted, asked) {
            return Ok(catalog);
        }
        let mut catalog = dialer.catalog(database).await?;
        let mut known = self.known.lock();
        if let Some((_, earlier)) = known.get(&key) {
            catalog.remember(earlier);
        }
        let catalog = Arc::new(catalog);
        if known.len() < DATABASES_MAX || known.contains_key(&key) {
            // The time before reading, so that a change during the read counts as newer.
            known.insert(key, (now, Arc::clone(&catalog)));
        }
        drop(known);
        Ok(catalog)
    }

    /// The snapshot of a database, if it was read less than `accepted` before `asked`.
    fn remembered(&self, key: &(String, String), accepted: Duration, asked: Instant) -> Option<Arc<Catalog>> {
        let known = self.known.lock();
        let (at, catalog) = known.get(key)?;
        (asked.saturating_duration_since(*at) < accepted).then(|| Arc::clone(catalog))
    }
}
