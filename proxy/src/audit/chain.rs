//! The chain: how a record becomes a line, and how a line proves its place. Pure; no files.
//!
//! A line is `{"v":1,"seq":N,"time":T,"event":..,"hash":"H"}` and a line feed, so that every JSON tool reads it.
//! H = SHA-256(hash of record N-1, then every byte of the line before `,"hash":"`), in lower-case hex. The first
//! record's predecessor is a hash of the log's name, so that two logs never share a chain.
//!
//! INVARIANT: [`Chain::check`] accepts exactly the bytes that [`Chain::frame`] makes.

use std::io::Write as _;

use aws_lc_rs::digest;

use super::event::SCHEMA;
use crate::model::UnixMillis;

/// 24 MiB: the longest request a protocol room reads is 16 MiB, and JSON escapes lengthen it.
pub(super) const RECORD_BYTES_MAX: usize = 24 * 1024 * 1024;

const HASH_KEY: &[u8] = b",\"hash\":\"";
const END: &[u8] = b"\"}\n";
/// Bytes of a line after the part that is hashed.
pub(super) const SEAL_BYTES: usize = HASH_KEY.len() + 64 + END.len();

/// SHA-256 of everything up to and including one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head(pub(super) [u8; 32]);

impl Head {
    pub(super) fn hex(self) -> String {
        let mut text = String::with_capacity(64);
        text.extend(hex(&self.0).map(char::from));
        text
    }

    /// The head that the last record of `seal` (the final bytes of a line) claims.
    pub(super) fn claimed(seal: &[u8]) -> Option<Self> {
        let digits = seal.strip_prefix(HASH_KEY)?.strip_suffix(END)?;
        let mut head = [0_u8; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in head.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(head))
    }
}

fn hex(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let digit =
        |nibble: u8| if nibble < 10 { b'0'.saturating_add(nibble) } else { b'W'.saturating_add(nibble) };
    bytes.iter().flat_map(move |byte| [digit(byte >> 4), digit(byte & 15)])
}

/// SHA-256 over the concatenation of `parts`.
pub(super) fn sha256(parts: &[&[u8]]) -> Head {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut head = [0_u8; 32];
    for (to, from) in head.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    Head(head)
}

/// Where the chain stands: how many records, and the hash of the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    records: u64,
    head: Head,
}

/// A line that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The chain after it.
    pub(super) chain: Chain,
    /// When it was written.
    pub(super) time: UnixMillis,
    /// Whether it says that something is missing.
    pub(super) gap: bool,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The line does not end: a write was cut short, or the end was changed.
    #[error("the record is cut short")]
    Torn,
    /// The line is longer than a record may be.
    #[error("the record is longer than a record may be")]
    TooLong,
    /// Bytes were changed, or the record stands in the wrong place.
    #[error("its bytes, or a record before it, were changed, moved or removed")]
    Hash,
    /// The bytes belong to the chain but are no record of this version.
    #[error("it is not a record of this version with the next sequence number")]
    Form,
}

impl Chain {
    /// The empty chain of the log with this name.
    pub(super) fn genesis(origin: &str) -> Self {
        Self { records: 0, head: sha256(&[b"chaperone audit chain 1\n", origin.as_bytes(), b"\n"]) }
    }

    pub(super) fn at(records: u64, head: Head) -> Self {
        Self { records, head }
    }

    pub(super) fn records(self) -> u64 {
        self.records
    }

    pub(super) fn head(self) -> Head {
        self.head
    }

    pub(super) fn next_sequence(self) -> u64 {
        self.records.saturating_add(1)
    }

    /// Writes the line for `body` (an event as a JSON object) into `line` and returns the chain after it.
    pub(super) fn frame(self, time: UnixMillis, body: &[u8], line: &mut Vec<u8>) -> std::io::Result<Self> {
        line.clear();
        write!(line, "{{\"v\":{SCHEMA},\"seq\":{},\"time\":{},", self.next_sequence(), time.0)?;
        let inside = body.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}"));
        line.extend_from_slice(inside.unwrap_or_default());
        let head = sha256(&[&self.head.0, line]);
        line.extend_from_slice(HASH_KEY);
        line.extend(hex(&head.0));
        line.extend_from_slice(END);
        Ok(Self { records: self.next_sequence(), head })
    }

    /// Accepts `line` (with its line feed) as the next record, or says why not.
    pub(super) fn check(self, line: &[u8]) -> Result<Accepted, Problem> {
        if line.last() != Some(&b'\n') {
            return Err(Problem::Torn);
        }
        let (hashed, seal) = line
            .len()
            .checked_sub(SEAL_BYTES)
            .and_then(|at| line.split_at_checked(at))
            .ok_or(Problem::Hash)?;
        let head = sha256(&[&self.head.0, hashed]);
        let digits =
            seal.strip_prefix(HASH_KEY).and_then(|rest| rest.strip_suffix(END)).ok_or(Problem::Hash)?;
        if !digits.iter().copied().eq(hex(&head.0)) {
            return Err(Problem::Hash);
        }
        let (time, gap) = self.read_start(hashed).ok_or(Problem::Form)?;
        Ok(Accepted { chain: Self { records: self.next_sequence(), head }, time, gap })
    }

    fn read_start(self, hashed: &[u8]) -> Option<(UnixMillis, bool)> {
        let start = format!("{{\"v\":{SCHEMA},\"seq\":{},\"time\":", self.next_sequence());
        let rest = hashed.strip_prefix(start.as_bytes())?;
        let comma = rest.iter().position(|byte| *byte == b',')?;
        let (digits, rest) = rest.split_at_checked(comma)?;
        let time = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let event = rest.strip_prefix(b",\"event\":\"")?;
        Some((UnixMillis(time), event.starts_with(b"gap\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framed_record_is_accepted_only_in_its_place() {
        let start = Chain::genesis("a");
        let mut first = Vec::new();
        let one = start.frame(UnixMillis(5), br#"{"event":"gap","x":1}"#, &mut first).unwrap();
        assert_eq!(start.check(&first), Ok(Accepted { chain: one, time: UnixMillis(5), gap: true }));
        assert_eq!(one.check(&first), Err(Problem::Hash));
        assert_eq!(Chain::genesis("b").check(&first), Err(Problem::Hash));
        assert_eq!(start.check(first.strip_suffix(b"\n").unwrap()), Err(Problem::Torn));
        assert_eq!(Head::claimed(&first[first.len() - SEAL_BYTES..]), Some(one.head()));
    }

    #[test]
    fn upper_case_digits_are_not_the_same_record() {
        let start = Chain::genesis("a");
        let mut line = Vec::new();
        start.frame(UnixMillis(5), br#"{"event":"x"}"#, &mut line).unwrap();
        let seal = line.len() - SEAL_BYTES;
        let letter = line.iter().skip(seal + 9).position(|byte| (b'a'..=b'f').contains(byte)).unwrap();
        line[seal + 9 + letter] ^= 0x20;
        assert_eq!(start.check(&line), Err(Problem::Hash));
    }
}
