//! What is wrong with a bundle, and where.
//!
//! A [`Finding`] carries its file, line and column and the text it is about, so that a command line can draw a caret
//! and a log can print one line. Nothing here decides; a bundle with any error is refused as a whole.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// One remark about one place in a bundle.
#[derive(Clone, PartialEq, Eq)]
pub struct Finding {
    /// File name below the bundle's directory.
    pub file: String,
    /// Line, from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 when it is about the file as a whole.
    pub column: usize,
    /// Byte offset and length within `source`.
    pub span: (usize, usize),
    /// The file's text.
    pub source: Arc<str>,
    /// What is wrong.
    pub message: String,
    /// How to mend it, if that is known.
    pub help: Option<String>,
}

impl Finding {
    /// A remark about `length` bytes from `offset` of a file.
    #[must_use]
    pub fn at(file: &str, source: &Arc<str>, span: (usize, usize), message: String) -> Self {
        let (line, column) = position(source, span.0);
        Self { file: file.to_owned(), line, column, span, source: Arc::clone(source), message, help: None }
    }

    /// A remark about a file as a whole.
    #[must_use]
    pub fn whole(file: &str, message: String) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            span: (0, 0),
            source: Arc::from(""),
            message,
            help: None,
        }
    }

    /// The same remark with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file, self.message)
        } else {
            write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
        }
    }
}

impl fmt::Debug for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Finding({self})")
    }
}

/// Line and column (in characters) of a byte offset, both from 1.
fn position(source: &str, offset: usize) -> (usize, usize) {
    let before = source.get(..offset).unwrap_or(source);
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()).saturating_add(1);
    (line, column)
}

/// Why a bundle was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The directory could not be listed.
    #[error("cannot read the policy directory `{}`: {reason}", dir.display())]
    Directory {
        /// Where it was looked for.
        dir: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// The bundle has errors; all of them are listed.
    #[error("{}", summary(findings))]
    Invalid {
        /// Every error found, ordered by file and line.
        findings: Vec<Finding>,
    },
    /// The built-in schema was refused by the policy engine: a defect of this program.
    #[error("the built-in policy schema is broken: {reason}")]
    Schema {
        /// The engine's words.
        reason: String,
    },
}

impl PolicyError {
    /// The remarks of an invalid bundle; empty for other errors.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Invalid { findings } => findings,
            Self::Directory { .. } | Self::Schema { .. } => &[],
        }
    }
}

fn summary(findings: &[Finding]) -> String {
    let count = findings.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    let lines = findings.iter().map(|finding| format!("\n  {finding}")).collect::<String>();
    format!("{count} {noun} in the policy bundle:{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_and_survive_wild_offsets() {
        assert_eq!(position("ab\nçd", 5), (2, 2));
        assert_eq!(position("ab", 99), (1, 3));
        assert_eq!(position("", 0), (1, 1));
    }

    #[test]
    fn a_refusal_lists_every_finding() {
        let error = PolicyError::Invalid {
            findings: vec![
                Finding::whole("a.cedar", "one".into()),
                Finding::at("b.cedar", &Arc::from("x\ny"), (2, 1), "two".into()),
            ],
        };
        assert_eq!(error.to_string(), "2 problems in the policy bundle:\n  a.cedar: one\n  b.cedar:2:1: two");
    }
}
