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

#[tokio::test]
async fn a_log_that_was_closed_verifies_and_goes_on_where_it_stood() {
    let folder = Folder::filled(5).await;
    let log = folder.open().unwrap();
    let receipt = log.appender().append(&loaded(5)).unwrap();
    assert_eq!(receipt.sequence(), 6);
    receipt.synced().await.unwrap();
    log.close().await;
    let report = verify(&folder.log()).unwrap();
    assert_eq!((report.records, report.signed, report.gaps, report.checkpoints), (6, 6, 0, 3));
}

#[tokio::test]
async fn an_empty_log_is_signed_and_verifies() {
    let folder = Folder::filled(0).await;
    let report = verify(&folder.log()).unwrap();
    assert_eq!((report.records, report.signed, report.checkpoints), (0, 0, 1));
}

#[test]
fn a_folder_without_a_log_does_not_verify() {
    let folder = Folder::new();
    assert!(matches!(verify(&folder.log()), Err(VerifyError::File { .. })));
}

#[tokio::test]
async fn a_second_writer_is_refused_until_the_first_is_closed() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    assert!(matches!(folder.open(), Err(AuditError::Locked { .. })));
    log.close().await;
    folder.open().unwrap().close().await;
}

#[tokio::test]
async fn appending_to_a_closed_log_is_refused() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    let appender = log.appender();
    log.close().await;
    assert!(matches!(appender.append(&loaded(1)), Err(AuditError::Closed)));
}

#[tokio::test]
async fn a_record_is_readable_before_it_is_synced_and_while_the_log_is_open() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    log.appender().append(&loaded(1)).unwrap();
    assert_eq!(folder.records().len(), 1);
    assert_eq!(verify(&folder.log()).unwrap().records, 1);
    log.close().await;
}

/// The promise of the log: every byte of it counts.
#[tokio::test]
async fn every_flipped_byte_is_found() {
    let folder = Folder::filled(3).await;
    {
        let log = folder.open().unwrap();
        let agent = AgentName("reporter".into());
        log.appender().append(&decided(&agent, "drop table \"x\"\n", &Operation::unknown())).unwrap();
        log.close().await;
    }
    verify(&folder.log()).unwrap();
    for path in [folder.segment(), folder.log().join(CHECKPOINT_FILE), folder.log().join("audit.pub")] {
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            for bit in [0x01, 0x20] {
                let mut bad = good.clone();
                bad[at] ^= bit;
                fs::write(&path, &bad).unwrap();
                assert!(verify(&folder.log()).is_err(), "{} byte {at} bit {bit:#x}", path.display());
            }
        }
        fs::write(&path, &good).unwrap();
    }
    verify(&folder.log()).unwrap();
}

/// Tail records that no checkpoint covers yet rest on the chain alone: flips are found, clean truncation is not.
#[tokio::test]
async fn flips_behind_the_last_checkpoint_are_found_and_a_clean_cut_there_is_not() {
    let folder = Folder::filled(2).await;
    let checkpoints = fs::read(folder.log().join(CHECKPOINT_FILE)).unwrap();
    let covered = fs::read(folder.segment()).unwrap().len();
    let log = folder.open().unwrap();
    log.appender().append(&loaded(9)).unwrap();
    log.close().await;
    fs::write(folder.log().join(CHECKPOINT_FILE), checkpoints).unwrap();
    let good = fs::read(folder.segment()).unwrap();
    for at in covered..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(folder.segment(), &bad).unwrap();
        assert!(verify(&folder.log()).is_err(), "byte {at}");
    }
    fs::write(folder.segment(), &good[..covered]).unwrap();
    assert_eq!(verify(&folder.log()).unwrap().records, 2);
}

