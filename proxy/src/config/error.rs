//! Everything that is wrong with a configuration, collected so that one look mends it all.
//!
//! INVARIANT: problems are sorted by line, and one problem is enough to refuse the file.

use std::path::{Path, PathBuf};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line, from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read `{}`: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// The file has problems; all of them are listed, by line.
    #[error("{}", summary(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything found.
        problems: Vec<Problem>,
    },
}

fn summary(path: &Path, problems: &[Problem]) -> String {
    let count = problems.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    let lines = problems.iter().map(|problem| match problem.line {
        0 => format!("\n  {}", problem.message),
        line => format!("\n  line {line}: {}", problem.message),
    });
    format!("{count} {noun} in {}:{}", path.display(), lines.collect::<String>())
}

/// Collects problems while a file is read.
#[derive(Debug)]
pub(super) struct Problems {
    line_starts: Vec<usize>,
    found: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(text: &str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(offset, _)| offset.saturating_add(1));
        Self { line_starts: std::iter::once(0).chain(after_newlines).collect(), found: Vec::new() }
    }

    /// The line of a byte offset.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    pub(super) fn add(&mut self, line: usize, message: impl Into<String>) {
        self.found.push(Problem { line, message: message.into() });
    }

    pub(super) fn verdict<T>(mut self, value: Option<T>, origin: &Path) -> Result<T, ConfigError> {
        self.found.sort();
        self.found.dedup();
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            Some(_) | None => {
                if self.found.is_empty() {
                    self.add(0, "the configuration could not be used");
                }
                Err(ConfigError::Invalid { path: origin.to_owned(), problems: self.found })
            }
        }
    }
}
