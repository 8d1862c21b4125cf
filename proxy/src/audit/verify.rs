//! Recomputes a log from its files: every hash, every signature, every size. Needs no daemon and no private key.
//!
//! It stops at the first thing that is wrong and says where. A flipped byte anywhere in records, checkpoints or the
//! public key is found, and so are removed, reordered or inserted records and segments. Not found without help from
//! outside: removal of the newest records *together with* every checkpoint that covers them (or of records newer than
//! the last checkpoint, cleanly at a line's end), and a log rewritten whole under another key. Give a checkpoint or
//! key that was kept elsewhere ([`Trust`]) and these are found too.
//! A running daemon may append meanwhile: checkpoints are read first, and an unfinished last line is read again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::chain::{Chain, Problem};
use super::checkpoint::{CHECKPOINT_FILE, Flaw, Notes};
use super::key::{self, PublicKey};
use super::segments::{self, Lines, Read, Segment};
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
    let key = read_key(dir)?;
    if trust.key.as_ref().is_some_and(|kept| kept.trim() != key.text()) {
        let path = dir.join(key::PUBLIC_FILE);
        return Err(VerifyError::Key { path, problem: "is not the key that was kept elsewhere" });
    }
    let notes = read_notes(dir, &key, Tail::Refuse)?;
    let signed = notes.list.last().map(|(note, _)| note.chain.records());
    let signed = signed.ok_or_else(|| VerifyError::Unsigned { path: dir.to_owned() })?;
    let mut anchors = anchors(&notes);
    if let Some(text) = &trust.checkpoints {
        anchors.extend(kept_elsewhere(text, &key)?);
        anchors.sort_by_key(|anchor| anchor.chain.records());
    }
    let segments = segments::list(dir)?;
    let walk = walk(&segments, Chain::genesis(key.name()), &anchors, Tail::Refuse, progress)?;
    Ok(Report {
        records: walk.chain.records(),
        segments: u64::try_from(segments.len()).unwrap_or(u64::MAX),
        bytes: walk.bytes,
        checkpoints: u64::try_from(notes.list.len()).unwrap_or(u64::MAX),
        signed,
        gaps: walk.gaps,
        first: walk.first,
        last: walk.last,
        head: walk.chain.head().hex(),
        key: key.text(),
    })
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
const TAIL_TRIES: u32 = 5;
const TAIL_WAIT: Duration = Duration::from_millis(10);

/// Reads the checkpoints of a log.
pub(super) fn read_notes(dir: &Path, key: &PublicKey, tail: Tail) -> Result<Notes, VerifyError> {
    let path = dir.join(CHECKPOINT_FILE);
    let mut tries = 0;
    loop {
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Notes::none()),
            other => other.map_err(VerifyError::file("read", &path))?,
        };
        let notes = Notes::read(&bytes, key).map_err(|flawed| VerifyError::Checkpoint {
            number: flawed.number,
            offset: flawed.offset,
            flaw: flawed.flaw,
        })?;
        if !notes.torn || tail == Tail::Report {
            return Ok(notes);
        }
        tries += 1;
        if tries >= TAIL_TRIES {
            let number = u64::try_from(notes.list.len()).unwrap_or(u64::MAX).saturating_add(1);
            return Err(VerifyError::Checkpoint { number, offset: notes.length, flaw: Flaw::Torn });
        }
        std::thread::sleep(TAIL_WAIT);
    }
}

fn kept_elsewhere(text: &str, key: &PublicKey) -> Result<Vec<Anchor>, VerifyError> {
    let flawed = |flaw| VerifyError::Checkpoint { number: 0, offset: 0, flaw };
    let mut kept = Vec::new();
    // Each note stands alone here: which one came before it is not known outside.
    for note in text.split_inclusive("\n\n").collect::<Vec<_>>().chunks(2) {
        let note = format!("{}\n\n", note.concat().trim_end());
        kept.push(Anchor { chain: Notes::one(&note, key).map_err(flawed)?.chain, number: 0, offset: 0 });
    }
    Ok(kept)
}

/// A signed state that the records must pass through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchor {
    chain: Chain,
    number: u64,
    offset: u64,
}

pub(super) fn anchors(notes: &Notes) -> Vec<Anchor> {
    let numbered = notes.list.iter().zip(1..);
    numbered.map(|((note, offset), number)| Anchor { chain: note.chain, number, offset: *offset }).collect()
}

