//! Signatures first; filled in next.
use super::{AuditError, Event, Settings};
use crate::{clock::Clock, shutdown::Shutdown};
/// The log, owned by the daemon.
#[derive(Debug)]
pub struct Log;
impl Log {
    /// Opens, recovers and locks.
    /// # Errors
    /// Always, for now.
    pub fn open(settings: &Settings, clock: &Clock, shutdown: &Shutdown) -> Result<Self, AuditError> {
        let _ = (settings, clock, shutdown);
        Err(AuditError::Closed)
    }
    /// A handle for writers.
    #[must_use]
    pub fn appender(&self) -> Appender {
        Appender
    }
    /// Final sync and checkpoint.
    pub async fn close(self) {}
}
/// Writes events.
#[derive(Debug, Clone)]
pub struct Appender;
impl Appender {
    /// Appends one event.
    /// # Errors
    /// Always, for now.
    pub fn append(&self, event: &Event<'_>) -> Result<Receipt, AuditError> {
        let _ = event;
        Err(AuditError::Closed)
    }
}
/// Proof of a written record.
#[derive(Debug)]
pub struct Receipt;
impl Receipt {
    /// Its sequence.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        0
    }
    /// Resolves after the fsync that covers it.
    /// # Errors
    /// Always, for now.
    pub async fn synced(self) -> Result<(), AuditError> {
        Err(AuditError::Closed)
    }
}