#[tokio::test]
async fn truncation_to_before_a_checkpoint_is_found_and_not_appended_to() {
    let folder = Folder::filled(4).await;
    let text = fs::read_to_string(folder.segment()).unwrap();
    let cut = text.split_inclusive('\n').take(3).collect::<String>();
    fs::write(folder.segment(), cut).unwrap();
    assert!(matches!(verify(&folder.log()), Err(VerifyError::Truncated { records: 3, signed: 4 })));
    let Err(AuditError::Broken(why)) = folder.open() else { panic!("opened a truncated log") };
    assert!(matches!(*why, VerifyError::Truncated { records: 3, signed: 4 }));
}

#[tokio::test]
async fn records_and_checkpoints_cut_together_are_found_with_a_checkpoint_kept_elsewhere() {
    let folder = Folder::filled(2).await;
    let (records, notes) = (folder.segment(), folder.log().join(CHECKPOINT_FILE));
    let old = (fs::read(&records).unwrap(), fs::read(&notes).unwrap());
    let log = folder.open().unwrap();
    log.appender().append(&loaded(9)).unwrap();
    log.close().await;
    let kept = fs::read_to_string(&notes).unwrap();
    let last = kept.get(old.1.len()..).unwrap().to_owned();
    fs::write(&records, old.0).unwrap();
    fs::write(&notes, old.1).unwrap();
    assert!(verify(&folder.log()).is_ok());
    for checkpoints in [last, kept] {
        let trust = Trust { checkpoints: Some(checkpoints), ..Trust::default() };
        let found = verify_with(&folder.log(), &trust, &mut |_| {});
        assert!(matches!(found, Err(VerifyError::Truncated { records: 2, signed: 3 })), "{found:?}");
    }
    let other = Folder::filled(1).await;
    let trust = Trust { key: Some(verify(&other.log()).unwrap().key), ..Trust::default() };
    assert!(matches!(verify_with(&folder.log(), &trust, &mut |_| {}), Err(VerifyError::Key { .. })));
}

#[tokio::test]
async fn a_changed_record_stops_the_daemon_from_appending_and_is_named() {
    let folder = Folder::filled(4).await;
    let text = fs::read_to_string(folder.segment()).unwrap().replace("bundle-2", "bundle-7");
    fs::write(folder.segment(), text).unwrap();
    let Err(AuditError::Broken(why)) = folder.open() else { panic!("opened a changed log") };
    assert!(matches!(*why, VerifyError::Record { sequence: 3, problem: Problem::Hash, .. }), "{why}");
}

#[tokio::test]
async fn swapped_and_repeated_records_are_found() {
    let folder = Folder::filled(4).await;
    let text = fs::read_to_string(folder.segment()).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for order in [vec![0, 2, 1, 3], vec![0, 1, 1, 2, 3], vec![0, 2, 3], vec![1, 2, 3]] {
        let changed = order.iter().map(|index| lines[*index]).collect::<String>();
        fs::write(folder.segment(), changed).unwrap();
        assert!(matches!(verify(&folder.log()), Err(VerifyError::Record { .. })), "{order:?}");
    }
}

#[tokio::test]
async fn a_checkpoint_taken_out_of_the_middle_is_found() {
    let folder = Folder::filled(2).await;
    folder.open().unwrap().close().await;
    let log = folder.open().unwrap();
    log.appender().append(&loaded(9)).unwrap();
    log.close().await;
    let path = folder.log().join(CHECKPOINT_FILE);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let without = [&lines[..9], &lines[18..]].concat().concat();
    fs::write(&path, without).unwrap();
    assert!(matches!(
        verify(&folder.log()),
        Err(VerifyError::Checkpoint { number: 2, flaw: Flaw::Order, .. })
    ));
}

