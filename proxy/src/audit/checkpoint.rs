//! Checkpoints: signed statements "this log has N records and its newest hash is H". Pure; no files.
//!
//! The text follows C2SP signed notes (origin, size, hash, extension lines, blank line, signature line); each note is
//! followed by a blank line, nine lines in all. The hash is the head of a chain and not a Merkle root, which the
//! `chain` line says. `prior` holds the hash of the note before, so that none can be taken out of the middle.
//!
//! INVARIANT: a note is accepted only if writing it again gives the same bytes.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::chain::{Chain, Head, sha256};
use super::key::{PublicKey, Signer};
use crate::model::UnixMillis;

/// The file of checkpoints.
pub(super) const CHECKPOINT_FILE: &str = "checkpoints";
/// Lines of one note with the blank line that follows it.
const NOTE_LINES: usize = 9;
const KIND: &str = "chain sha256 1";
/// What stands for the hash of the note before the first.
const NO_PRIOR: Head = Head([0; 32]);

/// One signed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// The chain it speaks of.
    pub(super) chain: Chain,
    /// When it was signed.
    pub(super) time: UnixMillis,
    /// Hash of the note before.
    pub(super) prior: Head,
}

impl Checkpoint {
    fn body(&self, origin: &str) -> String {
        let mut text = String::with_capacity(200);
        let (size, head) = (self.chain.records(), STANDARD.encode(self.chain.head().0));
        let prior = STANDARD.encode(self.prior.0);
        // Writing to a string does not fail.
        let written = write!(text, "{origin}\n{size}\n{head}\n{KIND}\ntime {}\nprior {prior}\n", self.time.0);
        debug_assert!(written.is_ok(), "a string takes every write");
        text
    }

    /// The note with its signature and the blank line after it.
    pub(super) fn sign(&self, signer: &Signer) -> String {
        let name = signer.public().name();
        let body = self.body(name);
        let mut seal = signer.public().id().to_vec();
        seal.extend(signer.sign(body.as_bytes()));
        format!("{body}\n\u{2014} {name} {}\n\n", STANDARD.encode(seal))
    }

    /// Reads one whole note and checks its signature.
    fn parse(text: &str, key: &PublicKey) -> Result<Self, Flaw> {
        let mut lines = text.split('\n');
        let mut line = || lines.next().ok_or(Flaw::Form);
        let origin = line()?;
        let size = line()?.parse().map_err(Flaw::form)?;
        let head = decode(line()?).ok_or(Flaw::Form)?;
        let (_, time, prior, _) = (line()?, line()?, line()?, line()?);
        let time = time.strip_prefix("time ").ok_or(Flaw::Form)?.parse().map_err(Flaw::form)?;
        let prior = prior.strip_prefix("prior ").and_then(decode).ok_or(Flaw::Form)?;
        let seal =
            line()?.rsplit(' ').next().and_then(|seal| STANDARD.decode(seal).ok()).ok_or(Flaw::Form)?;
        let note = Self { chain: Chain::at(size, head), time: UnixMillis(time), prior };
        let body = note.body(key.name());
        if text != format!("{body}\n\u{2014} {} {}\n\n", key.name(), STANDARD.encode(&seal)) {
            return Err(if origin == key.name() { Flaw::Form } else { Flaw::Signature });
        }
        let signature = seal.strip_prefix(&key.id()).ok_or(Flaw::Signature)?;
        if key.verify(body.as_bytes(), signature) { Ok(note) } else { Err(Flaw::Signature) }
    }
}

fn decode(text: &str) -> Option<Head> {
    STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).map(Head)
}

/// What is wrong with a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is cut short.
    #[error("it is cut short")]
    Torn,
    /// It is not a checkpoint.
    #[error("it is not a checkpoint of this version")]
    Form,
    /// The signature is not the log's.
    #[error("its signature is not by the log's key")]
    Signature,
    /// A checkpoint before it was removed, moved or changed.
    #[error("it does not follow the checkpoint before it")]
    Order,
    /// The records do not have the hash that was signed.
    #[error("the log's records are not those it signed")]
    Records,
}

impl Flaw {
    fn form(_: std::num::ParseIntError) -> Self {
        Self::Form
    }
}

/// A flaw and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flawed {
    /// Counted from 1.
    pub(super) number: u64,
    /// Byte offset in the file.
    pub(super) offset: u64,
    pub(super) flaw: Flaw,
}

/// The checkpoints of a file, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notes {
    pub(super) list: Vec<(Checkpoint, u64)>,
    /// Bytes of whole notes.
    pub(super) length: u64,
    /// Hash of the last note, for the next one's `prior`.
    pub(super) last: Head,
    /// Whether a cut-short note follows.
    pub(super) torn: bool,
}

impl Notes {
    pub(super) fn none() -> Self {
        Self { list: Vec::new(), length: 0, last: NO_PRIOR, torn: false }
    }

    /// Reads a single note, wherever it stood.
    pub(super) fn one(text: &str, key: &PublicKey) -> Result<Checkpoint, Flaw> {
        Checkpoint::parse(text, key)
    }

    /// Counted from 1, the note that would follow.
    pub(super) fn next_number(&self) -> u64 {
        u64::try_from(self.list.len()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Takes the notes that follow, from `length` of the file on; a cut-short last one is reported in `torn`, anything else
    /// wrong is an error.
    pub(super) fn read_on(&mut self, bytes: &[u8], key: &PublicKey) -> Result<(), Flawed> {
        let mut rest = bytes;
        self.torn = false;
        while !rest.is_empty() {
            let (number, offset) = (self.next_number(), self.length);
            let flawed = |flaw| Flawed { number, offset, flaw };
            let Some((text, after)) = split_note(rest) else {
                self.torn = true;
                return Ok(());
            };
            let Ok(text) = std::str::from_utf8(text) else {
                return Err(flawed(Flaw::Form));
            };
            let note = Checkpoint::parse(text, key).map_err(flawed)?;
            let grows = self.list.last().is_none_or(|(last, _)| last.chain.records() < note.chain.records());
            if note.prior != self.last || !grows {
                return Err(flawed(Flaw::Order));
            }
            self.list.push((note, self.length));
            self.last = sha256(&[text.as_bytes()]);
            self.length = self.length.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
            rest = after;
        }
        Ok(())
    }
}

fn split_note(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let feeds = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let (end, _) = feeds.take(NOTE_LINES).nth(NOTE_LINES.saturating_sub(1))?;
    bytes.split_at_checked(end.saturating_add(1))
}
