//! What can go wrong with the record. Every variant means: the event is not safely recorded, so deny.
//!
//! Poisoning stores its cause as text, because one failure is told to many callers.

use std::io;
use std::path::PathBuf;

/// Why an event could not be recorded or a log not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file operation failed while opening.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process writes this log.
    #[error("the log in `{}` is in use by another process", path.display())]
    Locked {
        /// The log's directory.
        path: PathBuf,
    },
    /// The signing key cannot be used.
    #[error("the audit key `{}` cannot be used: {problem}", path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The log on disk does not verify; it is not appended to.
    #[error("the log does not verify and is not appended to")]
    Broken(#[source] Box<super::VerifyError>),
    /// The event is larger than a record may be.
    #[error("an event of {bytes} bytes is larger than a record may be")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The event cannot be written as JSON.
    #[error("the event cannot be encoded")]
    Encode(#[from] serde_json::Error),
    /// The disk does not take records now.
    #[error("the audit log does not take records: {cause}")]
    Unavailable {
        /// The failure that started it.
        cause: String,
    },
    /// The record was written but the disk did not confirm it.
    #[error("record {sequence} did not reach the disk: {cause}")]
    NotSynced {
        /// The record.
        sequence: u64,
        /// The failure.
        cause: String,
    },
    /// The log was closed.
    #[error("the audit log is closed")]
    Closed,
}
