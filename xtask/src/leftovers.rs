//! What tests and the demo could leave on a machine: cgroups, BPF pins, named network namespaces, mounts and
//! temporary folders. Processes are found otherwise: the caller is their reaper (see `test.rs`).
//!
//! A snapshot is taken as root in a process of its own, before and after; only what is new counts, and only what has
//! [`OURS`] in its path. Other programs of the host come and go meanwhile: what they made is told, not judged.
//! INVARIANT: whatever tests and the demo make, or a folder above it, is named with [`OURS`].
//! Limits: cgroups below `user.slice`, `system.slice` and `init.scope` belong to the host and are not compared.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{paths, shell};

const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);

/// What the names of our cgroups, folders and mount points hold.
const OURS: &str = "chaperone-";
/// Enough of what others made to tell who they are.
const FOREIGN_SHOWN: usize = 3;

/// Everything of interest that exists at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    things: BTreeSet<String>,
}

impl Snapshot {
    /// Looks at this machine as root.
    pub(crate) fn take() -> Result<Self> {
        let text = shell::output(shell::as_root(paths::own_program()?)?.arg("leftovers"))?;
        serde_json::from_str(&text).context("the snapshot is not what this program prints")
    }

    /// What exists now and did not before.
    pub(crate) fn since<'a>(&'a self, before: &'a Self) -> Vec<&'a str> {
        self.things.difference(&before.things).map(String::as_str).collect()
    }
}

/// Fails when something is new since `before`, or when a process was orphaned to us.
///
/// Looks several times, because a stopped server's children may need a moment to follow it.
pub(crate) fn require_none(before: &Snapshot) -> Result<()> {
    let mut left = Vec::new();
    for _ in 0..LOOKS {
        let after = Snapshot::take()?;
        let (ours, foreign): (Vec<&str>, Vec<&str>) =
            after.since(before).into_iter().partition(|thing| thing.contains(OURS));
        left = ours.into_iter().map(str::to_owned).collect();
        left.extend(orphans());
        if left.is_empty() {
            tell_foreign(&foreign);
            eprintln!(
                "left behind: nothing (processes, cgroups, pins, namespaces, mounts, temporary folders)"
            );
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    bail!("left behind:\n  {}", left.join("\n  "));
}

fn tell_foreign(things: &[&str]) {
    if !things.is_empty() {
        let some = things.iter().copied().take(FOREIGN_SHOWN).collect::<Vec<_>>().join(", ");
        eprintln!("made by other programs meanwhile: {} thing(s), such as {some}", things.len());
    }
}

/// Makes this process the parent of everything its children abandon, so that nothing can hide.
pub(crate) fn adopt_orphans() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("cannot become the reaper of abandoned processes")
}

/// Processes that were abandoned to us and still live.
fn orphans() -> Vec<String> {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    processes
        .filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // pid (comm) state ppid ...: the name may hold anything, so read from the last bracket on.
            let (head, tail) = stat.rsplit_once(')')?;
            let mut fields = tail.split_whitespace();
            let (state, parent) = (fields.next()?, fields.next()?);
            (parent == own && state != "Z").then(|| format!("process {head})"))
        })
        .collect()
}

/// Prints a snapshot; the hidden subcommand behind [`Snapshot::take`].
pub(crate) fn print() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let mut snapshot = Snapshot::default();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let point = fields.nth(4).unwrap_or_default();
        snapshot.things.insert(format!("mount {point}"));
        if line.contains(" - cgroup2 ") {
            folders_below(Path::new(point), "cgroup", &mut snapshot.things);
        }
        if line.contains(" - bpf ") {
            folders_below(Path::new(point), "pin", &mut snapshot.things);
        }
    }
    list(Path::new("/run/netns"), "network namespace", |_| true, &mut snapshot.things);
    let ours = |name: &str| name.starts_with(OURS);
    list(&std::env::temp_dir(), "temporary folder", ours, &mut snapshot.things);
    println!("{}", serde_json::to_string(&snapshot)?);
    Ok(())
}

fn list(folder: &Path, kind: &str, keep: impl Fn(&str) -> bool, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if keep(&entry.file_name().to_string_lossy()) {
            into.insert(format!("{kind} {}", entry.path().display()));
        }
    }
}

/// Everything below a mount point; pins are files there, cgroups are folders.
fn folders_below(point: &Path, kind: &str, into: &mut BTreeSet<String>) {
    let mut todo: Vec<PathBuf> = vec![point.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let host = ["user.slice", "system.slice", "init.scope"];
            if folder == point && host.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if is_folder || kind == "pin" {
                into.insert(format!("{kind} {}", entry.path().display()));
            }
            if is_folder {
                todo.push(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Snapshot;

    #[test]
    fn only_what_is_new_counts_as_left_behind() {
        let of = |names: &[&str]| Snapshot { things: names.iter().map(|&name| name.to_owned()).collect() };
        let (before, after) = (of(&["cgroup a", "mount b"]), of(&["cgroup a", "cgroup c"]));
        assert_eq!(after.since(&before), ["cgroup c"]);
    }
}
