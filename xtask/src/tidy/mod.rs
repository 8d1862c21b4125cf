//! `cargo xtask tidy`: the rules of the house that the compiler and clippy do not know.
//!
//! Looks at the files git knows or would add, so build output never counts. Every rule is a function from a tree
//! of files to findings, tested on small made-up trees; each has a test that fails when the rule is taken out.
//! INVARIANT: no rule has a list of exempted files.
//! Limits: function length and forbidden calls are clippy's part.

mod files;
mod reach;
mod rooms;
mod source;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};

use crate::{paths, shell};

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {}

/// The files of a repository by their path in it.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    /// Reads the clone.
    fn read() -> Result<Self> {
        let root = paths::repository()?;
        let names = shell::output(std::process::Command::new("git").current_dir(&root).args([
            "-c",
            "core.quotepath=off",
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        let mut files = BTreeMap::new();
        for name in names.lines() {
            let path = root.join(name);
            // Deleted but not yet committed files are still listed; binary fixtures are not text.
            if !path.is_file() {
                continue;
            }
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read `{name}`"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.insert(name.to_owned(), text);
            }
        }
        Ok(Self { files })
    }

    /// All Rust files.
    fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(|(path, _)| path.ends_with(".rs"))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())).collect() }
    }
}

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    message: String,
}

impl Finding {
    fn new(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Checks the clone and prints what is wrong.
pub(crate) fn run(_args: &Args) -> Result<()> {
    let tree = Tree::read()?;
    let table = rooms::Table::parse(include_str!("../../rooms.toml"))?;
    let findings = check(&tree, &table);
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {} Rust files, {} rooms, nothing to say", tree.rust().count(), table.len());
        return Ok(());
    }
    bail!("tidy: {} finding(s)", findings.len());
}

fn check(tree: &Tree, table: &rooms::Table) -> Vec<Finding> {
    let mut findings = table.contradictions();
    findings.extend(rooms::edges(tree, table));
    findings.extend(rooms::pure_files(tree));
    findings.extend(files::headers(tree));
    findings.extend(files::sizes(tree));
    findings.extend(files::marks(tree));
    findings.extend(files::fuzz_targets(tree));
    findings.extend(reach::dead_files(tree));
    findings.sort();
    findings.dedup();
    findings
}

#[cfg(test)]
mod tests {
    use super::{Tree, check, rooms};

    #[test]
    fn a_tidy_tree_has_no_findings() {
        let header = "//! One.\n//! Two.\n//! Three.\n";
        let tree = Tree::of(&[
            ("proxy/Cargo.toml", "[package]"),
            ("proxy/src/lib.rs", &format!("{header}pub mod model;\npub mod sql;\n")),
            ("proxy/src/model/mod.rs", header),
            ("proxy/src/sql/mod.rs", &format!("{header}use crate::model::Id;\n")),
        ]);
        let table = rooms::Table::parse(
            "[[room]]\nname=\"model\"\nmay=[]\n[[room]]\nname=\"sql\"\nmay=[\"model\"]\n",
        )
        .unwrap();
        assert_eq!(check(&tree, &table), []);
    }

    #[test]
    fn this_repository_is_tidy() {
        let tree = Tree::read().unwrap();
        let table = rooms::Table::parse(include_str!("../../rooms.toml")).unwrap();
        let findings: Vec<String> = check(&tree, &table).iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }
}
