//! Dead files: Rust files that no `mod` line of their package leads to.
//!
//! Roots are what cargo finds by itself: `lib.rs`, `main.rs` and `build.rs` of a package, programs in `src/bin`,
//! and everything in `tests`, `benches`, `examples` and `fuzz_targets`.
//! `#[path = "…"]` is followed where it stands on a line of its own, as parts of an outer test need it.
//! Limits: modules made by macros are not followed, so the house does without them.

use std::collections::BTreeSet;

use super::source::Source;
use super::{Finding, Tree};

/// Rust files that are not part of any program.
pub(crate) fn dead_files(tree: &Tree) -> Vec<Finding> {
    let mut alive: BTreeSet<&str> = BTreeSet::new();
    let mut todo: Vec<&str> = tree.rust().map(|(path, _)| path).filter(|path| is_root(path)).collect();
    while let Some(path) = todo.pop() {
        let Some((path, text)) = tree.files.get_key_value(path) else { continue };
        if !alive.insert(path) {
            continue;
        }
        let beside = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for named in text.lines().filter_map(path_attribute) {
            let candidate = format!("{beside}/{named}");
            todo.extend(tree.files.get_key_value(&candidate).map(|(path, _)| path.as_str()));
        }
        for name in Source::new(text).declared_modules() {
            let folder = child_folder(path);
            for candidate in [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")] {
                todo.extend(tree.files.get_key_value(&candidate).map(|(path, _)| path.as_str()));
            }
        }
    }
    let dead = tree.rust().map(|(path, _)| path).filter(|path| !alive.contains(path));
    dead.map(|path| Finding::new(path, "no `mod` line leads to this file")).collect()
}

/// The file that a `#[path]` line names.
fn path_attribute(line: &str) -> Option<&str> {
    line.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]")
}

/// Cargo's own roots, whatever package they are in.
fn is_root(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    let name = parts.next().unwrap_or_default();
    let folder = parts.next();
    if name == "main.rs" && parts.clone().next() == Some("bin") {
        return true;
    }
    match folder {
        Some("src") => name == "lib.rs" || name == "main.rs",
        Some("bin" | "fuzz_targets" | "benches" | "examples") => true,
        // `PACKAGE/tests/NAME.rs`; a folder `tests` below `src` holds modules.
        Some("tests") => !parts.any(|part| part == "src"),
        _ => name == "build.rs",
    }
}

/// Where the child modules of a file are.
fn child_folder(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.strip_suffix(".rs").unwrap_or(name);
    if stem == "mod" || is_root(path) { folder.to_owned() } else { format!("{folder}/{stem}") }
}

#[cfg(test)]
mod tests {
    use super::dead_files;
    use crate::tidy::Tree;

    #[test]
    fn a_file_that_nothing_declares_is_dead() {
        let tree = Tree::of(&[
            ("proxy/src/lib.rs", "mod a;\nmod b;"),
            ("proxy/src/a.rs", "mod deep;"),
            ("proxy/src/a/deep.rs", ""),
            ("proxy/src/b/mod.rs", "#[cfg(test)]\nmod tests;"),
            ("proxy/src/b/tests.rs", ""),
            ("proxy/src/b/forgotten.rs", ""),
            ("proxy/tests/outer.rs", "#[path = \"outer/part.rs\"]\nmod part;"),
            ("proxy/tests/outer/part.rs", ""),
            ("proxy/src/bin/tool/main.rs", "mod part;"),
            ("proxy/src/bin/tool/part.rs", ""),
            ("proxy/build.rs", ""),
        ]);
        let dead: Vec<String> = dead_files(&tree).into_iter().map(|finding| finding.path).collect();
        assert_eq!(dead, ["proxy/src/b/forgotten.rs"]);
    }

    #[test]
    fn a_mod_line_in_a_comment_keeps_nothing_alive() {
        let tree = Tree::of(&[("proxy/src/lib.rs", "// mod a;"), ("proxy/src/a.rs", "")]);
        assert_eq!(dead_files(&tree).len(), 1);
    }
}
