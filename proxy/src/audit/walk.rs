//! The walk over records: follows the chain through the files, past every signed state, in bounded memory.
//!
//! It starts anywhere: at the very beginning, at a segment's first record, or in a segment behind a record that an earlier
//! walk passed. It refuses the first record that does not continue the chain, a missing segment, a signed state that the
//! records do not pass through, and a start that is no longer there.
//! INVARIANT: a record is handed out only after its hash was checked. Known limit: what lies before the start is not read.

use super::chain::{Chain, Head, Problem, SEAL_BYTES};
use super::checkpoint::Flaw;
use super::segments::{Lines, Read, Segment};
use super::verify::{TAIL_TRIES, TAIL_WAIT, Tail, VerifyError};
use crate::model::UnixMillis;

/// A place between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The chain up to here.
    pub(super) chain: Chain,
    /// Number of the first record of the segment it is in.
    pub(super) segment: u64,
    /// Byte offset in that segment.
    pub(super) offset: u64,
}

impl Position {
    /// Before the record that follows `chain`, which is the first of its segment.
    pub(super) fn before(chain: Chain) -> Self {
        Self { chain, segment: chain.next_sequence(), offset: 0 }
    }

    /// The error for records that were read up to here and are no longer there.
    pub(super) fn lost(&self) -> VerifyError {
        VerifyError::Record {
            segment: Segment::name_of(self.segment),
            offset: self.offset,
            sequence: self.chain.records(),
            problem: Problem::Hash,
        }
    }

    /// Refuses if the record before this place does not end here any more. `segment` is the one it is in.
    fn check(&self, segment: &Segment) -> Result<(), VerifyError> {
        if self.offset == 0 {
            return Ok(());
        }
        let seal = segment.before(self.offset, SEAL_BYTES)?;
        let head = seal.as_deref().and_then(Head::claimed);
        if head == Some(self.chain.head()) { Ok(()) } else { Err(self.lost()) }
    }
}

/// A record that continues the chain.
#[derive(Debug, Clone, Copy)]
pub struct Passed<'a> {
    /// Its line, with the line feed.
    pub line: &'a [u8],
    /// Bytes of records read so far, with this one.
    pub bytes: u64,
    /// When it was written.
    pub(super) time: UnixMillis,
    /// Whether it says that something is missing.
    pub(super) gap: bool,
    /// The chain after it.
    pub(super) chain: Chain,
}

/// A signed state that the records must pass through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchor {
    chain: Chain,
    number: u64,
    offset: u64,
}

impl Anchor {
    /// Of the log's own checkpoint `number`, at byte `offset` of their file.
    pub(super) fn signed(chain: Chain, number: u64, offset: u64) -> Self {
        Self { chain, number, offset }
    }

    /// Of a checkpoint that was kept elsewhere.
    pub(super) fn kept(chain: Chain) -> Self {
        Self { chain, number: 0, offset: 0 }
    }

    /// How many records it signs.
    pub(super) fn records(&self) -> u64 {
        self.chain.records()
    }
}

/// Where the walk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walk {
    /// Behind the newest whole record; bytes of the last segment after it are torn.
    pub(super) end: Position,
    /// Behind the newest record that an anchor signs, if it passed one.
    pub(super) signed: Option<Position>,
    bytes: u64,
}

