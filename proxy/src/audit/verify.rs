//! Recomputes a log from its files: every hash, every signature, every size. Needs no daemon and no private key.
//!
//! It stops at the first thing that is wrong and says where. A flipped byte anywhere in records, checkpoints or the
//! public key is found, and so are removed, reordered or inserted records and segments. Not found without help from
//! outside: removal of the newest records *together with* every checkpoint that covers them (or of records newer than
//! the last checkpoint, cleanly at a line's end), and a log rewritten whole under another key. Give a checkpoint or
//! key that was kept elsewhere ([`Trust`]) and these are found too.
//! A running daemon may append meanwhile: checkpoints are read first, an unfinished last line is read again, and a
//! [`Verifier`] reads on from where it stood, each byte once. What it read before is not read again.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::chain::{Chain, Problem};
use super::checkpoint::{CHECKPOINT_FILE, Flaw, Notes};
use super::key::{self, PublicKey};
use super::segments::{self, Segment};
use super::walk::{Anchor, Passed, Position, walk};
use crate::model::UnixMillis;

/// Why a log does not verify: the first thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file could not be read.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The public key is missing, malformed, or not the one that was expected.
    #[error("the public key `{}` {problem}", path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// A record is wrong.
    #[error("record {sequence} in `{segment}` at byte {offset}: {problem}")]
    Record {
        /// File name.
        segment: String,
        /// Byte offset of the record in it.
        offset: u64,
        /// The sequence number that belongs there.
        sequence: u64,
        /// What is wrong.
        problem: Problem,
    },
    /// A segment is missing or one too many.
    #[error("a segment starting with record {expected} is missing; found {found}")]
    Segment {
        /// First record that it should have.
        expected: u64,
        /// First record of the one found in its place; 0 for none.
        found: u64,
    },
    /// A checkpoint is wrong.
    #[error("checkpoint {number} at byte {offset}: {flaw}")]
    Checkpoint {
        /// Counted from 1; 0 is the one given from outside.
        number: u64,
        /// Byte offset in the file.
        offset: u64,
        /// What is wrong.
        flaw: Flaw,
    },
    /// There are no checkpoints at all.
    #[error("the log in `{}` has no checkpoint", path.display())]
    Unsigned {
        /// The log.
        path: PathBuf,
    },
    /// The log is shorter than what was signed.
    #[error("the log ends after record {records}, but a checkpoint signed {signed}: records were removed")]
    Truncated {
        /// Records found.
        records: u64,
        /// Records signed.
        signed: u64,
    },
}

impl VerifyError {
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

/// What a log that verifies looks like.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Records in the chain.
    pub records: u64,
    /// Files of records.
    pub segments: u64,
    /// Bytes of records.
    pub bytes: u64,
    /// Signed checkpoints.
    pub checkpoints: u64,
    /// Records that the last checkpoint covers; the rest rest on the chain alone.
    pub signed: u64,
    /// Records that say something is missing.
    pub gaps: u64,
    /// Time of the first record.
    pub first: Option<UnixMillis>,
    /// Time of the last record.
    pub last: Option<UnixMillis>,
    /// Hash of the newest record, in hex.
    pub head: String,
    /// The log's verifier key.
    pub key: String,
}

/// What the verifier was told from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The verifier key (the line of `audit.pub`) as it was kept elsewhere.
    pub key: Option<String>,
    /// One or more checkpoints as they were kept elsewhere.
    pub checkpoints: Option<String>,
}

/// Verifies the log in `dir`.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(dir: &Path) -> Result<Report, VerifyError> {
    verify_with(dir, &Trust::default(), &mut |_| {})
}

/// Verifies the log in `dir` against what was kept elsewhere, and tells `progress` the bytes read so far.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify_with(dir: &Path, trust: &Trust, progress: &mut dyn FnMut(u64)) -> Result<Report, VerifyError> {
    Verifier::open(dir, trust)?.read_on(&mut |passed| progress(passed.bytes))
}