/// What the walk over the records found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Walk {
    pub(super) chain: Chain,
    pub(super) bytes: u64,
    /// Valid bytes of the last segment; less than its length if its end is torn.
    pub(super) tail: u64,
    gaps: u64,
    first: Option<UnixMillis>,
    last: Option<UnixMillis>,
}

/// Follows the chain from `start` through `segments` and past every anchor.
pub(super) fn walk(
    segments: &[Segment],
    start: Chain,
    anchors: &[Anchor],
    tail: Tail,
    progress: &mut dyn FnMut(u64),
) -> Result<Walk, VerifyError> {
    let mut found = Walk { chain: start, bytes: 0, tail: 0, gaps: 0, first: None, last: None };
    let mut anchors = Anchors(anchors);
    anchors.skip_before(start);
    anchors.pass(start)?;
    for (index, segment) in segments.iter().enumerate() {
        if segment.first != found.chain.next_sequence() {
            return Err(VerifyError::Segment { expected: found.chain.next_sequence(), found: segment.first });
        }
        let last = index.saturating_add(1) == segments.len();
        let mut place = Place { segment, tail: if last { Some(tail) } else { None } };
        found.tail = place.walk(&mut found, &mut anchors, progress)?;
    }
    match anchors.0.last() {
        Some(anchor) => {
            let (records, signed) = (found.chain.records(), anchor.chain.records());
            if segments.is_empty() && records == 0 {
                return Err(VerifyError::Segment { expected: 1, found: 0 });
            }
            Err(VerifyError::Truncated { records, signed })
        }
        None => Ok(found),
    }
}

/// The anchors still ahead, in order of size.
struct Anchors<'a>(&'a [Anchor]);

impl Anchors<'_> {
    fn skip_before(&mut self, chain: Chain) {
        while let [first, rest @ ..] = self.0
            && first.chain.records() < chain.records()
        {
            self.0 = rest;
        }
    }

    fn pass(&mut self, chain: Chain) -> Result<(), VerifyError> {
        while let [first, rest @ ..] = self.0
            && first.chain.records() == chain.records()
        {
            if first.chain != chain {
                let (number, offset) = (first.number, first.offset);
                return Err(VerifyError::Checkpoint { number, offset, flaw: Flaw::Records });
            }
            self.0 = rest;
        }
        Ok(())
    }
}

/// One segment on the way; `tail` is set for the last one.
struct Place<'a> {
    segment: &'a Segment,
    tail: Option<Tail>,
}

impl Place<'_> {
    /// Returns the number of valid bytes.
    fn walk(
        &mut self,
        found: &mut Walk,
        anchors: &mut Anchors<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, VerifyError> {
        let read = |error| VerifyError::file("read", &self.segment.path)(error);
        let (mut offset, mut tries, mut line) = (0_u64, 0, Vec::new());
        let mut lines = Lines::open(&self.segment.path, 0).map_err(read)?;
        loop {
            let problem = match lines.next(&mut line).map_err(read)? {
                Read::End => return Ok(offset),
                Read::TooLong => Problem::TooLong,
                Read::Line => match found.chain.check(&line) {
                    Ok(accepted) => {
                        let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
                        offset = offset.saturating_add(bytes);
                        found.bytes = found.bytes.saturating_add(bytes);
                        found.chain = accepted.chain;
                        found.gaps = found.gaps.saturating_add(u64::from(accepted.gap));
                        found.first = found.first.or(Some(accepted.time));
                        found.last = Some(accepted.time);
                        anchors.pass(found.chain)?;
                        progress(found.bytes);
                        continue;
                    }
                    Err(problem) => problem,
                },
            };
            match (problem, self.tail) {
                (Problem::Torn, Some(Tail::Report)) => return Ok(offset),
                (Problem::Torn, Some(Tail::Refuse)) if tries < TAIL_TRIES => {
                    tries += 1;
                    std::thread::sleep(TAIL_WAIT);
                    lines = Lines::open(&self.segment.path, offset).map_err(read)?;
                }
                (problem, _) => {
                    let sequence = found.chain.next_sequence();
                    return Err(VerifyError::Record {
                        segment: self.segment.name(),
                        offset,
                        sequence,
                        problem,
                    });
                }
            }
        }
    }
}
