//! Records of connections and sessions, beside those of requests.
//!
//! INVARIANT: a session whose opening was recorded has its end recorded, also when its task is dropped.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::admit::{Door, Gate, subject};
use super::refusal::{Refusal, RefusalKind};
use crate::audit::{Appender, Event};
use crate::model::{AgentName, Evidence, Principal, Protocol, Session};

/// Connections that were accepted and stand in no record yet, by account.
#[derive(Debug, Default)]
pub(super) struct Unrecorded(Mutex<BTreeMap<u64, u64>>);

/// A connection that was accepted. It counts as unrecorded until this is dropped. INVARIANT: whoever drops it wrote its record
/// and said so; otherwise it is recorded as turned away.
#[derive(Debug)]
pub struct Arrived {
    gate: Gate,
    account: u64,
    destination: SocketAddr,
    recorded: bool,
}

impl Arrived {
    /// Records that it became no session.
    pub fn turned_away(self, turned: &Turned) {
        self.gate.turned_away(turned);
        self.is_recorded();
    }

    /// Its record is written.
    pub fn is_recorded(mut self) {
        self.recorded = true;
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        if !self.recorded {
            let (destination, account, reason) =
                (self.destination, self.account, "stopped by force".to_owned());
            self.gate.turned_away(&Turned { destination, account, known: None, reason });
        }
        let mut counts = self.gate.unrecorded().0.lock();
        if let Some(count) = counts.get_mut(&self.account) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.account);
            }
        }
    }
}

/// Shared by a session's door and its end: whichever writes first lets it go.
pub(super) type Awaiting = Arc<Mutex<Option<Arrived>>>;

/// Lets go what the record now tells of.
pub(super) fn stands_in_the_record(awaiting: &Awaiting) {
    let arrived = awaiting.lock().take();
    if let Some(arrived) = arrived {
        arrived.is_recorded();
    }
}

/// A connection that became no session.
#[derive(Debug)]
pub struct Turned {
    /// The address dialled.
    pub destination: SocketAddr,
    /// Under which cgroup the kernel counted it.
    pub account: u64,
    /// Agent and process, if they are known.
    pub known: Option<(AgentName, Evidence)>,
    /// Why.
    pub reason: String,
}

/// What was decided since the daemon started.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests allowed.
    pub allowed: AtomicU64,
    /// Requests held.
    pub held: AtomicU64,
    /// Requests refused.
    pub denied: AtomicU64,
    /// Connections turned away.
    pub turned_away: AtomicU64,
    /// Sessions opened.
    pub sessions: AtomicU64,
}

impl Counts {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes a session's end once.
#[derive(Debug)]
pub struct Closing {
    gate: Gate,
    session: Arc<Session>,
    requests: Arc<AtomicU64>,
    arrived: Awaiting,
    told: bool,
}

impl Closing {
    /// Records the end.
    pub fn close(mut self, why: String, bytes: (u64, u64)) {
        self.tell(&why, bytes);
    }

    fn tell(&mut self, why: &str, (bytes_in, bytes_out): (u64, u64)) {
        if self.told {
            return;
        }
        self.told = true;
        let principal = self.gate.principal(&self.session.agent);
        let requests = self.requests.load(Ordering::Relaxed);
        note(
            self.gate.appender(),
            &Event::SessionClosed {
                session: self.session.id,
                agent: Cow::Borrowed(&self.session.agent),
                subject: subject(&principal).map(Cow::Owned),
                why: Cow::Borrowed(why),
                requests,
                bytes_in,
                bytes_out,
                account: self.session.evidence.account,
            },
        );
        stands_in_the_record(&self.arrived);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.tell("stopped by force", (0, 0));
    }
}

impl Gate {
    /// Records a connection that became no session.
    fn turned_away(&self, turned: &Turned) {
        Counts::add(&self.counts().turned_away);
        note(
            self.appender(),
            &Event::ConnectionRefused {
                agent: turned.known.as_ref().map(|(agent, _)| Cow::Borrowed(agent)),
                account: turned.account,
                destination: Some(turned.destination),
                evidence: turned.known.as_ref().map(|(_, evidence)| Cow::Borrowed(evidence)),
                reason: Cow::Borrowed(&turned.reason),
            },
        );
    }

    /// Notes that a connection of this account was accepted.
    #[must_use]
    pub fn arrived(&self, account: u64, destination: SocketAddr) -> Arrived {
        let mut counts = self.unrecorded().0.lock();
        let count = counts.entry(account).or_insert(0);
        *count = count.saturating_add(1);
        drop(counts);
        Arrived { gate: self.clone(), account, destination, recorded: false }
    }

    /// Connections that were accepted and stand in no record yet, by account.
    #[must_use]
    pub fn not_yet_recorded(&self) -> BTreeMap<u64, u64> {
        self.unrecorded().0.lock().clone()
    }

    /// The door for a session, and the guard that records its end.
    #[must_use]
    pub fn door(&self, session: Arc<Session>, arrived: Arrived) -> (Door, Closing) {
        let arrived = Arc::new(Mutex::new(Some(arrived)));
        let requests = Arc::new(AtomicU64::new(0));
        let closing = Closing {
            gate: self.clone(),
            session: Arc::clone(&session),
            requests: Arc::clone(&requests),
            arrived: Arc::clone(&arrived),
            told: false,
        };
        (Door::new(self.clone(), session, requests, arrived), closing)
    }
}

impl Door {
    /// Records the opening of the session. Without this record there is no session.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn open(&self, principal: &Principal, protocol: Protocol, client_tls: bool) -> Result<(), Refusal> {
        let session = self.session();
        let event = Event::SessionOpened {
            session: session.id,
            principal: Cow::Borrowed(principal),
            evidence: Cow::Borrowed(&session.evidence),
            resource: Cow::Borrowed(&session.resource.name),
            protocol,
            destination: session.destination,
            asked: session.asked.as_deref().map(Cow::Borrowed),
            client_tls,
            upstream_tls: session.resource.tls.mode,
        };
        match self.appender().append(&event) {
            Ok(_) => {
                stands_in_the_record(self.awaiting());
                Counts::add(&self.counts().sessions);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, session = %session.id, "session refused: its record cannot be written");
                Err(Refusal::plain(RefusalKind::NoRecord))
            }
        }
    }
}

fn note(appender: &Appender, event: &Event<'_>) {
    if let Err(error) = appender.append(event) {
        tracing::error!(%error, "not recorded");
    }
}