#[tokio::test]
async fn a_removed_segment_is_found_wherever_it_was() {
    let folder = Folder::new();
    let options = || Options { segment_bytes_max: 500, ..Options::default() };
    let log = folder.open_with(options()).unwrap();
    for number in 0..12 {
        log.appender().append(&loaded(number)).unwrap();
    }
    log.close().await;
    let report = verify(&folder.log()).unwrap();
    assert_eq!(report.records, 12);
    assert!(report.segments >= 4, "{report:?}");
    for segment in segments::list(&folder.log()).unwrap() {
        let kept = fs::read(&segment.path).unwrap();
        fs::remove_file(&segment.path).unwrap();
        assert!(verify(&folder.log()).is_err(), "{}", segment.name());
        fs::write(&segment.path, kept).unwrap();
    }
    let log = folder.open_with(options()).unwrap();
    assert_eq!(log.appender().append(&loaded(0)).unwrap().sequence(), 13);
    log.close().await;
    verify(&folder.log()).unwrap();
}

#[tokio::test]
async fn a_torn_last_record_is_cut_and_the_cut_is_recorded() {
    for torn in [1, 20, 70] {
        let folder = Folder::filled(2).await;
        let mut bytes = fs::read(folder.segment()).unwrap();
        let line = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap()[..torn].to_vec();
        bytes.extend(line);
        fs::write(folder.segment(), bytes).unwrap();
        assert!(matches!(
            verify(&folder.log()),
            Err(VerifyError::Record { sequence: 3, problem: Problem::Torn, .. })
        ));
        folder.open().unwrap().close().await;
        let report = verify(&folder.log()).unwrap();
        assert_eq!((report.records, report.gaps), (3, 1));
        assert_eq!(folder.records()[2].kind, "gap");
    }
}

#[tokio::test]
async fn a_torn_last_checkpoint_is_cut_and_the_cut_is_recorded() {
    let folder = Folder::filled(2).await;
    let path = folder.log().join(CHECKPOINT_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let start = bytes[..40].to_vec();
    bytes.extend(start);
    fs::write(&path, bytes).unwrap();
    assert!(matches!(verify(&folder.log()), Err(VerifyError::Checkpoint { flaw: Flaw::Torn, .. })));
    folder.open().unwrap().close().await;
    assert_eq!(verify(&folder.log()).unwrap().gaps, 1);
}

#[tokio::test]
async fn a_lost_or_readable_key_is_refused() {
    let folder = Folder::filled(1).await;
    let key = folder.log().join("audit.key");
    let mode = |bits| {
        let rights = std::os::unix::fs::PermissionsExt::from_mode(bits);
        fs::set_permissions(&key, rights).unwrap();
    };
    mode(0o640);
    assert!(matches!(folder.open(), Err(AuditError::Key { .. })));
    mode(0o600);
    folder.open().unwrap().close().await;
    fs::remove_file(&key).unwrap();
    assert!(matches!(folder.open(), Err(AuditError::Key { .. })));
    assert!(!key.exists());
}

#[tokio::test]
async fn checkpoints_removed_whole_are_found_and_not_replaced() {
    let folder = Folder::filled(1).await;
    fs::remove_file(folder.log().join(CHECKPOINT_FILE)).unwrap();
    assert!(matches!(verify(&folder.log()), Err(VerifyError::Unsigned { .. })));
    assert!(matches!(folder.open(), Err(AuditError::Broken(_))));
}

#[tokio::test]
async fn a_checkpoint_is_signed_every_thousand_records() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    for number in 0..2_500 {
        let receipt = log.appender().append(&loaded(number)).unwrap();
        if number % 100 == 99 {
            receipt.synced().await.unwrap();
        }
    }
    log.close().await;
    let report = verify(&folder.log()).unwrap();
    assert_eq!((report.records, report.signed), (2_500, 2_500));
    assert!(report.checkpoints >= 4, "{report:?}");
}

#[tokio::test]
async fn an_event_too_large_is_refused_and_harms_nothing() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    let huge = "x".repeat(chain::RECORD_BYTES_MAX);
    let event = Event::DaemonStopped { reason: huge.into() };
    assert!(matches!(log.appender().append(&event), Err(AuditError::TooLarge { .. })));
    log.appender().append(&loaded(1)).unwrap().synced().await.unwrap();
    log.close().await;
    assert_eq!(verify(&folder.log()).unwrap().records, 1);
}

