//! Runs other programs: as the invoking user for builds, through `sudo` for the named steps that need root.
//!
//! Prints what it starts and why before it starts it. A failing program is an error that names it.
//! INVARIANT: `sudo` is used only by [`as_root`], and every caller announces its step first.
//! Limits: output of started programs goes straight to the terminal; nothing is hidden or kept.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{paths, setup};

/// Announces one step: what, why, how long it usually takes.
pub(crate) fn announce(what: &str, why: &str, takes: &str) {
    eprintln!("==> {what}\n    why: {why}\n    takes: {takes}");
}

/// True when this process is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command that runs as the invoking user, with the tools in `PATH`.
pub(crate) fn as_user(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(program);
    command.env("PATH", paths::search_path()?).current_dir(paths::repository()?);
    Ok(command)
}

/// `cargo` of the repository's own toolchain.
pub(crate) fn cargo() -> Result<Command> {
    as_user(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A command that runs as root: itself when we are root, else through `sudo` with the variables we need kept.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return as_user(program);
    }
    let sudo = paths::find_program("sudo").ok_or_else(|| no_root("there is no sudo"))?;
    let mut command = as_user(sudo)?;
    command.arg(format!("--preserve-env={KEPT_VARIABLES}")).arg("--").arg(program);
    Ok(command)
}

/// Makes sure that the steps that need root can be done, before anything long starts: a password that `sudo` wants
/// is asked for here, and who may not use it is told so at once.
pub(crate) fn require_root() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    let sudo = paths::find_program("sudo").ok_or_else(|| no_root("there is no sudo"))?;
    let free = succeeds(as_user(&sudo)?.args(["-n", "--", "true"]));
    if free {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!(no_root("sudo refuses this user, or wants a password and there is no terminal to ask at"));
    }
    announce(
        "ask sudo for your password",
        "later steps need root; each is named before it starts",
        "as long as you type",
    );
    let allowed = as_user(&sudo)?.args(["--", "true"]).status().is_ok_and(|status| status.success());
    if !allowed {
        bail!(no_root("sudo refuses this user"));
    }
    Ok(())
}

fn no_root(why: &str) -> setup::Missing {
    setup::Missing(format!("root for a few steps, and {why}: run it as root, or let this user use sudo"))
}

/// Variables that tests and the demo read and that `sudo` would drop.
pub(crate) const KEPT_VARIABLES: &str =
    "CHAPERONE_BIN,CHAPERONE_TOOLS,CARGO_TARGET_DIR,RUST_BACKTRACE,RUST_LOG,TMPDIR";

/// Runs a command to its end and fails when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("    $ {}", spell(command));
    let status = command.status().with_context(|| format!("cannot start `{}`", spell(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", spell(command));
    }
    Ok(())
}

/// Runs a command quietly and returns what it wrote to standard output; fails when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", spell(command)))?;
    if !done.status.success() {
        bail!("`{}` ended with {}", spell(command), done.status);
    }
    String::from_utf8(done.stdout).with_context(|| format!("`{}` did not print text", spell(command)))
}

/// True when the command ends with 0; its output is dropped. A program that cannot be started counts as failed.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs an action and returns how long it took.
#[expect(clippy::disallowed_methods, reason = "the one stopwatch of the project's own commands")]
pub(crate) fn timed<T>(action: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let value = action()?;
    Ok((value, start.elapsed()))
}

/// The command as a person would type it.
fn spell(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
