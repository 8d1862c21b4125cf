//! The thread that waits for the disk, so that nobody else has to: group commit, checkpoints, recovery.
//!
//! One fsync covers every record written before it. It runs at once when a receipt waits, else `sync_every` after the
//! first unsynced record. After a failure it tries each second to reopen the log: the bytes not known to be on disk
//! are checked against the chain and written again (a failed fsync may have dropped them), then synced.
//! INVARIANT: whatever ends this thread, receipts are told: [`Ended`] runs on unwind too.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::chain::{Chain, Head, SEAL_BYTES};
use super::notary::Notary;
use super::segments::Segment;
use super::storage::{Medium, write_whole};
use super::writer::{Condition, Mark, Progress, Writer};
use crate::clock::Clock;
use crate::shutdown::{Phase, Shutdown};

/// Records between checkpoints at the most.
const CHECKPOINT_RECORDS: u64 = 1000;

/// What appenders, receipts and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) writer: Mutex<Writer>,
    pub(super) wake: Condvar,
    pub(super) progress: watch::Sender<Progress>,
}

/// The thread's own state.
#[derive(Debug)]
pub(super) struct Syncer {
    pub(super) shared: Arc<Shared>,
    pub(super) notary: Notary,
    pub(super) clock: Clock,
    pub(super) shutdown: Shutdown,
    /// Held until the last byte is written.
    pub(super) lock: File,
    pub(super) sync_every: Duration,
    pub(super) checkpoint_every: Duration,
    pub(super) retry_every: Duration,
}

enum Step {
    Sync(Arc<dyn Medium>, Mark),
    Sign(Chain),
    Recover,
    End,
}

#[derive(Debug, Default)]
struct Deadlines {
    sync: Option<Instant>,
    checkpoint: Option<Instant>,
    retry: Option<Instant>,
    last_try_made: bool,
}

impl Syncer {
    /// Runs until the log is closed.
    pub(super) fn run(mut self) {
        let _ended = Ended(Arc::clone(&self.shared));
        let mut due = Deadlines::default();
        loop {
            match self.next(&mut due) {
                Step::Sync(medium, mark) => self.sync(medium.as_ref(), mark),
                Step::Sign(chain) => self.sign(chain, &mut due),
                Step::Recover => self.recover(&mut due),
                Step::End => break,
            }
        }
        if let Err(error) = self.lock.unlock() {
            tracing::debug!(%error, "the log's lock ends with its file");
        }
    }

    /// Waits until there is something to do.
    fn next(&self, due: &mut Deadlines) -> Step {
        let mut writer = self.shared.writer.lock();
        loop {
            let now = self.clock.instant();
            let until = match writer.condition {
                Condition::Failed { .. } => {
                    if writer.closing {
                        let first = !std::mem::replace(&mut due.last_try_made, true);
                        return if first { Step::Recover } else { Step::End };
                    }
                    let retry = *due.retry.get_or_insert(now);
                    if now >= retry {
                        return Step::Recover;
                    }
                    Some(retry)
                }
                Condition::Good | Condition::Closed => {
                    if writer.closing {
                        // Nothing may follow the final sync.
                        writer.condition = Condition::Closed;
                    }
                    match self.plan(&writer, due, now) {
                        Ok(step) => return step,
                        Err(until) => until,
                    }
                }
            };
            writer.idle = writer.written == writer.synced;
            match until {
                Some(until) => {
                    self.shared.wake.wait_until(&mut writer, until);
                }
                None => self.shared.wake.wait(&mut writer),
            }
            writer.idle = false;
        }
    }

