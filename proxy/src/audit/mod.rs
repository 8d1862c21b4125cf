//! Room under construction: the record.

use std::path::PathBuf;
use std::time::Duration;

/// Where and how the record is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directory of the log (0700); made when missing.
    pub dir: PathBuf,
    /// Longest time a written record may wait for the disk.
    pub sync_every: Duration,
    /// Longest time between signed checkpoints while records arrive.
    pub checkpoint_every: Duration,
}
