//! The throw-away copy: makes it, builds in it, takes a defence out and puts it back, runs one test.
//!
//! The copy lies in the build folder, with build output beside it that stays from run to run, so that each entry is an
//! incremental build of the daemon. Test programs are built once, from the unchanged copy, and meet the daemon they are
//! told to start; those that have the daemon's own code in them are built anew with each change. Files get the time of copying: what
//! an earlier run built from a changed file is never taken for the unchanged one. The copy is removed again when dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::list::Defence;
use crate::{paths, shell};

/// Seconds for one test: the slowest that is named takes one minute on an idle machine of two cores.
const TEST_SECONDS_MAX: &str = "300";
/// Both packages are always named, so that every build has the same features.
const PACKAGES: [&str; 4] = ["--package", "chaperone", "--package", "chaperone-tests"];

/// Test programs that put the guard in place, or end sockets, by themselves: a changed daemon would change nothing in them.
const IN_PROCESS: [&str; 2] = ["abort", "intercept"];

/// Enough of a complaint to recognise it.
const COMPLAINT_CHARS_MAX: usize = 200;

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// It failed, and how.
    Failed(String),
    /// It did not end.
    Hung,
    /// It passed.
    Passed,
    /// It did not run: the build broke, or the test was not found.
    Broken(String),
}

impl Seen {
    /// Whether the test noticed that something is wrong.
    pub(super) fn is_noticed(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Hung)
    }

    /// Reads what the test program printed and how `timeout` ended.
    fn read(code: Option<i32>, output: &str) -> Self {
        // 137 stands for a test that had to be killed after it had been asked to end.
        if matches!(code, Some(124 | 137)) {
            return Self::Hung;
        }
        if output.contains("test result: ok. 1 passed; 0 failed") && code == Some(0) {
            return Self::Passed;
        }
        if output.contains("test result: FAILED. 0 passed; 1 failed") {
            return Self::Failed(complaint(output));
        }
        Self::Broken(last_lines(output))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(_) => f.write_str("noticed"),
            Self::Hung => f.write_str("noticed, by a hang"),
            Self::Passed => f.write_str("NOT NOTICED"),
            Self::Broken(why) => write!(f, "BROKEN: {why}"),
        }
    }
}

/// The copy and its programs.
pub(super) struct Stage {
    tree: PathBuf,
    target: PathBuf,
    /// Test programs by the name of their target.
    programs: BTreeMap<String, PathBuf>,
}

impl Stage {
    /// Copies the clone and builds all of it.
    pub(super) fn set() -> Result<Self> {
        let home = paths::target()?.join("defences");
        let mut stage =
            Self { tree: home.join("tree"), target: home.join("target"), programs: BTreeMap::new() };
        stage.remove()?;
        copy(&paths::repository()?, &stage.tree)?;
        prime(&paths::target()?.join("debug"), &stage.target.join("debug"))?;
        shell::run(&mut stage.cargo("build", &["--bin", "chaperone"])?)?;
        let mut build = stage.cargo("test", &["--no-run", "--message-format=json-render-diagnostics"])?;
        let text = shell::output(&mut build)?;
        let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        stage.programs = messages.filter_map(|message| test_program(&message)).collect();
        Ok(stage)
    }

    /// The daemon of the unchanged copy.
    pub(super) fn whole(&self) -> Result<Daemon> {
        Daemon::keep(&self.target, "whole")
    }

    /// The daemon without the entry's defence, or why there is none; the defence is back afterwards.
    pub(super) fn without(&self, entry: &Defence, name: &str) -> Result<Result<Daemon, Seen>> {
        let mut kept = Vec::new();
        for edit in &entry.edits {
            let path = self.tree.join(&edit.file);
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", edit.file))?;
            write(&path, &edit.apply(&text)?)?;
            kept.push((path, text));
        }
        let mut steps = vec![self.cargo("build", &["--bin", "chaperone"])?];
        if IN_PROCESS.contains(&entry.target.as_str()) {
            steps.push(self.cargo("test", &["--no-run", "--test", &entry.target])?);
        }
        let mut why = None;
        for step in &mut steps {
            let built = step.output().context("cannot start cargo")?;
            if !built.status.success() {
                why = Some(last_lines(&String::from_utf8_lossy(&built.stderr)));
                break;
            }
        }
        let built = match why {
            Some(why) => Err(Seen::Broken(format!("it does not build: {why}"))),
            None => Ok(self.keep(entry, name)?),
        };
        for (path, text) in kept.iter().rev() {
            write(path, text)?;
        }
        Ok(built)
    }

    /// What was built for an entry, kept apart from the next build.
    fn keep(&self, entry: &Defence, name: &str) -> Result<Daemon> {
        let mut daemon = Daemon::keep(&self.target, name)?;
        if IN_PROCESS.contains(&entry.target.as_str()) {
            let kept = self.target.join(format!("test-{name}"));
            let built = self.program(entry)?;
            fs::copy(built, &kept).with_context(|| format!("cannot copy `{}`", built.display()))?;
            daemon.test = Some(kept);
        }
        Ok(daemon)
    }

    fn program(&self, entry: &Defence) -> Result<&PathBuf> {
        let program = self.programs.get(&entry.target);
        program.with_context(|| format!("there is no test program `{}`", entry.target))
    }

