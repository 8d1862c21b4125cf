//! The writing end: one segment, one chain, and the record of what went wrong. Used under one lock, no waiting.
//!
//! INVARIANT: the file's first `length` bytes are exactly the chain's records; anything behind them is cut before the
//! next record is written. After any error the writer is `Failed` and refuses everything until [`Writer::resume`];
//! what was refused meanwhile is then recorded as a gap.
//! Rotation waits for the disk once per segment, so that only the newest segment can ever hold unsynced records.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::chain::Chain;
use super::error::AuditError;
use super::event::Event;
use super::segments::Segment;
use super::storage::{Medium, Storage, cut_behind, write_whole};
use crate::clock::Clock;

/// The line buffer is kept between records up to this size; one huge record must not pin its memory.
const BUFFER_BYTES_KEPT: usize = 1024 * 1024;

/// How far the disk has come; receipts watch it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Records up to this one are on disk.
    pub(super) synced: u64,
    /// Records up to this one were written when the disk failed.
    pub(super) failed: u64,
    /// Nothing more will be synced.
    pub(super) ended: bool,
}

/// A point in the log: so many bytes of the segment hold the records up to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// First record of the segment.
    pub(super) segment: u64,
    pub(super) length: u64,
    pub(super) chain: Chain,
}

#[derive(Debug)]
pub(super) enum Condition {
    Good,
    Failed {
        cause: Arc<str>,
        /// First record that may be missing.
        from: u64,
        /// Events turned away since.
        refused: u64,
    },
    Closed,
}

/// Everything under the log's lock.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: PathBuf,
    pub(super) clock: Clock,
    pub(super) medium: Arc<dyn Medium>,
    /// Where the log stands, written.
    pub(super) written: Mark,
    /// Where the log stands, on disk.
    pub(super) synced: Mark,
    pub(super) condition: Condition,
    /// Highest record that a receipt waits for.
    pub(super) wanted: u64,
    /// The syncer sleeps without a deadline for new records.
    pub(super) idle: bool,
    /// The log is being closed.
    pub(super) closing: bool,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) segment_bytes_max: u64,
    pub(super) line: Vec<u8>,
}

impl Writer {
    /// Appends an encoded event and returns its sequence number.
    pub(super) fn append(&mut self, body: &[u8]) -> Result<u64, AuditError> {
        match &mut self.condition {
            Condition::Good => {}
            Condition::Failed { cause, refused, .. } => {
                *refused = refused.saturating_add(1);
                return Err(AuditError::Unavailable { cause: cause.to_string() });
            }
            Condition::Closed => return Err(AuditError::Closed),
        }
        match self.write(body) {
            Ok(()) => Ok(self.written.chain.records()),
            Err(error) => {
                let cause = format!("write: {error}");
                self.fail(&cause, self.written.chain.next_sequence());
                // The event that met the error is the first one turned away.
                if let Condition::Failed { refused, .. } = &mut self.condition {
                    *refused = 1;
                }
                Err(AuditError::Unavailable { cause })
            }
        }
    }

    fn write(&mut self, body: &[u8]) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.line);
        let written = self.write_line(body, &mut line);
        line.shrink_to(BUFFER_BYTES_KEPT);
        self.line = line;
        written
    }

    fn write_line(&mut self, body: &[u8], line: &mut Vec<u8>) -> io::Result<()> {
        let chain = self.written.chain.frame(self.clock.now(), body, line)?;
        let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.written.length > 0 && self.written.length.saturating_add(bytes) > self.segment_bytes_max {
            self.rotate()?;
        }
        write_whole(self.medium.as_ref(), line, self.written.length)?;
        self.written.length = self.written.length.saturating_add(bytes);
        self.written.chain = chain;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.medium.sync()?;
        self.reached(self.written);
        let first = self.written.chain.next_sequence();
        let next = self.storage.open(&Segment::path_of(&self.dir, first))?;
        // An attempt that failed half-way may have left the file behind; this process holds the lock, so it is ours.
        next.truncate(0)?;
        self.storage.sync_dir(&self.dir)?;
        self.medium = next;
        self.written = Mark { segment: first, length: 0, chain: self.written.chain };
        self.synced = self.written;
        Ok(())
    }

    /// The disk has everything up to `mark`.
    pub(super) fn reached(&mut self, mark: Mark) {
        if mark.segment == self.synced.segment && mark.length >= self.synced.length {
            self.synced = mark;
            self.progress.send_modify(|progress| progress.synced = mark.chain.records());
        }
    }

    /// Refuses everything from now on. Nothing that a failed write left behind stays, if the disk lets us cut it;
    /// if not, [`Writer::resume`] comes after a cut that worked.
    pub(super) fn fail(&mut self, cause: &str, from: u64) {
        if let Err(error) = cut_behind(self.medium.as_ref(), self.written.length) {
            tracing::debug!(%error, "the failed record could not be cut; it is cut before the log is used again");
        }
        match &mut self.condition {
            // `Closed` too: the final sync gets one more try.
            Condition::Good | Condition::Closed => {
                tracing::error!(cause, "the audit log does not take records; requests are denied");
                self.condition = Condition::Failed { cause: cause.into(), from, refused: 0 };
            }
            Condition::Failed { cause: known, from: known_from, .. } => {
                *known = cause.into();
                *known_from = (*known_from).min(from);
            }
        }
        let failed = self.written.chain.records();
        self.progress.send_modify(|progress| progress.failed = failed);
    }

    /// Serves again, after the file was checked, cut and synced as `medium`; records what was missed.
    pub(super) fn resume(&mut self, medium: Arc<dyn Medium>) -> Result<(), AuditError> {
        let Condition::Failed { cause, from, refused } = &self.condition else {
            return Ok(());
        };
        let (cause, from, refused) = (Arc::clone(cause), *from, *refused);
        self.medium = medium;
        self.reached(self.written);
        let gap = Event::Gap { from_sequence: from, cause: Cow::Borrowed(&cause), refused };
        let body = serde_json::to_vec(&gap)?;
        let written = self.write(&body).and_then(|()| self.medium.sync());
        if let Err(error) = written {
            self.fail(&format!("write: {error}"), from);
            return Err(AuditError::Unavailable { cause: error.to_string() });
        }
        self.reached(self.written);
        self.condition = Condition::Good;
        tracing::info!(refused, "the audit log takes records again");
        Ok(())
    }

    /// Why the log does not work, for those whose record is lost.
    pub(super) fn cause(&self) -> String {
        match &self.condition {
            Condition::Failed { cause, .. } => cause.to_string(),
            Condition::Good => "the disk failed meanwhile".to_owned(),
            Condition::Closed => "the log was closed".to_owned(),
        }
    }
}