/// Follows the chain from `start` through `segments`, the first of which `start` is in, and past every anchor.
pub(super) fn walk(
    segments: &[Segment],
    start: Position,
    anchors: &[Anchor],
    tail: Tail,
    each: &mut dyn FnMut(Passed<'_>),
) -> Result<Walk, VerifyError> {
    let mut found = Walk { end: start, signed: None, bytes: 0 };
    let mut anchors = Anchors(anchors);
    anchors.skip_before(start.chain);
    found.meet(&mut anchors)?;
    for (index, segment) in segments.iter().enumerate() {
        let expected = if index == 0 { start.segment } else { found.end.chain.next_sequence() };
        if segment.first != expected {
            return Err(VerifyError::Segment { expected, found: segment.first });
        }
        if index == 0 {
            start.check(segment)?;
        } else {
            found.end = Position::before(found.end.chain);
        }
        let last = index.saturating_add(1) == segments.len();
        let place = Place { segment, tail: if last { Some(tail) } else { None } };
        place.walk(&mut found, &mut anchors, each)?;
    }
    if segments.is_empty() && start.chain.records() > 0 {
        return Err(VerifyError::Segment { expected: start.segment, found: 0 });
    }
    match anchors.0.last() {
        Some(anchor) => {
            let (records, signed) = (found.end.chain.records(), anchor.records());
            if segments.is_empty() && records == 0 {
                return Err(VerifyError::Segment { expected: 1, found: 0 });
            }
            Err(VerifyError::Truncated { records, signed })
        }
        None => Ok(found),
    }
}

impl Walk {
    /// Takes the anchors that stand at the end.
    fn meet(&mut self, anchors: &mut Anchors<'_>) -> Result<(), VerifyError> {
        if anchors.pass(self.end.chain)? {
            self.signed = Some(self.end);
        }
        Ok(())
    }
}

/// The anchors still ahead, in order of size.
struct Anchors<'a>(&'a [Anchor]);

impl Anchors<'_> {
    fn skip_before(&mut self, chain: Chain) {
        while let [first, rest @ ..] = self.0
            && first.records() < chain.records()
        {
            self.0 = rest;
        }
    }

    /// True if one or more sign exactly `chain`.
    fn pass(&mut self, chain: Chain) -> Result<bool, VerifyError> {
        let mut signed = false;
        while let [first, rest @ ..] = self.0
            && first.records() == chain.records()
        {
            if first.chain != chain {
                let (number, offset) = (first.number, first.offset);
                return Err(VerifyError::Checkpoint { number, offset, flaw: Flaw::Records });
            }
            (self.0, signed) = (rest, true);
        }
        Ok(signed)
    }
}

/// One segment on the way; `tail` is set for the last one.
struct Place<'a> {
    segment: &'a Segment,
    tail: Option<Tail>,
}

impl Place<'_> {
    fn walk(
        &self,
        found: &mut Walk,
        anchors: &mut Anchors<'_>,
        each: &mut dyn FnMut(Passed<'_>),
    ) -> Result<(), VerifyError> {
        let read = |error| VerifyError::file("read", &self.segment.path)(error);
        let (mut tries, mut line) = (0, Vec::new());
        let mut lines = Lines::open(&self.segment.path, found.end.offset).map_err(read)?;
        loop {
            let problem = match lines.next(&mut line).map_err(read)? {
                Read::End => return Ok(()),
                Read::TooLong => Problem::TooLong,
                Read::Line => match found.end.chain.check(&line) {
                    Ok(accepted) => {
                        let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
                        found.end.offset = found.end.offset.saturating_add(bytes);
                        found.end.chain = accepted.chain;
                        found.bytes = found.bytes.saturating_add(bytes);
                        found.meet(anchors)?;
                        let (time, gap, chain) = (accepted.time, accepted.gap, accepted.chain);
                        each(Passed { line: &line, bytes: found.bytes, time, gap, chain });
                        continue;
                    }
                    Err(problem) => problem,
                },
            };
            match (problem, self.tail) {
                (Problem::Torn, Some(Tail::Report)) => return Ok(()),
                (Problem::Torn, Some(Tail::Refuse)) if tries < TAIL_TRIES => {
                    tries += 1;
                    std::thread::sleep(TAIL_WAIT);
                    lines = Lines::open(&self.segment.path, found.end.offset).map_err(read)?;
                }
                (problem, _) => {
                    let (segment, offset) = (self.segment.name(), found.end.offset);
                    let sequence = found.end.chain.next_sequence();
                    return Err(VerifyError::Record { segment, offset, sequence, problem });
                }
            }
        }
    }
}
