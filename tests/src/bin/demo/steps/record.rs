//! The steps with the record: it verifies, it holds what happened, and one changed byte is found.
//!
//! The change is made in a copy, so that the real record stays whole.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use chaperone_tests::process;

use crate::report::{say, show};
use crate::stage::{LIMIT, Stage};

/// Green, and the story is in it.
pub(crate) fn verify(stage: &mut Stage) -> Result<String> {
    let verified =
        show("chaperone audit verify", &mut stage.daemon.command(&["audit", "verify"]), LIMIT)?.success()?;
    let found = process::run(&mut stage.daemon.command(&["audit", "search"]), LIMIT)?.success()?;
    say("$ chaperone audit search   (last lines)");
    let lines: Vec<&str> = found.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(8)) {
        say(&format!("  {}", line.chars().take(160).collect::<String>()));
    }
    let ticket = stage.ticket.as_deref().context("there was no ticket to look for")?;
    ensure!(found.contains(ticket), "the record does not know {ticket}");
    ensure!(found.contains("no-ddl-on-prod"), "the record does not know the denial");
    let records = verified.lines().find_map(|line| line.trim().strip_prefix("records")).unwrap_or_default();
    Ok(format!("the log verifies: {}; it knows {ticket} and the denial", records.trim()))
}

/// A copy with one byte changed.
pub(crate) fn flip(stage: &mut Stage) -> Result<String> {
    let copy = stage.dir.path().join("audit-copy");
    let mut cp = Command::new("cp");
    cp.arg("-r").arg(stage.daemon.state().join("audit")).arg(&copy);
    process::run(&mut cp, LIMIT)?.success()?;
    let before = verify_copy(stage, &copy)?;
    ensure!(before.status.success(), "the untouched copy does not verify");
    let file = largest_file(&copy)?;
    let mut bytes = std::fs::read(&file).context("cannot read the copy")?;
    let at = bytes.len() / 2;
    let byte = bytes.get_mut(at).context("the copy is empty")?;
    *byte ^= 0x01;
    std::fs::write(&file, &bytes).context("cannot write the copy")?;
    let name = file.strip_prefix(&copy).unwrap_or(&file).display().to_string();
    say(&format!("flipped one bit of byte {at} of {} in `{name}`", bytes.len()));
    let after = verify_copy(stage, &copy)?;
    ensure!(after.status.code() == Some(1), "the change was not found: {}", after.status);
    let reason = after.both();
    Ok(format!("`{name}` byte {at}: {}", reason.lines().next().unwrap_or("found").trim()))
}

fn verify_copy(stage: &Stage, copy: &Path) -> Result<process::Finished> {
    let mut command = Command::new(stage.daemon.program());
    command.args(["audit", "verify", "--dir"]).arg(copy).current_dir("/");
    show("chaperone audit verify --dir audit-copy", &mut command, LIMIT)
}

/// The record itself is by far the largest file of its folder.
fn largest_file(folder: &Path) -> Result<PathBuf> {
    let mut todo = vec![folder.to_path_buf()];
    let mut best: Option<(u64, PathBuf)> = None;
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("cannot list `{}`", next.display()))? {
            let entry = entry.context("cannot list the copy")?;
            let facts = entry.metadata().context("cannot look at the copy")?;
            if facts.is_dir() {
                todo.push(entry.path());
            } else if best.as_ref().is_none_or(|(size, _)| facts.len() > *size) {
                best = Some((facts.len(), entry.path()));
            }
        }
    }
    best.map(|(_, path)| path).context("the copy has no files")
}
