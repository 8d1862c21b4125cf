//! The list of defences: `tests/defences.toml`, read and checked.
//!
//! An entry names a row of bad input, what defends against it, the edits that take the defence away, and the one test of
//! the whole product that must notice. INVARIANT: a list without problems has an entry for each row, every snippet stands exactly once in
//! its file, and every test exists; a test of this file holds the clone's own list to that.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Where it is.
const FILE: &str = "tests/defences.toml";

/// The whole list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    rows: Vec<String>,
    #[serde(rename = "defence")]
    entries: Vec<Defence>,
}

/// One defence and the test that notices when it is gone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Defence {
    /// The row of bad input.
    pub(super) row: String,
    /// The rule that the edits remove.
    #[serde(rename = "rule")]
    pub(super) defence: String,
    /// The test's program: a file of `tests/tests`.
    pub(super) target: String,
    /// The test's full name in it.
    pub(super) test: String,
    /// What takes the defence away; more than one where two places each suffice.
    #[serde(rename = "edit")]
    pub(super) edits: Vec<Edit>,
}

/// A change to one file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Edit {
    pub(super) file: String,
    code: String,
    without: String,
}

impl List {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(root.join(FILE)).with_context(|| format!("cannot read `{FILE}`"))?;
        toml::from_str(&text).with_context(|| format!("`{FILE}` is not a list of defences"))
    }

    /// Entries that contain one of the texts somewhere; all, if there is no text.
    pub(super) fn only(&self, texts: &[String]) -> Vec<&Defence> {
        let has = |entry: &Defence, text: &str| {
            [&entry.row, &entry.defence, &entry.test, &entry.target].iter().any(|word| word.contains(text))
        };
        let fits = |entry: &&Defence| texts.is_empty() || texts.iter().any(|text| has(entry, text));
        self.entries.iter().filter(fits).collect()
    }

    /// Everything that is wrong with it in this clone.
    pub(super) fn problems(&self, root: &Path) -> Vec<String> {
        let mut problems = Vec::new();
        for row in &self.rows {
            if !self.entries.iter().any(|entry| entry.row == *row) {
                problems.push(format!("nothing defends against `{row}`"));
            }
        }
        for entry in &self.entries {
            if !self.rows.contains(&entry.row) {
                problems.push(format!("`{}` is not in the list of rows", entry.row));
            }
            for edit in &entry.edits {
                let text = std::fs::read_to_string(root.join(&edit.file)).unwrap_or_default();
                if let Err(problem) = edit.apply(&text) {
                    problems.push(format!("{} ({}): {problem}", entry.row, entry.defence));
                }
            }
            if entry.edits.is_empty() || !entry.has_test(root) {
                problems.push(format!("`{}` has no edit, or its test `{}` is gone", entry.row, entry.test));
            }
        }
        problems
    }
}

impl Defence {
    fn has_test(&self, root: &Path) -> bool {
        let folder = root.join("tests/tests");
        let whole = folder.join(format!("{}.rs", self.target));
        // A module is a file of its own in the target's folder, or stands in the target itself.
        let (place, name) = match self.test.rsplit_once("::") {
            Some((module, name)) => (Some(folder.join(&self.target).join(format!("{module}.rs"))), name),
            None => (None, self.test.as_str()),
        };
        place
            .into_iter()
            .chain([whole])
            .any(|place| std::fs::read_to_string(place).is_ok_and(|text| declares(&text, name)))
    }
}

impl Edit {
    /// The file's text without the defence.
    pub(super) fn apply(&self, text: &str) -> Result<String> {
        let found = text.matches(&self.code).count();
        anyhow::ensure!(
            found == 1,
            "`{}` has the snippet {found} times, not once:\n{}",
            self.file,
            self.code
        );
        anyhow::ensure!(self.code != self.without, "an edit of `{}` changes nothing", self.file);
        Ok(text.replacen(&self.code, &self.without, 1))
    }
}

/// Whether a text has a test of this name.
fn declares(text: &str, name: &str) -> bool {
    let mut before = "";
    text.lines().map(str::trim).any(|line| {
        let is_test = before.ends_with("test]");
        before = line;
        // A macro that makes tests is given their names like this.
        let is_listed = line.contains(&format!("fn {name}();"));
        is_listed
            || is_test
                && [format!("fn {name}("), format!("async fn {name}(")]
                    .iter()
                    .any(|head| line.starts_with(head))
    })
}

#[cfg(test)]
mod tests {
    use super::{List, declares};
    use crate::paths;

    #[test]
    fn every_row_has_a_defence_and_every_snippet_and_test_is_there() {
        let root = paths::repository().unwrap();
        let problems = List::read(&root).unwrap().problems(&root);
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    #[test]
    fn a_bare_row_a_snippet_that_is_gone_or_twice_and_a_missing_test_are_found() {
        let root = paths::repository().unwrap();
        let list = |row: &str, code: &str, test: &str| -> List {
            let text = format!(
                "rows = [\"a\"]\n[[defence]]\nrow = \"{row}\"\nrule = \"r\"\n\
                 target = \"postgres\"\ntest = \"{test}\"\n\
                 [[defence.edit]]\nfile = \"proxy/src/lib.rs\"\ncode = \"{code}\"\nwithout = \"\"\n"
            );
            toml::from_str(&text).unwrap()
        };
        let test = "broken_frames_end_the_session_with_a_native_error";
        let count = |list: List| list.problems(&root).len();
        assert_eq!(count(list("a", "pub mod tls;", test)), 0);
        assert_eq!(count(list("b", "pub mod tls;", test)), 2);
        assert_eq!(count(list("a", "pub mod nowhere;", test)), 1);
        assert_eq!(count(list("a", "pub mod", test)), 1);
        assert_eq!(count(list("a", "pub mod tls;", "check")), 1);
    }

    #[test]
    fn a_function_is_a_test_only_with_its_attribute() {
        assert!(declares("#[test]\nfn a() {}", "a"));
        assert!(declares("    #[tokio::test]\n    async fn a() {}", "a"));
        assert!(!declares("fn a() {}", "a") && !declares("#[test]\nfn ab() {}", "a"));
    }
}
