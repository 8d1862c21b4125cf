//! Rules about single files: header, size, unfinished marks, machine paths, and a fuzz target per wire file.
//!
//! The size rule counts lines outside `#[cfg(test)]` modules; files that hold only tests are not counted.
//! INVARIANT: the words looked for are spelled in two parts here, so that this file passes its own rules.

use super::source::Source;
use super::{Finding, Tree};

const LINES_MAX: usize = 500;
const HEADER_LINES_MIN: usize = 3;
const HEADER_LINES_MAX: usize = 15;

/// Files that open without a header of the right length. A test file's names say what it is about.
pub(crate) fn headers(tree: &Tree) -> Vec<Finding> {
    let wrong = tree.rust().filter(|(path, _)| !is_test_file(path)).filter_map(|(path, text)| {
        let lines = text.lines().take_while(|line| line.starts_with("//!")).count();
        let fits = (HEADER_LINES_MIN..=HEADER_LINES_MAX).contains(&lines);
        (!fits).then(|| {
            let rule =
                format!("opens with {lines} header lines, not {HEADER_LINES_MIN} to {HEADER_LINES_MAX}");
            Finding::new(path, rule)
        })
    });
    wrong.collect()
}

/// Files with too many lines that are not tests.
pub(crate) fn sizes(tree: &Tree) -> Vec<Finding> {
    let long = tree.rust().filter(|(path, _)| !is_test_file(path)).filter_map(|(path, text)| {
        let lines = Source::new(text).non_test_lines();
        (lines > LINES_MAX)
            .then(|| Finding::new(path, format!("{lines} lines outside tests, more than {LINES_MAX}")))
    });
    long.collect()
}

/// A file that the compiler sees only in tests.
fn is_test_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let in_tests_folder = path.contains("/tests/") && !path.starts_with("tests/src/");
    name == "tests.rs" || in_tests_folder
}

/// Marks of unfinished work, skipped tests and paths of somebody's machine.
pub(crate) fn marks(tree: &Tree) -> Vec<Finding> {
    let unfinished = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("to", "do!(")];
    let skipped = [concat!("#[ig", "nore"), concat!("unimple", "mented!(")];
    let homes = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    let mut findings = Vec::new();
    for (path, text) in &tree.files {
        // The licence is not ours to word, the lock file is cargo's.
        let ours = path != "LICENSE" && !path.ends_with(".lock");
        for (index, line) in text.lines().enumerate().filter(|_| ours) {
            let unfinished = unfinished.iter().find(|mark| has_word(line, mark));
            let skipped = skipped.iter().filter(|_| path.ends_with(".rs")).find(|mark| line.contains(**mark));
            let home = homes.iter().find(|mark| line.contains(**mark));
            for mark in unfinished.into_iter().chain(skipped).chain(home) {
                findings.push(Finding::new(path, format!("line {}: `{mark}` has no place here", index + 1)));
            }
        }
    }
    findings
}

/// True when the mark stands alone, not inside a longer word.
fn has_word(line: &str, mark: &str) -> bool {
    line.match_indices(mark).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + mark.len()..).and_then(|text| text.chars().next());
        let free = |sign: Option<char>| sign.is_none_or(|sign| !sign.is_alphanumeric() && sign != '_');
        free(before) && (mark.ends_with('(') || free(after))
    })
}

/// Protocols whose wire parser no fuzz target feeds.
pub(crate) fn fuzz_targets(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, _) in tree.rust() {
        let Some(inner) = path.strip_prefix("proxy/src/protocol/") else { continue };
        let mut parts = inner.split('/');
        let (Some(protocol), Some(next)) = (parts.next(), parts.next()) else { continue };
        if next != "wire.rs" && next != "wire" {
            continue;
        }
        let wanted = format!("fuzz/fuzz_targets/{protocol}_wire");
        if !tree.files.keys().any(|file| file.starts_with(&wanted) && file.ends_with(".rs")) {
            findings.push(Finding::new(path, format!("no fuzz target `{wanted}*.rs` feeds this parser")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{fuzz_targets, headers, marks, sizes};
    use crate::tidy::Tree;

    #[test]
    fn a_missing_short_or_long_header_is_found() {
        for (lines, fits) in [(0, false), (2, false), (3, true), (15, true), (16, false)] {
            let text = format!("{}fn a() {{}}\n", "//! x\n".repeat(lines));
            assert_eq!(headers(&Tree::of(&[("proxy/src/a.rs", &text)])).is_empty(), fits, "{lines}");
        }
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let long = "a\n".repeat(501);
        assert_eq!(sizes(&Tree::of(&[("proxy/src/a.rs", &long)])).len(), 1);
        assert_eq!(sizes(&Tree::of(&[("tests/src/a.rs", &long)])).len(), 1);
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "a\n".repeat(500));
        assert!(sizes(&Tree::of(&[("proxy/src/a.rs", &tested)])).is_empty());
        assert!(sizes(&Tree::of(&[("proxy/src/a/tests.rs", &long), ("tests/tests/b.rs", &long)])).is_empty());
    }

    #[test]
    fn unfinished_marks_skips_and_machine_paths_are_found() {
        let bad = [
            concat!("// TO", "DO later"),
            concat!("fix me FIX", "ME"),
            concat!("to", "do!()"),
            concat!("#[ig", "nore]"),
            concat!("/ro", "ot/secret"),
        ];
        for line in bad {
            assert!(!marks(&Tree::of(&[("proxy/src/a.rs", line)])).is_empty(), "{line}");
        }
        assert!(marks(&Tree::of(&[("README.md", concat!("TO", "DOS and a /ro", "otless path"))])).is_empty());
    }

    #[test]
    fn a_wire_parser_without_fuzz_target_is_found() {
        let wire = ("proxy/src/protocol/postgres/wire.rs", "");
        assert_eq!(fuzz_targets(&Tree::of(&[wire])).len(), 1);
        assert_eq!(fuzz_targets(&Tree::of(&[("proxy/src/protocol/postgres/wire/frame.rs", "")])).len(), 1);
        assert!(
            fuzz_targets(&Tree::of(&[wire, ("fuzz/fuzz_targets/postgres_wire_frames.rs", "")])).is_empty()
        );
    }
}