#[tokio::test]
async fn appends_from_many_threads_keep_one_chain() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let appender = log.appender();
            scope.spawn(move || {
                for number in 0..500 {
                    appender.append(&loaded(number)).unwrap();
                }
            });
        }
    });
    log.close().await;
    assert_eq!(verify(&folder.log()).unwrap().records, 2_000);
}

#[tokio::test]
async fn events_are_read_back_as_they_were_written() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    let agent = AgentName("reporter".into());
    let operation = Operation::unknown();
    let identity = Identity::Verified {
        issuer: "https://idp.example".into(),
        subject: "svc".into(),
        groups: BTreeSet::from(["support".into()]),
        expires_at: UnixMillis(9),
        token_sha256: "00".into(),
    };
    let outcome = Outcome::Failed { fault: Fault::Server, code: "42P01".into() };
    let events = [
        decided(&agent, "select '\u{202e}\u{0}'", &operation),
        Event::RequestEnded {
            request: RequestId { session: SessionId(7), number: 3 },
            agent: Cow::Borrowed(&agent),
            subject: None,
            outcome: Cow::Owned(outcome),
            tally: Tally { rows: 1, bytes: 2, masked: 3, ..Tally::default() },
        },
        Event::ConnectionRefused {
            account: 9,
            agent: None,
            destination: None,
            evidence: None,
            reason: "no resource".into(),
        },
        Event::SessionOpened {
            session: SessionId(7),
            principal: Cow::Owned(Principal { agent: agent.clone(), identity: identity.clone() }),
            evidence: Cow::Owned(Evidence { pid: 4, step: Some("plan".into()), ..Evidence::default() }),
            resource: "orders-db".into(),
            protocol: Protocol::Postgres,
            destination: "10.9.8.7:5432".parse().unwrap(),
            asked: None,
            client_tls: false,
            upstream_tls: UpstreamTlsMode::VerifyFull,
        },
        Event::IdentityChanged { agent: Cow::Borrowed(&agent), identity: Cow::Owned(identity) },
        Event::TicketVoted(TicketFacts {
            ticket: TicketId::from_random(5),
            fingerprint: "f".into(),
            agent: Cow::Borrowed(&agent),
            subject: None,
            resource: "orders-db".into(),
            by: Some("ann".into()),
            state: "approved".into(),
            reason: None,
        }),
    ];
    for event in &events {
        log.appender().append(event).unwrap();
    }
    log.close().await;
    let text = fs::read_to_string(folder.segment()).unwrap();
    for (line, event) in text.lines().zip(&events) {
        let record: Record = serde_json::from_str(line).unwrap();
        assert_eq!((&record.event, record.v), (event, SCHEMA));
    }
}

#[tokio::test]
async fn search_finds_by_every_filter_and_nothing_else() {
    let folder = Folder::filled(2).await;
    let log = folder.open().unwrap();
    let agent = AgentName("reporter".into());
    log.appender().append(&decided(&agent, "DROP TABLE orders", &Operation::unknown())).unwrap();
    log.close().await;
    let count =
        |filter: Filter| search(&folder.log(), &filter, &mut |_| ControlFlow::Continue(())).unwrap().found;
    let all = Filter::default;
    assert_eq!(count(all()), 3);
    assert_eq!(count(Filter { agent: Some("reporter".into()), ..all() }), 1);
    assert_eq!(count(Filter { agent: Some("report".into()), ..all() }), 0);
    assert_eq!(count(Filter { session: Some(SessionId(7)), ..all() }), 1);
    assert_eq!(count(Filter { session: Some(SessionId(8)), ..all() }), 0);
    assert_eq!(count(Filter { resource: Some("orders-db".into()), ..all() }), 1);
    assert_eq!(count(Filter { kind: Some("policy_loaded".into()), ..all() }), 2);
    assert_eq!(count(Filter { decision: Some("deny".into()), ..all() }), 1);
    assert_eq!(count(Filter { decision: Some("allow".into()), ..all() }), 0);
    assert_eq!(count(Filter { contains: Some("drop table".into()), ..all() }), 1);
    assert_eq!(count(Filter { since: Some(UnixMillis(1_000)), ..all() }), 3);
    assert_eq!(count(Filter { until: Some(UnixMillis(1_000)), ..all() }), 0);
    assert_eq!(count(Filter { sequence: Some(2), ..all() }), 1);
}

