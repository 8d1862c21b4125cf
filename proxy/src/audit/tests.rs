//! The log as a whole, on real files; one file per subject below.

mod faults;
mod reading_on;
mod recovery;
mod tampering;
mod writing;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::checkpoint::CHECKPOINT_FILE;
use super::log::Options;
use super::segments;
use super::storage::{Disk, Medium, Storage};
use super::*;
use crate::clock::Clock;
use crate::model::{
    AgentName, BoundValue, BundleHash, Decision, Evidence, Fault, Identity, Operation, Outcome, Principal,
    Protocol, Reasons, RequestId, SessionId, Tally, TicketId, UnixMillis, UpstreamTlsMode, Verdict,
};
use crate::shutdown::Shutdown;

/// A directory that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("audit-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn settings(&self) -> Settings {
        Settings {
            dir: self.log(),
            sync_every: Duration::from_millis(5),
            checkpoint_every: Duration::from_secs(60),
        }
    }

    fn open(&self) -> Result<Log, AuditError> {
        Log::open(&self.settings(), &Clock::fixed(UnixMillis(1_000)), &Shutdown::default())
    }

    /// A log with many files and checkpoints, and the thread that is writing so many records into it.
    fn growing(&self, records: u64) -> (Log, std::thread::JoinHandle<()>) {
        let mut settings = self.settings();
        settings.checkpoint_every = Duration::from_millis(1);
        let options = Options { segment_bytes_max: 20_000, ..Options::default() };
        let log = Log::open_with(&settings, &Clock::system(), &Shutdown::default(), options).unwrap();
        let appender = log.appender();
        let writing = std::thread::spawn(move || {
            for number in 0..records {
                appender.append(&loaded(number)).unwrap();
            }
        });
        (log, writing)
    }

    fn open_with(&self, options: Options) -> Result<Log, AuditError> {
        Log::open_with(&self.settings(), &Clock::fixed(UnixMillis(1_000)), &Shutdown::default(), options)
    }

    async fn filled(count: u64) -> Self {
        let folder = Self::new();
        let log = folder.open().unwrap();
        for number in 0..count {
            log.appender().append(&loaded(number)).unwrap();
        }
        log.close().await;
        folder
    }

    fn segment(&self) -> PathBuf {
        segments::list(&self.log()).unwrap().last().unwrap().path.clone()
    }

    fn records(&self) -> Vec<Found> {
        let mut all = Vec::new();
        let searched = search(&self.log(), &Filter::default(), &mut |found| {
            all.push(found);
            ControlFlow::Continue(())
        });
        assert_eq!(searched.unwrap().unreadable, 0);
        all
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn loaded(number: u64) -> Event<'static> {
    Event::PolicyLoaded { bundle: BundleHash(format!("bundle-{number}")) }
}

fn decided<'a>(agent: &'a AgentName, statement: &'a str, operation: &'a Operation) -> Event<'a> {
    let decision = Decision {
        verdict: Verdict::Deny,
        reasons: Reasons { policies: vec!["no-ddl".into()], errors: vec![] },
        bundle: BundleHash("b".into()),
    };
    Event::RequestDecided {
        request: RequestId { session: SessionId(7), number: 3 },
        agent: Cow::Borrowed(agent),
        subject: Some("svc".into()),
        resource: "orders-db".into(),
        statement: statement.into(),
        values: Cow::Owned(vec![BoundValue { type_oid: 25, text: None }]),
        operation: Cow::Borrowed(operation),
        decision: Cow::Owned(decision),
        ticket: None,
        masks: Cow::Borrowed(&[]),
    }
}
