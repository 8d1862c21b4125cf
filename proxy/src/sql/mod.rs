//! Room under construction: SQL text to facts.

use std::path::PathBuf;

/// How statements are analysed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Program that is started as parser worker with the hidden subcommand `sql-worker` (this very binary).
    pub program: PathBuf,
    /// Number of worker processes; at least 1.
    pub workers: usize,
}
