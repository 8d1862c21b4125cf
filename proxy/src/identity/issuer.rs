//! One issuer: discovery of its keys, their refresh, and their memory during an outage.
//!
//! Keys are fetched at start, every ten minutes, and once more (at most each minute) when a token names an
//! unknown key. A failed fetch keeps the last good set; after a day without success it counts as gone.
//! Reads only `issuer` and `jwks_uri` of the discovery document: Kubernetes and CI issuers leave out endpoints
//! that a login client would demand, and none of those is used here.
//! INVARIANT: a key set in memory came over verified TLS from the issuer whose name equals the configured one.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use url::Url;

use crate::clock::Clock;
use crate::model::UnixMillis;
use crate::shutdown::{Phase, Shutdown};

use super::error::{IdentityError, KeysError};
use super::https::{Client, parse_address};
use super::keys::KeySet;

/// Handle to one issuer's keys. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Issuer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    discovery: Url,
    client: Client,
    clock: Clock,
    held: watch::Sender<Held>,
    wanted: Notify,
    problem: Mutex<Option<String>>,
}

/// What is known of an issuer's keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    /// The keys and when they were last confirmed.
    current: Option<(Arc<KeySet>, UnixMillis)>,
    /// Counts fetches, good or bad.
    attempts: u64,
    /// Changes when the keys change.
    version: u64,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    pub(super) fn new(name: &str, ca_file: Option<&Path>, clock: &Clock) -> Result<Self, IdentityError> {
        let fail = |problem: String| IdentityError::Issuer { issuer: name.to_owned(), problem };
        let url = parse_address(name).map_err(|error| fail(error.to_string()))?;
        if url.query().is_some() {
            return Err(fail("an issuer has no query".to_owned()));
        }
        let discovery = format!("{}/.well-known/openid-configuration", name.trim_end_matches('/'));
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            discovery: parse_address(&discovery).map_err(|error| fail(error.to_string()))?,
            client: Client::new(ca_file, clock).map_err(fail)?,
            clock: clock.clone(),
            held: watch::Sender::new(Held::default()),
            wanted: Notify::new(),
            problem: Mutex::new(None),
        })))
    }

    /// The keys, unless they were last confirmed too long ago; and the version that changes with them.
    pub(super) fn keys(&self) -> (Option<Arc<KeySet>>, u64) {
        let held = self.0.held.borrow();
        let now = self.0.clock.now();
        let recent =
            |confirmed: UnixMillis| u128::from(now.0.saturating_sub(confirmed.0)) <= OUTAGE_MAX.as_millis();
        let keys = held
            .current
            .as_ref()
            .filter(|(_, confirmed)| recent(*confirmed))
            .map(|(keys, _)| Arc::clone(keys));
        (keys, held.version)
    }

    /// Sees every change of [`Held`].
    pub(super) fn watch(&self) -> watch::Receiver<Held> {
        self.0.held.subscribe()
    }

    /// Returns after the first fetch, good or bad.
    pub(super) async fn asked(&self) {
        if self.watch().wait_for(|held| held.attempts > 0).await.is_err() {
            tracing::debug!("the issuer is gone");
        }
    }

    /// Says that a token names a key that is not known.
    pub(super) fn want(&self) {
        self.0.wanted.notify_one();
    }

    /// Why the last fetch failed, if it did.
    pub(super) fn problem(&self) -> Option<String> {
        self.0.problem.lock().clone()
    }

    /// Starts the refresh task; it ends when the daemon drains or `alive` closes.
    pub(super) fn start(&self, alive: watch::Receiver<()>, shutdown: &Shutdown) {
        let (issuer, end) = (self.clone(), shutdown.clone());
        shutdown.spawn("issuer keys", async move {
            let fetcher = issuer.clone();
            let fetch = move || {
                let issuer = fetcher.clone();
                async move { issuer.fetch().await }
            };
            // Termination first; a fetch that is dropped closes its connection and changes nothing.
            tokio::select! {
                biased;
                () = end.reached(Phase::Draining) => {}
                () = closed(alive) => {}
                () = issuer.keep_fresh(fetch) => {}
            }
        });
    }

    async fn keep_fresh<F, R>(&self, fetch: F)
    where
        F: Fn() -> R,
        R: Future<Output = Result<KeySet, KeysError>>,
    {
        let (mut backoff, mut gap) = (BACKOFF_MIN, Duration::ZERO);
        loop {
            let fetched = fetch().await;
            let good = fetched.is_ok();
            self.store(fetched);
            if !good {
                tokio::time::sleep(backoff).await;
                backoff = backoff.saturating_mul(2).min(BACKOFF_MAX);
                continue;
            }
            backoff = BACKOFF_MIN;
            // A notice that comes during the gap stays stored and is served after it.
            tokio::time::sleep(gap).await;
            // Dropping either arm loses nothing: a stored notice stays stored, and the next round sleeps anew.
            gap = tokio::select! {
                () = self.0.wanted.notified() => UNKNOWN_KEY_INTERVAL,
                () = tokio::time::sleep(REFRESH_INTERVAL) => Duration::ZERO,
            };
        }
    }

    pub(super) fn store(&self, fetched: Result<KeySet, KeysError>) {
        let now = self.0.clock.now();
        let problem = fetched.as_ref().err().map(ToString::to_string);
        if let Some(problem) = &problem {
            tracing::warn!(issuer = %self.0.name, %problem, "the issuer's keys could not be fetched");
        }
        *self.0.problem.lock() = problem;
        self.0.held.send_modify(|held| {
            held.attempts = held.attempts.saturating_add(1);
            let Ok(fresh) = fetched else { return };
            match &mut held.current {
                Some((keys, confirmed)) if keys.same(&fresh) => *confirmed = now,
                Some(_) | None => {
                    held.current = Some((Arc::new(fresh), now));
                    held.version = held.version.saturating_add(1);
                }
            }
        });
    }

    async fn fetch(&self) -> Result<KeySet, KeysError> {
        let bytes = self.0.client.fetch(&self.0.discovery).await?;
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| KeysError::Document(error.to_string()))?;
        if document.issuer != self.0.name {
            return Err(KeysError::OtherIssuer(document.issuer.chars().take(NAME_CHARS_SHOWN).collect()));
        }
        let keys = self.0.client.fetch(&parse_address(&document.jwks_uri)?).await?;
        KeySet::parse(&keys)
    }
}

/// Returns when the sender is gone.
pub(super) async fn closed(mut alive: watch::Receiver<()>) {
    while alive.changed().await.is_ok() {}
}

/// How often keys are confirmed.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
/// A forged key id must not turn us into a load generator.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(60);
/// First pause after a failed fetch; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// An issuer that is away for longer may have revoked its keys.
const OUTAGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Enough to recognise a name that someone else chose.
const NAME_CHARS_SHOWN: usize = 200;

#[cfg(test)]
mod tests;