#[tokio::test]
async fn opening_a_large_log_checks_from_before_the_last_checkpoint_to_the_end() {
    let folder = Folder::new();
    let log = folder.open_with(Options { segment_bytes_max: 500, ..Options::default() }).unwrap();
    for number in 0..12 {
        log.appender().append(&loaded(number)).unwrap();
    }
    log.close().await;
    let dir = folder.log();
    let key = verify::read_key(&dir).unwrap();
    let notes = verify::read_notes(&dir, &key, verify::Tail::Refuse).unwrap();
    let check = |enough| opening::check(&segments::list(&dir).unwrap(), &notes, key.name(), enough);
    assert_eq!(check(0).unwrap(), check(u64::MAX).unwrap());
    let list = segments::list(&dir).unwrap();
    let (before_last, first) = (&list[list.len() - 2], &list[0]);
    let good = fs::read_to_string(&first.path).unwrap();
    fs::write(&first.path, good.replace("bundle-0", "bundle-x")).unwrap();
    assert!(check(u64::MAX).is_err());
    assert!(check(0).is_ok(), "old segments are for `verify`");
    fs::write(&first.path, good).unwrap();
    // A changed hash at the end of the segment before gives a chain that the checkpoint refutes.
    let mut bytes = fs::read(&before_last.path).unwrap();
    let at = bytes.len() - 4;
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    fs::write(&before_last.path, bytes).unwrap();
    assert!(check(0).is_err());
}

#[tokio::test]
async fn a_log_verifies_at_any_moment_while_it_is_written() {
    let folder = Folder::new();
    let mut settings = folder.settings();
    settings.checkpoint_every = Duration::from_millis(1);
    let options = Options { segment_bytes_max: 20_000, ..Options::default() };
    let log = Log::open_with(&settings, &Clock::system(), &Shutdown::default(), options).unwrap();
    let appender = log.appender();
    let writing = std::thread::spawn(move || {
        for number in 0..20_000 {
            appender.append(&loaded(number)).unwrap();
        }
    });
    let mut rounds = 0;
    while !writing.is_finished() {
        verify(&folder.log()).unwrap();
        rounds += 1;
    }
    writing.join().unwrap();
    log.close().await;
    assert_eq!(verify(&folder.log()).unwrap().records, 20_000);
    assert!(rounds > 0);
}

/// Fails the operation number `at` (counted over all files) once; with `short`, a write takes half first.
#[derive(Debug)]
struct Faulty {
    left: Arc<AtomicI64>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    ShortWrite,
    Sync,
    Open,
}

#[derive(Debug)]
struct FaultyFile {
    real: Arc<dyn Medium>,
    left: Arc<AtomicI64>,
    kind: Kind,
}

fn strike(left: &AtomicI64) -> bool {
    left.fetch_sub(1, Ordering::SeqCst) == 0
}

impl Storage for Faulty {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Medium>> {
        if self.kind == Kind::Open && strike(&self.left) {
            return Err(io::Error::from_raw_os_error(30));
        }
        let real = Disk.open(path)?;
        Ok(Arc::new(FaultyFile { real, left: Arc::clone(&self.left), kind: self.kind }))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.kind == Kind::Sync && strike(&self.left) {
            return Err(io::Error::from_raw_os_error(5));
        }
        Disk.sync_dir(dir)
    }
}

