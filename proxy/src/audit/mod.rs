//! The record: an append-only, hash-chained, signed log of everything that was decided and done.
//!
//! One daemon writes ([`Log`], [`Appender`]); anybody with the files can verify and search them without it.
//! It refuses to open a log whose chain is broken, and refuses every event while the disk does not take it:
//! callers deny on any [`AuditError`].
//!
//! INVARIANT: record N's hash covers record N-1's hash and N's own bytes; a checkpoint signs the hash of the newest
//! record. Known limit: whoever holds the key, or removes records *and* every checkpoint after them, is found only
//! by comparing with a checkpoint kept elsewhere (`verify_with`).

mod chain;
mod checkpoint;
mod error;
mod event;
mod key;
mod log;
mod notary;
mod opening;
mod reconcile;
mod search;
mod segments;
mod storage;
mod syncer;
mod verify;
mod walk;
mod writer;

use std::path::PathBuf;
use std::time::Duration;

pub use chain::Problem;
pub use checkpoint::Flaw;
pub use error::AuditError;
pub use event::{Event, KernelCounts, Record, SCHEMA, TicketFacts};
pub use log::{Appender, Log, Receipt};
pub use reconcile::{Difference, Finding, Reconciler, Seen};
pub use search::{Filter, Found, Searched, search};
pub use verify::{Report, Trust, Verifier, VerifyError, verify, verify_with};
pub use walk::Passed;

/// Where and how the record is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directory of the log (0700); made when missing.
    pub dir: PathBuf,
    /// Longest time a written record may wait for the disk.
    pub sync_every: Duration,
    /// Longest time between signed checkpoints while records arrive.
    pub checkpoint_every: Duration,
}

#[cfg(test)]
mod tests;
