//! The log as the daemon holds it: one [`Log`] that owns files and thread, many [`Appender`]s, a [`Receipt`] per record.
//!
//! `append` is synchronous: when it returns, the kernel has the bytes and killing the daemon loses nothing. Power loss
//! is what [`Receipt::synced`] is for. It refuses everything while the disk does not take records; see `writer`.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::Settings;
use super::chain::RECORD_BYTES_MAX;
use super::error::AuditError;
use super::event::Event;
use super::opening::{self, Opened};
use super::segments::SEGMENT_BYTES_MAX;
use super::storage::{Disk, Storage};
use super::syncer::{Shared, Syncer};
use super::writer::{Condition, Progress, Writer};
use crate::clock::Clock;
use crate::shutdown::Shutdown;

/// How often a log that failed is tried again: soon enough after somebody made room, rarely enough to cost nothing.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// A record is some hundred bytes; a larger one makes the buffer grow.
const BODY_BYTES_USUAL: usize = 1024;

/// What tests vary.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) segment_bytes_max: u64,
    pub(super) retry_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { storage: Arc::new(Disk), segment_bytes_max: SEGMENT_BYTES_MAX, retry_every: RETRY_EVERY }
    }
}

/// An open log. Dropping it closes it too, but then waits for the disk on the caller's thread.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    /// Opens the log for this process alone: makes it when missing, checks its newest part, cuts a torn end (and
    /// records that), and starts the syncing thread.
    ///
    /// # Errors
    /// When another process has it, the key or a file cannot be used, or it does not verify.
    pub fn open(settings: &Settings, clock: &Clock, shutdown: &Shutdown) -> Result<Self, AuditError> {
        Self::open_with(settings, clock, shutdown, Options::default())
    }

    pub(super) fn open_with(
        settings: &Settings,
        clock: &Clock,
        shutdown: &Shutdown,
        options: Options,
    ) -> Result<Self, AuditError> {
        let Opened { lock, medium, mark, notary, gaps } =
            opening::open(&settings.dir, &options.storage, clock)?;
        let records = mark.chain.records();
        let progress = watch::Sender::new(Progress { synced: records, ..Progress::default() });
        let writer = Writer {
            storage: options.storage,
            dir: settings.dir.clone(),
            clock: clock.clone(),
            medium,
            written: mark,
            synced: mark,
            condition: Condition::Good,
            wanted: 0,
            idle: false,
            closing: false,
            progress: progress.clone(),
            segment_bytes_max: options.segment_bytes_max,
            line: Vec::with_capacity(BODY_BYTES_USUAL),
        };
        let shared = Arc::new(Shared { writer: Mutex::new(writer), wake: Condvar::new(), progress });
        let syncer = Syncer {
            shared: Arc::clone(&shared),
            notary,
            clock: clock.clone(),
            shutdown: shutdown.clone(),
            lock,
            sync_every: settings.sync_every,
            checkpoint_every: settings.checkpoint_every,
            retry_every: options.retry_every,
        };
        let thread = std::thread::Builder::new().name("audit-sync".to_owned()).spawn(move || syncer.run());
        let thread = thread.map_err(|source| AuditError::File {
            action: "start the syncing thread for",
            path: settings.dir.clone(),
            source,
        })?;
        let log = Self { shared, thread: Some(thread) };
        for cause in gaps {
            let gap =
                Event::Gap { from_sequence: records.saturating_add(1), cause: cause.into(), refused: 0 };
            log.appender().append(&gap)?;
        }
        Ok(log)
    }

    /// A handle that can append and nothing else.
    #[must_use]
    pub fn appender(&self) -> Appender {
        Appender { shared: Arc::clone(&self.shared) }
    }

    /// Refuses further events, syncs and signs what is there, and releases the lock.
    pub async fn close(self) {
        let mut progress = self.shared.progress.subscribe();
        self.shut();
        // The sender lives in `self`; if it were gone there would be nothing to wait for.
        if progress.wait_for(|progress| progress.ended).await.is_err() {
            tracing::debug!("the audit log's progress is gone");
        }
    }

    fn shut(&self) {
        self.shared.writer.lock().closing = true;
        self.shared.wake.notify_all();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shut();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the audit log's syncing thread failed");
        }
    }
}

/// Appends events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Appender {
    shared: Arc<Shared>,
}

impl Appender {
    /// Why records are not taken at the moment; `None` while they are.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.shared.writer.lock().condition {
            Condition::Good => None,
            Condition::Failed { cause, refused, .. } => {
                Some(format!("{cause}; {refused} events refused since"))
            }
            Condition::Closed => Some("the record is closed".to_owned()),
        }
    }

    /// Appends one event. When it returns `Ok`, the record survives the end of this process, however it ends.
    ///
    /// # Errors
    /// When the event is too large, or the log is closed or does not take records now: deny.
    pub fn append(&self, event: &Event<'_>) -> Result<Receipt, AuditError> {
        let mut body = Vec::with_capacity(BODY_BYTES_USUAL);
        serde_json::to_writer(&mut body, event)?;
        if body.len() > RECORD_BYTES_MAX {
            return Err(AuditError::TooLarge { bytes: body.len() });
        }
        let mut writer = self.shared.writer.lock();
        let appended = writer.append(&body);
        // The syncer sleeps until the first record, or failure, after a pause.
        let wake = std::mem::replace(&mut writer.idle, false);
        drop(writer);
        if wake {
            self.shared.wake.notify_one();
        }
        Ok(Receipt { sequence: appended?, shared: Arc::clone(&self.shared) })
    }
}

/// A record that the kernel has.
#[derive(Debug)]
pub struct Receipt {
    sequence: u64,
    shared: Arc<Shared>,
}

impl Receipt {
    /// Position in the log, from 1.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns when the record is on disk; asks the disk at once. Cancel-safe: the record stays.
    ///
    /// # Errors
    /// When the disk failed before it confirmed the record: deny.
    pub async fn synced(self) -> Result<(), AuditError> {
        let mut progress = self.shared.progress.subscribe();
        self.want();
        let settled =
            |now: &Progress| now.synced >= self.sequence || now.failed >= self.sequence || now.ended;
        let synced = progress.wait_for(settled).await.is_ok_and(|now| now.synced >= self.sequence);
        if synced {
            return Ok(());
        }
        let cause = self.shared.writer.lock().cause();
        Err(AuditError::NotSynced { sequence: self.sequence, cause })
    }

    fn want(&self) {
        let mut writer = self.shared.writer.lock();
        if self.sequence > writer.synced.chain.records() && self.sequence > writer.wanted {
            writer.wanted = self.sequence;
            self.shared.wake.notify_one();
        }
    }
}
