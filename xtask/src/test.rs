//! `cargo xtask test`: sets up, runs every test of the workspace as root, counts them, and checks the machine after.
//!
//! Fails when a test fails, when one is ignored or filtered out, when none ran against a real server, and when
//! anything is left behind. Tests in `tests/tests/*.rs` start real servers; those are counted apart.
//! Limits: further arguments go to the test programs, and then filtered-out tests are allowed.

use std::io::{BufRead, BufReader, Write};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{leftovers, paths, setup, shell};

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Change nothing on this machine: list what is missing and end with 3
    #[arg(long)]
    no_install: bool,
    /// Handed to the test programs, e.g. a part of a test's name
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Sets up, builds, runs, counts.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::require_kernel()?;
    setup::run(&setup::Args { no_install: args.no_install, ci: false })?;
    shell::announce(
        "build the daemon and all tests",
        "tests start the real program",
        "8 minutes when nothing is built yet",
    );
    shell::run(shell::cargo()?.args(["build", "--workspace", "--bins"]))?;
    shell::run(shell::cargo()?.args(["test", "--workspace", "--no-run"]))?;
    if !shell::is_root() {
        shell::announce(
            "run the tests (root step)",
            "they load kernel programs and make cgroups",
            "a few minutes",
        );
        // Asks for the password here, if at all, and not in the middle of the tests.
        shell::run(&mut shell::as_root("true")?)?;
    }
    leftovers::adopt_orphans()?;
    let before = leftovers::Snapshot::take()?;
    let (count, took) = shell::timed(|| run_tests(&args.rest))?;
    let clean = leftovers::require_none(&before);
    count.print(took);
    clean?;
    count.judge(!args.rest.is_empty())
}

/// Runs `cargo test` with its programs started as root, shows what they print and counts as it goes by.
fn run_tests(rest: &[String]) -> Result<Count> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut command = test_command()?;
    command.args(rest);
    // One pipe for both, so that "Running ..." and the results that follow it stay in order.
    command.stdout(writer.try_clone().context("cannot share the pipe")?).stderr(writer);
    let mut child = command.spawn().context("cannot start `cargo test`")?;
    // The command still holds ends of the pipe; without this the reader would never see its end.
    drop(command);
    let mut count = Count::default();
    for line in BufReader::new(reader).split(b'\n') {
        let bytes = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&bytes);
        count.read(&line, is_server_test);
        writeln!(std::io::stdout(), "{line}").context("cannot print")?;
    }
    let status = child.wait().context("cannot wait for `cargo test`")?;
    count.ended_well = status.success();
    Ok(count)
}

fn test_command() -> Result<Command> {
    let mut command = shell::cargo()?;
    command.env("CHAPERONE_BIN", paths::built("debug", "chaperone")?).env("CHAPERONE_TOOLS", paths::tools()?);
    if !shell::is_root() {
        let sudo = paths::find_program("sudo").context("sudo went away")?;
        let runner = format!("{} --preserve-env={} --", sudo.display(), shell::KEPT_VARIABLES);
        command.env(runner_variable()?, runner);
    }
    command.args(["test", "--workspace", "--no-fail-fast", "--color", "never", "--"]);
    Ok(command)
}

/// Cargo's variable that names the program tests are started through: it holds the host's triple.
fn runner_variable() -> Result<String> {
    let text = shell::output(shell::as_user("rustc")?.arg("-vV"))?;
    let host =
        text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not name its host")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.replace('-', "_").to_uppercase()))
}

/// True for `tests/NAME.rs` of the package that starts real servers.
fn is_server_test(source: &str) -> bool {
    paths::repository()
        .is_ok_and(|root| source.starts_with("tests/") && root.join("tests").join(source).is_file())
}

/// What went by.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    in_server_test: bool,
    passed: u64,
    failed: u64,
    ignored: u64,
    filtered: u64,
    servers: u64,
    programs: u64,
    failures: Vec<Failure>,
    /// The failed test whose output goes by.
    telling: Option<String>,
    ended_well: bool,
}

/// A failed test and how it began to say why.
#[derive(Debug, Default, PartialEq, Eq)]
struct Failure {
    name: String,
    said: Vec<String>,
}

/// Enough for the place, the message and both sides of a comparison.
const SAID_LINES_MAX: usize = 8;

