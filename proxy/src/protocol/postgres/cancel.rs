//! Cancel requests: our own keys, and who may use them.
//!
//! A cancel arrives on another connection. It is honoured only from the same agent, with the whole key, while that session
//! exists; the session itself decides whether anything runs that could be cancelled. INVARIANT: the server's own key never
//! reaches an agent.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::wire::CancelKey;
use crate::model::AgentName;

/// Secret bytes in protocol 3.0, where four is the only length a client accepts.
const SECRET_BYTES_OLD: usize = 4;
/// Secret bytes from protocol 3.2 on.
const SECRET_BYTES_NEW: usize = 32;

/// A cancel on its way to its session; the sender is told when it was dealt with.
pub(crate) type CancelCall = oneshot::Sender<()>;

/// All keys in use. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancels(Arc<Mutex<HashMap<u32, Entry>>>);

#[derive(Debug)]
struct Entry {
    key: CancelKey,
    agent: AgentName,
    calls: mpsc::Sender<CancelCall>,
}

/// A session's key; leaving scope withdraws it.
#[derive(Debug)]
pub(crate) struct Enrolled {
    registry: Cancels,
    /// What the agent is told.
    pub(crate) key: CancelKey,
    /// Cancels for this session.
    pub(crate) calls: mpsc::Receiver<CancelCall>,
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.registry.0.lock().remove(&self.key.pid);
    }
}

impl Cancels {
    /// A fresh key for a session of `agent` that speaks minor version `minor`.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(crate) fn enrol(&self, agent: &AgentName, minor: u16) -> Result<Enrolled, getrandom::Error> {
        let length = if minor >= 2 { SECRET_BYTES_NEW } else { SECRET_BYTES_OLD };
        let mut secret = vec![0_u8; length];
        getrandom::fill(&mut secret)?;
        let (sender, calls) = mpsc::channel(1);
        let mut entries = self.0.lock();
        let mut pid = getrandom::u32()?;
        // Process ids are positive 32-bit numbers to clients.
        while pid == 0 || pid > i32::MAX.unsigned_abs() || entries.contains_key(&pid) {
            pid = getrandom::u32()?;
        }
        let key = CancelKey { pid, secret };
        entries.insert(pid, Entry { key: key.clone(), agent: agent.clone(), calls: sender });
        drop(entries);
        Ok(Enrolled { registry: self.clone(), key, calls })
    }

    /// Hands a cancel to its session and waits until it was dealt with. Says nothing about whether the key was good: the
    /// protocol has no answer, and an agent must not learn one.
    pub(crate) async fn call(&self, agent: &AgentName, key: &CancelKey) {
        let calls = self
            .0
            .lock()
            .get(&key.pid)
            .filter(|entry| entry.fits(agent, key))
            .map(|entry| entry.calls.clone());
        let Some(calls) = calls else { return };
        let (done, dealt_with) = oneshot::channel();
        if calls.try_send(done).is_ok() {
            // An error means that the session is gone, which settles the matter too.
            drop(dealt_with.await);
        }
    }
}

impl Entry {
    fn fits(&self, agent: &AgentName, key: &CancelKey) -> bool {
        self.agent == *agent
            && aws_lc_rs::constant_time::verify_slices_are_equal(&self.key.secret, &key.secret).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_same_agent_with_the_whole_key_reaches_a_session() {
        let registry = Cancels::default();
        let (mine, other) = (AgentName("a".into()), AgentName("b".into()));
        let mut session = registry.enrol(&mine, 0).unwrap();
        assert_eq!(session.key.secret.len(), 4);
        registry.call(&other, &session.key).await;
        let short = CancelKey { pid: session.key.pid, secret: session.key.secret[..3].to_vec() };
        registry.call(&mine, &short).await;
        assert!(session.calls.try_recv().is_err());
        let key = session.key.clone();
        let call = registry.call(&mine, &key);
        let deal = async { session.calls.recv().await.unwrap().send(()).unwrap() };
        tokio::join!(call, deal);
    }

    #[tokio::test]
    async fn a_key_dies_with_its_session() {
        let registry = Cancels::default();
        let agent = AgentName("a".into());
        let key = registry.enrol(&agent, 2).unwrap().key.clone();
        assert_eq!(key.secret.len(), 32);
        registry.call(&agent, &key).await;
        assert!(registry.0.lock().is_empty());
    }
}