    /// What a healthy log needs now, or until when nothing.
    fn plan(&self, writer: &Writer, due: &mut Deadlines, now: Instant) -> Result<Step, Option<Instant>> {
        let dirty = writer.written != writer.synced;
        let unsigned = writer.synced.chain.records().saturating_sub(self.notary.signed().unwrap_or(0));
        let checkpoint = *due.checkpoint.get_or_insert(now + self.checkpoint_every);
        let last = writer.closing && !dirty;
        if unsigned > 0 && (unsigned >= CHECKPOINT_RECORDS || now >= checkpoint || last) {
            return Ok(Step::Sign(writer.synced.chain));
        }
        if dirty {
            let sync = *due.sync.get_or_insert(now + self.sync_every);
            let awaited = writer.wanted > writer.synced.chain.records();
            let ending = writer.closing || self.shutdown.phase() > Phase::Running;
            if awaited || ending || now >= sync {
                due.sync = None;
                return Ok(Step::Sync(Arc::clone(&writer.medium), writer.written));
            }
            return Err(Some(sync));
        }
        if writer.closing {
            return Ok(Step::End);
        }
        // With nothing unsigned the time to the next checkpoint starts with the next record.
        if unsigned == 0 {
            due.checkpoint = None;
        }
        Err((unsigned > 0).then_some(checkpoint))
    }

    fn sync(&self, medium: &dyn Medium, mark: Mark) {
        let synced = medium.sync();
        let mut writer = self.shared.writer.lock();
        match synced {
            Ok(()) => writer.reached(mark),
            Err(error) => {
                let from = writer.synced.chain.next_sequence();
                writer.fail(&format!("sync: {error}"), from);
            }
        }
    }

    fn sign(&mut self, chain: Chain, due: &mut Deadlines) {
        due.checkpoint = None;
        if let Err(error) = self.notary.sign(chain) {
            let mut writer = self.shared.writer.lock();
            let from = writer.written.chain.next_sequence();
            writer.fail(&format!("checkpoint: {error}"), from);
        }
    }

    fn recover(&mut self, due: &mut Deadlines) {
        let recovered = self.reopen();
        let mut writer = self.shared.writer.lock();
        match recovered {
            Ok(medium) => {
                if let Err(error) = writer.resume(medium) {
                    tracing::debug!(%error, "the audit log still does not take records");
                }
            }
            Err(error) => tracing::debug!(%error, "the audit log cannot be reopened"),
        }
        due.retry = match writer.condition {
            Condition::Failed { .. } => Some(self.clock.instant() + self.retry_every),
            Condition::Good | Condition::Closed => None,
        };
    }

    /// Checks the end of the file against the chain, writes what may not be on disk again, and syncs.
    fn reopen(&mut self) -> io::Result<Arc<dyn Medium>> {
        let (storage, dir, written, synced) = {
            let writer = self.shared.writer.lock();
            (Arc::clone(&writer.storage), writer.dir.clone(), writer.written, writer.synced)
        };
        let medium = storage.open(&Segment::path_of(&dir, written.segment))?;
        let length = medium.length()?;
        if length < written.length {
            return Err(io::Error::other("records were removed"));
        }
        medium.truncate(written.length)?;
        let unsure = written.length.saturating_sub(synced.length);
        if let Some(seal_at) = synced.length.checked_sub(SEAL_BYTES as u64) {
            let mut seal = [0; SEAL_BYTES];
            medium.read_at(&mut seal, seal_at)?;
            if Head::claimed(&seal) != Some(synced.chain.head()) {
                return Err(io::Error::other("records were changed"));
            }
        }
        let mut bytes = vec![0; usize::try_from(unsure).map_err(io::Error::other)?];
        medium.read_at(&mut bytes, synced.length)?;
        let mut chain = synced.chain;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            chain = chain.check(line).map_err(io::Error::other)?.chain;
        }
        if chain != written.chain {
            return Err(io::Error::other("records were changed"));
        }
        if !bytes.is_empty() {
            write_whole(medium.as_ref(), &bytes, synced.length)?;
        }
        medium.sync()?;
        storage.sync_dir(&dir)?;
        self.notary.reopen()?;
        Ok(medium)
    }
}

/// Tells everybody that nothing more will be synced, also when the thread unwinds.
#[derive(Debug)]
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.writer.lock().condition = Condition::Closed;
        self.0.progress.send_modify(|progress| progress.ended = true);
    }
}