impl Count {
    /// Takes notice of one printed line.
    fn read(&mut self, line: &str, is_server_test: impl Fn(&str) -> bool) {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.telling = Some(name.to_owned());
        } else if line == "failures:" || line == "stack backtrace:" || line.starts_with("note: run with ") {
            self.telling = None;
        } else if let Some(name) = &self.telling {
            self.note(&name.clone(), line);
        } else if let Some(rest) = line.strip_prefix("Running ") {
            let source = rest.split(" (").next().unwrap_or_default();
            self.in_server_test = is_server_test(source);
        } else if let Some(name) = failed_test(line) {
            self.failures.push(Failure { name: name.to_owned(), said: Vec::new() });
        } else if line.starts_with("Doc-tests ") {
            self.in_server_test = false;
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            let number = |word: &str| {
                let part = rest.split([';', '.']).find_map(|part| part.trim().strip_suffix(word))?;
                part.trim().parse::<u64>().ok()
            };
            let passed = number("passed").unwrap_or(0);
            self.programs += 1;
            self.passed += passed;
            self.failed += number("failed").unwrap_or(0);
            self.ignored += number("ignored").unwrap_or(0);
            self.filtered += number("filtered out").unwrap_or(0);
            if self.in_server_test {
                self.servers += passed;
            }
        }
    }

    /// Keeps what a failed test says of itself, its beginning only.
    fn note(&mut self, name: &str, line: &str) {
        let failure = self.failures.iter_mut().rev().find(|failure| failure.name == name);
        if let Some(failure) = failure
            && failure.said.len() < SAID_LINES_MAX
            && !line.is_empty()
        {
            failure.said.push(line.to_owned());
        }
    }

    /// The lines a reader looks for at the end.
    fn print(&self, took: std::time::Duration) {
        let word = if self.ended_well && self.failed == 0 { "ok" } else { "FAILED" };
        println!("\ntests that ran against real servers, clients and kernel programs: {}", self.servers);
        println!(
            "test result: {word}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out; finished in {:.2}s",
            self.passed,
            self.failed,
            self.ignored,
            self.filtered,
            took.as_secs_f64()
        );
    }

    /// A skip is a failure; so is a run that tested nothing real.
    fn judge(&self, narrowed: bool) -> Result<()> {
        if !self.ended_well || self.failed > 0 {
            // They stand hundreds of lines above by now.
            let told: String = self.failures.iter().map(Failure::told).collect();
            bail!("{} test(s) failed{told}", self.failed);
        }
        if self.ignored > 0 {
            bail!("{} test(s) were ignored; a skip is a failure here", self.ignored);
        }
        if !narrowed && self.filtered > 0 {
            bail!("{} test(s) were filtered out", self.filtered);
        }
        if !narrowed && self.servers == 0 {
            bail!("no test ran against a real server");
        }
        Ok(())
    }
}

impl Failure {
    fn told(&self) -> String {
        let said: String = self.said.iter().map(|line| format!("\n    {line}")).collect();
        format!("\n  {}{said}", self.name)
    }
}

/// `test NAME ... FAILED` gives the name.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

#[cfg(test)]
mod tests {
    use super::Count;

    fn count(lines: &[&str]) -> Count {
        let mut count = Count { ended_well: true, ..Count::default() };
        for line in lines {
            count.read(line, |source| source == "tests/postgres.rs");
        }
        count
    }

    const UNIT: &str =
        "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";

    #[test]
    fn server_tests_are_counted_apart() {
        let seen = count(&[
            "     Running unittests src/lib.rs (target/debug/deps/chaperone-1)",
            UNIT,
            "     Running tests/postgres.rs (target/debug/deps/postgres-2)",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.31s",
            "   Doc-tests chaperone",
            UNIT,
        ]);
        assert_eq!((seen.passed, seen.servers, seen.programs), (11, 5, 3));
        assert!(seen.judge(false).is_ok());
    }

    #[test]
    fn an_ignored_test_fails_the_run() {
        let seen = count(&[
            "     Running tests/postgres.rs (x)",
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 9.31s",
        ]);
        assert!(seen.judge(false).is_err());
    }

    #[test]
    fn a_filtered_test_fails_the_whole_run_only() {
        let seen = count(&[
            "     Running tests/postgres.rs (x)",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 9.31s",
        ]);
        assert!(seen.judge(false).is_err());
        assert!(seen.judge(true).is_ok());
    }

    #[test]
    fn a_run_without_real_servers_fails() {
        assert!(count(&["     Running unittests src/lib.rs (x)", UNIT]).judge(false).is_err());
    }

    #[test]
    fn a_failed_test_fails_the_run_and_is_named_with_its_reason_at_its_end() {
        let seen = count(&[
            "     Running tests/postgres.rs (x)",
            "test rows_are_masked ... FAILED",
            "failures:",
            "",
            "---- rows_are_masked stdout ----",
            "",
            "thread 'rows_are_masked' (7) panicked at tests/tests/postgres.rs:5:1:",
            "a value was seen",
            "stack backtrace:",
            "   0: core::panicking::panic",
            "failures:",
            "    rows_are_masked",
            "test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.31s",
        ]);
        let error = seen.judge(false).unwrap_err().to_string();
        assert_eq!(
            error,
            "1 test(s) failed\n  rows_are_masked\n    thread 'rows_are_masked' (7) panicked at tests/tests/postgres.rs:5:1:\n    a value was seen"
        );
    }
}
