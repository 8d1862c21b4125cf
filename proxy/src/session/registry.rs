//! Sessions that are open, so that they can be listed and ended.
//!
//! INVARIANT: an entry lives exactly as long as its session's [`Seat`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::model::{AgentName, Session, SessionId, UnixMillis};

/// What is told of an open session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its id.
    pub id: SessionId,
    /// The agent.
    pub agent: AgentName,
    /// Name of the resource.
    pub resource: String,
    /// The address dialled.
    pub destination: SocketAddr,
    /// Process that opened it.
    pub pid: u32,
    /// Its executable.
    pub exe: String,
    /// When it was opened.
    pub opened_at: UnixMillis,
}

#[derive(Debug)]
struct Entry {
    summary: Summary,
    kill: watch::Sender<Option<String>>,
}

/// All open sessions. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Mutex<HashMap<SessionId, Entry>>>);

/// A session's place in the registry.
#[derive(Debug)]
pub(super) struct Seat {
    registry: Registry,
    id: SessionId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.0.lock().remove(&self.id);
    }
}

impl Registry {
    /// Enters a session; the receiver tells it when and why to end.
    pub(super) fn enter(&self, session: &Session) -> (Seat, watch::Receiver<Option<String>>) {
        let (kill, killed) = watch::channel(None);
        let summary = Summary {
            id: session.id,
            agent: session.agent.clone(),
            resource: session.resource.name.clone(),
            destination: session.destination,
            pid: session.evidence.pid,
            exe: session.evidence.exe.clone(),
            opened_at: session.opened_at,
        };
        self.0.lock().insert(session.id, Entry { summary, kill });
        (Seat { registry: self.clone(), id: session.id }, killed)
    }

    /// Open sessions, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Summary> {
        let mut all: Vec<Summary> = self.0.lock().values().map(|entry| entry.summary.clone()).collect();
        all.sort_by_key(|summary| (summary.opened_at, summary.id));
        all
    }

    /// Number of open sessions.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Ends every session of an agent; returns how many.
    pub fn kill_all(&self, agent: &AgentName, why: &str) -> usize {
        let entries = self.0.lock();
        let theirs = entries.values().filter(|entry| entry.summary.agent == *agent);
        theirs.filter(|entry| entry.kill.send(Some(why.to_owned())).is_ok()).count()
    }

    /// Ends a session with a reason that its agent is told. False if there is none of that id.
    #[must_use]
    pub fn kill(&self, id: SessionId, why: &str) -> bool {
        self.0.lock().get(&id).is_some_and(|entry| entry.kill.send(Some(why.to_owned())).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Credential, Evidence, Protocol, Resource, UpstreamTls, UpstreamTlsMode};

    fn session(id: u64) -> Session {
        let resource = Resource {
            name: "db".into(),
            protocol: Protocol::Postgres,
            addresses: vec![],
            labels: std::collections::BTreeMap::new(),
            credential: Credential { user: "u".into(), password_file: None, client_certificate: None },
            tls: UpstreamTls { mode: UpstreamTlsMode::Disable, ca_file: None, server_name: None },
            hold: std::time::Duration::from_secs(1),
            agent_scram: false,
            sync_reads: false,
            idle: std::time::Duration::ZERO,
        };
        Session {
            id: SessionId(id),
            agent: AgentName("a".into()),
            evidence: Arc::new(Evidence::default()),
            resource: Arc::new(resource),
            destination: "127.0.0.1:1".parse().unwrap(),
            routes: Arc::from([]),
            asked: None,
            opened_at: UnixMillis(id),
        }
    }

    #[test]
    fn a_session_is_listed_until_its_seat_is_given_up() {
        let registry = Registry::default();
        let (seat, _killed) = registry.enter(&session(1));
        assert_eq!(registry.list().len(), 1);
        drop(seat);
        assert_eq!(registry.count(), 0);
    }

    #[test]
    fn a_kill_reaches_only_the_session_it_names() {
        let registry = Registry::default();
        let (_one, first) = registry.enter(&session(1));
        let (_two, second) = registry.enter(&session(2));
        assert!(registry.kill(SessionId(1), "because"));
        assert!(!registry.kill(SessionId(3), "because"));
        assert_eq!(first.borrow().as_deref(), Some("because"));
        assert_eq!(*second.borrow(), None);
    }
}
