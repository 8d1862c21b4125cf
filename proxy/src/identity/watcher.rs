//! One agent's token: looked at each second, judged when anything it depends on changed.
//!
//! A token is judged anew when the file or the issuer's keys change, when keys run out, and as long as it is not
//! accepted. The answer lives in a [`Slot`], which compares the deadline again at every read.
//! INVARIANT: a failed look or judgement replaces the identity before anything else happens.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::spawn_blocking;

use crate::clock::Clock;
use crate::model::{AgentName, Identity, Principal, Unidentified, UnixMillis};
use crate::shutdown::{Phase, Shutdown};

use super::TokenSource;
use super::error::TokenError;
use super::issuer::{Issuer, closed};
use super::resolve::Change;
use super::token::verify;
use super::token_file::{Look, TokenFile};

/// One agent's current answer.
#[derive(Debug)]
pub(super) struct Slot {
    agent: AgentName,
    state: RwLock<State>,
    /// The answer once the deadline is past, made ahead so that reading allocates nothing.
    expired: Arc<Principal>,
    gathering: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    principal: Arc<Principal>,
    problem: Option<String>,
}

impl Slot {
    pub(super) fn new(agent: &AgentName) -> Self {
        let unidentified = |reason| {
            Arc::new(Principal { agent: agent.clone(), identity: Identity::Unidentified { reason } })
        };
        Self {
            agent: agent.clone(),
            state: RwLock::new(State { principal: unidentified(Unidentified::NoSource), problem: None }),
            expired: unidentified(Unidentified::Expired),
            gathering: Arc::new(Semaphore::new(GATHERING_MAX)),
        }
    }

    /// Who the agent is at `now`.
    pub(super) fn principal(&self, now: UnixMillis) -> Arc<Principal> {
        let principal = Arc::clone(&self.state.read().principal);
        match &principal.identity {
            Identity::Verified { expires_at, .. } if now >= *expires_at => Arc::clone(&self.expired),
            Identity::Verified { .. } | Identity::Unidentified { .. } => principal,
        }
    }

    /// What the operator should know.
    pub(super) fn problem(&self) -> Option<String> {
        self.state.read().problem.clone()
    }

    /// Limits how many of the agent's processes are examined at a time.
    pub(super) fn gathering(&self) -> &Arc<Semaphore> {
        &self.gathering
    }
}

/// Keeps one slot true.
#[derive(Debug)]
pub(super) struct Watcher {
    slot: Arc<Slot>,
    source: TokenSource,
    issuer: Issuer,
    file: Arc<Mutex<TokenFile>>,
    token: Result<String, TokenError>,
    /// Version of the keys the last judgement used; `None` if it must be repeated.
    judged_by: Option<u64>,
    announced: Arc<Principal>,
    changes: broadcast::Sender<Change>,
    clock: Clock,
}

impl Watcher {
    pub(super) fn new(
        slot: Arc<Slot>,
        source: TokenSource,
        issuer: Issuer,
        changes: broadcast::Sender<Change>,
        clock: Clock,
    ) -> Self {
        let file = Arc::new(Mutex::new(TokenFile::new(source.token_file.clone())));
        let announced = slot.principal(clock.now());
        let token = Err(TokenError::Unreadable("it was not read yet".to_owned()));
        Self { slot, source, issuer, file, token, judged_by: None, announced, changes, clock }
    }

    /// Runs until the daemon drains or `alive` closes.
    pub(super) fn start(mut self, alive: watch::Receiver<()>, shutdown: &Shutdown) {
        let end = shutdown.clone();
        shutdown.spawn("token watch", async move {
            let mut keys = self.issuer.watch();
            let work = async {
                loop {
                    // Dropping either arm loses nothing: the next look sees whatever changed.
                    tokio::select! {
                        () = tokio::time::sleep(LOOK_INTERVAL) => {}
                        changed = keys.changed() => if changed.is_err() { return },
                    }
                    self.look().await;
                }
            };
            // Termination first; a look that is dropped leaves the last answer, which still runs out.
            tokio::select! {
                biased;
                () = end.reached(Phase::Draining) => {}
                () = closed(alive) => {}
                () = work => {}
            }
        });
    }

    /// Looks at the file and judges what it holds.
    pub(super) async fn look(&mut self) {
        let file = Arc::clone(&self.file);
        let looked = spawn_blocking(move || file.lock().look()).await;
        let looked = looked.unwrap_or_else(|error| Err(TokenError::Unreadable(error.to_string())));
        match looked {
            Ok(Look::Unchanged) => {}
            Ok(Look::Read(token)) => {
                self.token = Ok(token);
                self.judged_by = None;
            }
            Err(error) => {
                self.token = Err(error);
                self.judged_by = None;
            }
        }
        self.judge();
    }

    fn judge(&mut self) {
        let now = self.clock.now();
        let (keys, version) = self.issuer.keys();
        let current = self.slot.principal(now);
        let settled = matches!(current.identity, Identity::Verified { .. });
        if settled && keys.is_some() && self.judged_by == Some(version) {
            return;
        }
        let judged = match (&self.token, keys) {
            (Err(error), _) => Err(error.clone()),
            (Ok(_), None) => Err(TokenError::NoKeys),
            (Ok(token), Some(keys)) => verify(token, &self.source, &keys, now),
        };
        if judged == Err(TokenError::UnknownKey) {
            self.issuer.want();
        }
        let (identity, problem) = match judged {
            Ok(identity) => {
                self.judged_by = Some(version);
                (identity, None)
            }
            Err(error) => {
                let problem = match (&error, self.issuer.problem()) {
                    (TokenError::NoKeys, Some(cause)) => format!("{error}: {cause}"),
                    _ => error.to_string(),
                };
                (Identity::Unidentified { reason: error.reason() }, Some(problem))
            }
        };
        let principal = Arc::new(Principal { agent: self.slot.agent.clone(), identity });
        *self.slot.state.write() = State { principal: Arc::clone(&principal), problem: problem.clone() };
        self.announce(principal, problem.as_deref());
    }

    fn announce(&mut self, principal: Arc<Principal>, problem: Option<&str>) {
        if principal == self.announced {
            return;
        }
        match problem {
            None => tracing::info!(agent = %principal.agent, "identity verified"),
            Some(problem) => tracing::warn!(agent = %principal.agent, problem, "agent is unidentified"),
        }
        self.announced = Arc::clone(&principal);
        if self.changes.send(Change { principal }).is_err() {
            tracing::trace!("nobody listens for changes of identity");
        }
    }
}

/// Tokens are renewed minutes before their end; a second is soon enough and costs two system calls.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A hostile process can hang the thread that examines it; it shall exhaust only its own agent's slots.
const GATHERING_MAX: usize = 8;

#[cfg(test)]
mod tests;