/// Reads a log that may still grow, verifying every record on the way.
///
/// Keeps its place, its sums and the checkpoints, never records: memory does not grow with the records.
/// Once it has returned an error it is of no more use.
#[derive(Debug)]
pub struct Verifier {
    dir: PathBuf,
    key: PublicKey,
    notes: Notes,
    /// From outside; they lie in what is read first.
    kept: Vec<Anchor>,
    /// Behind the newest record that was read.
    end: Position,
    /// Behind the newest record read that a checkpoint signs.
    signed: Position,
    bytes: u64,
    gaps: u64,
    first: Option<UnixMillis>,
    last: Option<UnixMillis>,
}

impl Verifier {
    /// Stands before the first record of the log in `dir`.
    ///
    /// # Errors
    /// When the key, or what was kept elsewhere, is wrong.
    pub fn open(dir: &Path, trust: &Trust) -> Result<Self, VerifyError> {
        let key = read_key(dir)?;
        if trust.key.as_ref().is_some_and(|kept| kept.trim() != key.text()) {
            let path = dir.join(key::PUBLIC_FILE);
            return Err(VerifyError::Key { path, problem: "is not the key that was kept elsewhere" });
        }
        let start = Position::before(Chain::genesis(key.name()));
        let kept = trust.checkpoints.as_ref().map(|text| kept_elsewhere(text, &key)).transpose()?;
        Ok(Self {
            dir: dir.to_owned(),
            key,
            notes: Notes::none(),
            kept: kept.unwrap_or_default(),
            end: start,
            signed: start,
            bytes: 0,
            gaps: 0,
            first: None,
            last: None,
        })
    }

