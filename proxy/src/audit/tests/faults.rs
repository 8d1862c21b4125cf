//! A disk that fails once, at each operation in turn: told, recorded as a gap, recovered from.

use super::*;

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
