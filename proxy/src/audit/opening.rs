//! Opening a log for writing: lock, key, check, cut what a crash left unfinished.
//!
//! It refuses a log that does not verify: the daemon must not append to evidence somebody changed. What is cut is
//! recorded as a gap. To start quickly it recomputes at most [`CHECKED_BYTES`] of the newest records, but always from
//! before the last checkpoint to the end; `audit verify` recomputes the rest.
//! Known limit: after a power loss a file system may leave a hole *before* the last written record; that is
//! indistinguishable from tampering, is refused, and needs a person to move the log aside.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::chain::{Chain, Head, Problem, SEAL_BYTES};
use super::checkpoint::Notes;
use super::error::AuditError;
use super::key::{Missing, PRIVATE_FILE, Signer};
use super::notary::Notary;
use super::segments::{self, Segment};
use super::storage::{Medium, Storage};
use super::verify::{self, Tail, VerifyError};
use super::walk::{Position, walk};
use super::writer::Mark;
use crate::clock::Clock;

/// 256 MiB: well under a second to recompute.
const CHECKED_BYTES: u64 = 256 * 1024 * 1024;
const LOCK_FILE: &str = "lock";

/// A log that is ready to be appended to.
#[derive(Debug)]
pub(super) struct Opened {
    /// Held as long as the log is open.
    pub(super) lock: File,
    pub(super) medium: Arc<dyn Medium>,
    pub(super) mark: Mark,
    pub(super) notary: Notary,
    /// What was cut, to be recorded.
    pub(super) gaps: Vec<String>,
}

/// Opens the log in `dir`.
pub(super) fn open(dir: &Path, storage: &Arc<dyn Storage>, clock: &Clock) -> Result<Opened, AuditError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(file("make directory", dir))?;
    let lock = lock(dir)?;
    let found = segments::list(dir).map_err(broken)?;
    let fresh = found.is_empty() && !has_checkpoints(dir)?;
    let missing = if fresh { Missing::Make } else { Missing::Refuse };
    let signer = Signer::open(dir, missing)
        .map_err(|problem| AuditError::Key { path: dir.join(PRIVATE_FILE), problem })?;
    let notes = verify::read_notes(dir, signer.public(), Tail::Report).map_err(broken)?;
    if notes.list.is_empty() && !found.is_empty() {
        return Err(broken(VerifyError::Unsigned { path: dir.to_owned() }));
    }
    let (mark, cut) = check(&found, &notes, signer.public().name(), CHECKED_BYTES)?;

    // The signature comes first: records without any checkpoint would look like a log that lost them.
    let notary = Notary::open(Arc::clone(storage), dir, signer, clock.clone(), &notes);
    let mut notary = notary.map_err(file("open the checkpoints in", dir))?;
    if notary.signed().is_none() {
        notary.sign(mark.chain).map_err(file("sign in", dir))?;
    }
    let path = Segment::path_of(dir, mark.segment);
    let medium = storage.open(&path).map_err(file("open", &path))?;
    let settled =
        medium.truncate(mark.length).and_then(|()| medium.sync()).and_then(|()| storage.sync_dir(dir));
    settled.map_err(file("sync", &path))?;
    let mut gaps = Vec::new();
    if cut > 0 {
        gaps.push(format!("the last record was cut short by a crash; {cut} bytes were removed"));
    }
    if notes.torn && !notes.list.is_empty() {
        gaps.push("the last checkpoint was cut short by a crash and was removed".to_owned());
    }
    Ok(Opened { lock, medium, mark, notary, gaps })
}

/// Follows the chain to its end. Returns where it stands and how many bytes of an unfinished record follow.
pub(super) fn check(
    found: &[Segment],
    notes: &Notes,
    origin: &str,
    enough: u64,
) -> Result<(Mark, u64), AuditError> {
    let signed = notes.list.last().map_or(0, |(note, _)| note.chain.records());
    let start = first_checked(found, signed, enough);
    let before = start.checked_sub(1).and_then(|index| found.get(index));
    let chain = match (before, found.get(start)) {
        (Some(before), Some(first)) => chain_after(before, first).map_err(broken)?,
        (None | Some(_), _) => Chain::genesis(origin),
    };
    let checked = found.get(start..).unwrap_or_default();
    let anchors: Vec<_> = verify::anchors(notes).collect();
    let begin = Position::before(chain);
    let end = walk(checked, begin, &anchors, Tail::Report, &mut |_| {}).map_err(broken)?.end;
    let (segment, cut) = match checked.last() {
        Some(last) => (last.first, last.length.saturating_sub(end.offset)),
        None => (1, 0),
    };
    Ok((Mark { segment, length: end.offset, chain: end.chain }, cut))
}

/// The segment to start from: late enough to be quick, early enough to pass the last checkpoint.
fn first_checked(found: &[Segment], signed: u64, enough: u64) -> usize {
    let (mut bytes, mut start) = (0_u64, 0);
    for (index, segment) in found.iter().enumerate().rev() {
        bytes = bytes.saturating_add(segment.length);
        start = index;
        if bytes > enough && segment.first <= signed.saturating_add(1) {
            break;
        }
    }
    start
}

/// The chain as the segment before claims it; a checkpoint behind it proves or refutes the claim.
fn chain_after(before: &Segment, first: &Segment) -> Result<Chain, VerifyError> {
    let records = first.first.saturating_sub(1);
    let claimed = before.ending(SEAL_BYTES)?.as_deref().and_then(Head::claimed);
    claimed.map(|head| Chain::at(records, head)).ok_or_else(|| VerifyError::Record {
        segment: before.name(),
        offset: before.length,
        sequence: records,
        problem: Problem::Torn,
    })
}

fn lock(dir: &Path) -> Result<File, AuditError> {
    let path = dir.join(LOCK_FILE);
    let mut open = OpenOptions::new();
    open.write(true).create(true).truncate(false).mode(0o600);
    let lock = open.open(&path).map_err(file("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(AuditError::Locked { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(file("lock", &path)(error)),
    }
}

/// Whether the log was ever signed. A first checkpoint that a crash cut short does not count.
fn has_checkpoints(dir: &Path) -> Result<bool, AuditError> {
    let path = dir.join(super::checkpoint::CHECKPOINT_FILE);
    match path.metadata() {
        Ok(data) => Ok(data.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file("read", &path)(error)),
    }
}

fn broken(error: VerifyError) -> AuditError {
    AuditError::Broken(Box::new(error))
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuditError + use<> {
    let path = path.to_owned();
    move |source| AuditError::File { action, path, source }
}