impl Medium for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self.kind {
            Kind::Write if strike(&self.left) => Err(io::Error::from_raw_os_error(28)),
            Kind::ShortWrite if strike(&self.left) => self.real.write_at(&bytes[..bytes.len() / 2], offset),
            _ => self.real.write_at(bytes, offset),
        }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.real.read_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.real.length()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.real.truncate(length)
    }

    fn sync(&self) -> io::Result<()> {
        if self.kind == Kind::Sync && strike(&self.left) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.real.sync()
    }
}

/// One run with the fault at one place. `None` if it was not reached, else whether an append or a receipt was told: a sync
/// that the thread makes by itself may fail, and be made good, while nobody waits.
async fn run_with_fault(kind: Kind, at: i64) -> Option<bool> {
    let folder = Folder::new();
    let left = Arc::new(AtomicI64::new(at));
    let options = Options {
        storage: Arc::new(Faulty { left: Arc::clone(&left), kind }),
        segment_bytes_max: 600,
        retry_every: Duration::from_millis(2),
    };
    let log = match folder.open_with(options) {
        Ok(log) => log,
        Err(error) => {
            assert!(left.load(Ordering::SeqCst) < 0, "{error}");
            // What a failed opening leaves behind is opened the next time.
            folder.open().unwrap().close().await;
            verify(&folder.log()).unwrap();
            return Some(true);
        }
    };
    let (mut kept, mut errors) = (Vec::new(), 0);
    let mut number = 0;
    while number < 12 || (errors > 0 && kept.last() != Some(&(number - 1))) {
        match log.appender().append(&loaded(number)) {
            Ok(receipt) => match receipt.synced().await {
                Ok(()) => kept.push(number),
                Err(_) => errors += 1,
            },
            Err(_) => {
                errors += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        number += 1;
        assert!(number < 10_000, "the log does not come back");
    }
    let struck = left.load(Ordering::SeqCst) < 0;
    log.close().await;
    let report = verify(&folder.log()).unwrap_or_else(|error| panic!("{kind:?} {at}: {error}"));
    let texts: Vec<String> = folder.records().iter().map(|found| found.record.to_string()).collect();
    for number in kept {
        let bundle = format!("\"bundle-{number}\"");
        assert!(texts.iter().any(|text| text.contains(&bundle)), "{kind:?} {at}: {bundle} was lost");
    }
    if struck {
        assert!(report.gaps > 0, "{kind:?} {at}: the gap was not recorded");
    }
    (left.load(Ordering::SeqCst) < 0).then_some(errors > 0)
}

#[tokio::test]
async fn every_failed_write_sync_and_open_is_reported_recorded_and_recovered_from() {
    for kind in [Kind::Write, Kind::ShortWrite, Kind::Sync, Kind::Open] {
        let (mut reached, mut told) = (0, 0);
        while let Some(heard) = run_with_fault(kind, reached).await {
            reached += 1;
            told += i64::from(heard);
            assert!(reached < 500, "the fault never runs out");
        }
        assert!(reached > 3, "{kind:?} was tried {reached} times only");
        assert!(told * 2 > reached, "{kind:?}: somebody was told of {told} in {reached} faults only");
    }
}

#[tokio::test]
async fn records_that_disappear_under_the_daemon_keep_it_refusing() {
    let folder = Folder::new();
    let left = Arc::new(AtomicI64::new(i64::MAX));
    let options = Options {
        storage: Arc::new(Faulty { left: Arc::clone(&left), kind: Kind::Write }),
        retry_every: Duration::from_millis(1),
        ..Options::default()
    };
    let log = folder.open_with(options).unwrap();
    log.appender().append(&loaded(1)).unwrap().synced().await.unwrap();
    left.store(0, Ordering::SeqCst);
    fs::OpenOptions::new().write(true).open(folder.segment()).unwrap().set_len(5).unwrap();
    for _ in 0..20 {
        assert!(matches!(log.appender().append(&loaded(2)), Err(AuditError::Unavailable { .. })));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    log.close().await;
}
