//! The files of records, read only: which there are, and their lines one after another in bounded memory.
//!
//! A segment is named by the sequence number of its first record, so that a missing one shows.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::chain::RECORD_BYTES_MAX;
use super::verify::VerifyError;

/// 64 MiB: some hundred thousand records; small enough to archive and to read again at start.
pub(super) const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
const PREFIX: &str = "records-";
const SUFFIX: &str = ".jsonl";
/// A line is a record and its frame: sequence, time and hash.
const LINE_BYTES_MAX: u64 = RECORD_BYTES_MAX as u64 + 1024;
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// One file of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Sequence number of its first record.
    pub(super) first: u64,
    pub(super) path: PathBuf,
    pub(super) length: u64,
}

impl Segment {
    pub(super) fn path_of(dir: &Path, first: u64) -> PathBuf {
        dir.join(Self::name_of(first))
    }

    /// File name of the segment whose first record is `first`.
    pub(super) fn name_of(first: u64) -> String {
        format!("{PREFIX}{first:020}{SUFFIX}")
    }

    /// File name, for messages.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The last `count` bytes, or `None` if it is shorter.
    pub(super) fn ending(&self, count: usize) -> Result<Option<Vec<u8>>, VerifyError> {
        self.before(self.length, count)
    }

    /// The `count` bytes before `offset`, or `None` if it has not so many.
    pub(super) fn before(&self, offset: u64, count: usize) -> Result<Option<Vec<u8>>, VerifyError> {
        let read = || -> io::Result<Option<Vec<u8>>> {
            let start = offset.checked_sub(u64::try_from(count).unwrap_or(u64::MAX));
            let Some(start) = start.filter(|_| offset <= self.length) else {
                return Ok(None);
            };
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = vec![0; count];
            file.read_exact(&mut bytes)?;
            Ok(Some(bytes))
        };
        read().map_err(VerifyError::file("read", &self.path))
    }
}

/// All segments in order.
pub(super) fn list(dir: &Path) -> Result<Vec<Segment>, VerifyError> {
    let failed = VerifyError::file("list", dir);
    let found = fs::read_dir(dir).and_then(|entries| {
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
            if let Some(first) = digits.filter(|digits| digits.len() == 20).and_then(|text| text.parse().ok())
            {
                found.push(Segment { first, path: entry.path(), length: entry.metadata()?.len() });
            }
        }
        Ok(found)
    });
    let mut segments = found.map_err(failed)?;
    segments.sort_by_key(|segment| segment.first);
    Ok(segments)
}

/// What the next read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Nothing is left.
    End,
    /// Some bytes up to and with a line feed; without one at the end of the file.
    Line,
    /// A line longer than a record may be.
    TooLong,
}

/// Reads a segment line by line.
#[derive(Debug)]
pub(super) struct Lines {
    file: BufReader<File>,
}

impl Lines {
    /// Starts at a byte offset.
    pub(super) fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file: BufReader::with_capacity(READ_BUFFER_BYTES, file) })
    }

    /// Replaces `line` with the next line.
    pub(super) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Read> {
        line.clear();
        let count = self.file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', line)?;
        Ok(match count {
            0 => Read::End,
            _ if line.last() != Some(&b'\n') && line.len() as u64 >= LINE_BYTES_MAX => Read::TooLong,
            _ => Read::Line,
        })
    }
}