    /// Reads and verifies what it has not read yet, records and checkpoints, and calls `each` with every new record.
    /// What `each` was told counts only if no error comes back: a checkpoint behind a record may refute it.
    ///
    /// # Errors
    /// The first thing that is wrong, also if what was read before is gone or other records stand in its place.
    pub fn read_on(&mut self, each: &mut dyn FnMut(Passed<'_>)) -> Result<Report, VerifyError> {
        let known = self.notes.list.len();
        read_on_notes(&self.dir, &self.key, Tail::Refuse, &mut self.notes)?;
        let signed = self.notes.list.last().map(|(note, _)| note.chain.records());
        let signed = signed.ok_or_else(|| VerifyError::Unsigned { path: self.dir.clone() })?;
        let mut anchors: Vec<Anchor> = anchors(&self.notes).skip(known).chain(self.kept.drain(..)).collect();
        anchors.sort_by_key(Anchor::records);
        let segments = segments::list(&self.dir)?;
        self.follow(&segments, &anchors, each)?;
        Ok(Report {
            records: self.end.chain.records(),
            segments: u64::try_from(segments.len()).unwrap_or(u64::MAX),
            bytes: self.bytes,
            checkpoints: u64::try_from(self.notes.list.len()).unwrap_or(u64::MAX),
            signed,
            gaps: self.gaps,
            first: self.first,
            last: self.last,
            head: self.end.chain.head().hex(),
            key: self.key.text(),
        })
    }

    fn follow(
        &mut self,
        segments: &[Segment],
        anchors: &[Anchor],
        each: &mut dyn FnMut(Passed<'_>),
    ) -> Result<(), VerifyError> {
        let read = self.end;
        // A checkpoint may sign a record that was read before the checkpoint was there. Only whoever goes past that record
        // can tell whether it signs the same one.
        let behind = anchors.first().is_some_and(|anchor| anchor.records() < read.chain.records());
        let start = if behind { self.signed } else { read };
        let from =
            segments.iter().position(|segment| segment.first >= start.segment).unwrap_or(segments.len());
        let ahead = segments.get(from..).unwrap_or_default();
        let mut same = start.chain == read.chain;
        let found = walk(ahead, start, anchors, Tail::Refuse, &mut |passed| {
            same |= passed.chain == read.chain;
            if passed.chain.records() > read.chain.records() {
                self.bytes = self.bytes.saturating_add(u64::try_from(passed.line.len()).unwrap_or(u64::MAX));
                self.gaps = self.gaps.saturating_add(u64::from(passed.gap));
                self.first = self.first.or(Some(passed.time));
                self.last = Some(passed.time);
                each(Passed { bytes: self.bytes, ..passed });
            }
        })?;
        if !same {
            return Err(read.lost());
        }
        self.signed = found.signed.unwrap_or(self.signed);
        self.end = found.end;
        Ok(())
    }
}

pub(super) fn read_key(dir: &Path) -> Result<PublicKey, VerifyError> {
    let path = dir.join(key::PUBLIC_FILE);
    let found = key::read_public(dir).map_err(VerifyError::file("read", &path))?;
    found.ok_or(VerifyError::Key { path, problem: "is not a verifier key" })
}

/// What to do with an unfinished line or checkpoint at the very end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// It is an error (after waiting a moment for a running daemon to finish it).
    Refuse,
    /// Report where it begins: the opening daemon cuts it.
    Report,
}

/// Times an unfinished end is read again before it counts as torn.
pub(super) const TAIL_TRIES: u32 = 5;
pub(super) const TAIL_WAIT: Duration = Duration::from_millis(10);

/// Reads the checkpoints of a log.
pub(super) fn read_notes(dir: &Path, key: &PublicKey, tail: Tail) -> Result<Notes, VerifyError> {
    let mut notes = Notes::none();
    read_on_notes(dir, key, tail, &mut notes)?;
    Ok(notes)
}

/// Reads the checkpoints behind those that are known.
fn read_on_notes(dir: &Path, key: &PublicKey, tail: Tail, notes: &mut Notes) -> Result<(), VerifyError> {
    let path = dir.join(CHECKPOINT_FILE);
    let mut tries = 0;
    loop {
        let torn = |notes: &Notes| {
            let (number, offset) = (notes.next_number(), notes.length);
            VerifyError::Checkpoint { number, offset, flaw: Flaw::Torn }
        };
        match bytes_from(&path, notes.length).map_err(VerifyError::file("read", &path))? {
            Some(bytes) => notes.read_on(&bytes, key).map_err(|flawed| VerifyError::Checkpoint {
                number: flawed.number,
                offset: flawed.offset,
                flaw: flawed.flaw,
            })?,
            None if notes.length == 0 => return Ok(()),
            None => return Err(torn(notes)),
        }
        if !notes.torn || tail == Tail::Report {
            return Ok(());
        }
        tries += 1;
        if tries >= TAIL_TRIES {
            return Err(torn(notes));
        }
        std::thread::sleep(TAIL_WAIT);
    }
}

/// The bytes of a file behind `offset`; none if it is not there or shorter.
fn bytes_from(path: &Path, offset: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if file.metadata()?.len() < offset {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn kept_elsewhere(text: &str, key: &PublicKey) -> Result<Vec<Anchor>, VerifyError> {
    let flawed = |flaw| VerifyError::Checkpoint { number: 0, offset: 0, flaw };
    let mut kept = Vec::new();
    // Each note stands alone here: which one came before it is not known outside.
    for note in text.split_inclusive("\n\n").collect::<Vec<_>>().chunks(2) {
        let note = format!("{}\n\n", note.concat().trim_end());
        kept.push(Anchor::kept(Notes::one(&note, key).map_err(flawed)?.chain));
    }
    Ok(kept)
}

/// What the checkpoints sign, in order.
pub(super) fn anchors(notes: &Notes) -> impl Iterator<Item = Anchor> + '_ {
    notes.list.iter().zip(1..).map(|((note, offset), number)| Anchor::signed(note.chain, number, *offset))
}