    /// Runs the entry's test against this daemon.
    pub(super) fn play(&self, entry: &Defence, daemon: &Daemon) -> Result<Seen> {
        let program = match &daemon.test {
            Some(own) => own,
            None => self.program(entry)?,
        };
        let mut test = shell::as_root("timeout")?;
        test.args(["--kill-after=20", TEST_SECONDS_MAX]).arg(program);
        test.args(["--exact", &entry.test, "--test-threads=1", "--color=never"]);
        test.current_dir(self.tree.join("tests")).stdin(Stdio::null());
        test.env("CHAPERONE_BIN", &daemon.program).env("CHAPERONE_TOOLS", paths::tools()?);
        let ended = test.output().context("cannot run a test")?;
        let output = [ended.stdout, ended.stderr].concat();
        Ok(Seen::read(ended.status.code(), &String::from_utf8_lossy(&output)))
    }

    fn cargo(&self, word: &str, rest: &[&str]) -> Result<Command> {
        let mut command = shell::cargo()?;
        command.arg(word).args(PACKAGES).args(rest).args(["--locked", "--quiet"]);
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target);
        Ok(command)
    }

    fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.tree) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove `{}`", self.tree.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("{error:#}");
        }
    }
}

/// A built daemon, kept apart from the next build; removed when dropped.
pub(super) struct Daemon {
    program: PathBuf,
    /// The test program that was built with it, if it has the daemon's code in it.
    test: Option<PathBuf>,
}

impl Daemon {
    fn keep(target: &Path, name: &str) -> Result<Self> {
        let (built, kept) = (target.join("debug/chaperone"), target.join(format!("chaperone-{name}")));
        fs::copy(&built, &kept).with_context(|| format!("cannot copy `{}`", built.display()))?;
        Ok(Self { program: kept, test: None })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for path in [Some(&self.program), self.test.as_ref()].into_iter().flatten() {
            if let Err(error) = fs::remove_file(path) {
                eprintln!("cannot remove `{}`: {error}", path.display());
            }
        }
    }
}

/// Name and place of the test program that a message of cargo's is about, if it is about one.
fn test_program(message: &Value) -> Option<(String, PathBuf)> {
    let is_test = message.pointer("/profile/test")?.as_bool()?;
    let kind = message.pointer("/target/kind/0")?.as_str()?;
    let name = message.pointer("/target/name")?.as_str()?;
    let place = message.get("executable")?.as_str()?;
    (is_test && kind == "test").then(|| (name.to_owned(), PathBuf::from(place)))
}

/// Copies the files that git knows or would add.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut list = Command::new("git");
    list.current_dir(from).args(["-c", "core.quotepath=off", "ls-files"]);
    let names = shell::output(list.args(["--cached", "--others", "--exclude-standard"]))?;
    for name in names.lines().filter(|name| from.join(name).is_file()) {
        let place = to.join(name);
        let folder = place.parent().context("a file without a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        let text = fs::read(from.join(name)).with_context(|| format!("cannot read `{name}`"))?;
        fs::write(&place, text).with_context(|| format!("cannot write `{}`", place.display()))?;
    }
    Ok(())
}

/// Starts the first run from what is built already: other people's packages need not be built a second time.
fn prime(from: &Path, to: &Path) -> Result<()> {
    if to.exists() || !from.exists() {
        return Ok(());
    }
    fs::create_dir_all(to).with_context(|| format!("cannot make `{}`", to.display()))?;
    for part in [".fingerprint", "build", "deps"] {
        let mut copy = Command::new("cp");
        shell::run(copy.args(["-a", "--reflink=auto"]).arg(from.join(part)).arg(to))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

/// What a failed test said: the last error of the program it ran, else what it panicked with.
fn complaint(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let error = lines.iter().rfind(|line| line.contains("Error: "));
    let panic = lines.iter().position(|line| line.contains("panicked at ")).and_then(|at| lines.get(at + 1));
    let line = error.or(panic).copied().unwrap_or_default();
    line.chars().take(COMPLAINT_CHARS_MAX).collect()
}

/// The end of what a program said, in one line.
fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.get(lines.len().saturating_sub(6)..).unwrap_or_default().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::Seen;

    #[test]
    fn only_a_test_that_ran_and_failed_or_hung_has_noticed() {
        let failed = "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out";
        let passed = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out";
        let nothing = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 10 filtered out";
        let said = format!("thread 'a' panicked at b.rs:1:2:\nno luck\n{failed}");
        assert_eq!(Seen::read(Some(101), &said), Seen::Failed("no luck".to_owned()));
        assert_eq!(Seen::read(Some(124), ""), Seen::Hung);
        assert!(Seen::read(Some(101), failed).is_noticed() && Seen::read(Some(137), "").is_noticed());
        assert_eq!(Seen::read(Some(0), passed), Seen::Passed);
        for unrun in
            [Seen::read(Some(0), nothing), Seen::read(Some(127), "no such file"), Seen::read(None, "")]
        {
            assert!(matches!(unrun, Seen::Broken(_)) && !unrun.is_noticed(), "{unrun:?}");
        }
    }
}
