//! Child processes that cannot outlive a test, and commands with a time limit.
//!
//! A [`Process`] is the leader of its own group; dropping it kills the group and reaps it. Output goes to a file,
//! so that a failure can show it. A [`Running`] command is killed with its group too, should the test fail before its end. A
//! [`Finished`] command has a status and both outputs as text.
//! INVARIANT: nothing here waits without a limit.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::wait;

/// How long a killed process may take to go.
const REAP_LIMIT: Duration = Duration::from_secs(10);

/// How much of a log a failure shows.
const LOG_LINES: usize = 40;

/// A running child with its own process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    farewell: Signal,
}

impl Process {
    /// Starts a command; its output goes to `log`. `farewell` is the signal that asks it politely when dropped.
    pub fn start(name: &str, command: &mut Command, log: &Path, farewell: Signal) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot open `{}`", log.display()))?;
        let second = file.try_clone().context("cannot share the log")?;
        let child =
            command.process_group(0).stdin(Stdio::null()).stdout(file).stderr(second).spawn().with_context(
                || format!("cannot start {name}: `{}`", command.get_program().to_string_lossy()),
            )?;
        Ok(Self { name: name.to_owned(), child, log: log.to_path_buf(), farewell })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// The last lines of its output.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Everything it has printed.
    pub fn log(&self) -> Result<String> {
        let bytes =
            std::fs::read(&self.log).with_context(|| format!("cannot read the log of {}", self.name))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a signal to the process itself.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Sends a signal and waits for the end.
    pub fn stop(&mut self, signal: Signal, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(signal)?;
        let name = self.name.clone();
        wait::until(&format!("the end of {name}"), limit, || self.ended())
    }

    /// Waits until `ready` gives an answer; fails at once, with its output, when the process ends before that.
    pub fn wait_ready<T>(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let what = format!("{} to be ready", self.name);
        let answer = wait::until(&what, limit, || {
            if let Some(answer) = ready()? {
                return Ok(Some(answer));
            }
            match self.ended()? {
                Some(status) => {
                    bail!("{} ended with {status} before it was ready:\n{}", self.name, self.log_tail())
                }
                None => Ok(None),
            }
        });
        answer.with_context(|| format!("output of {}:\n{}", self.name, self.log_tail()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.stop(self.farewell, REAP_LIMIT).is_ok() {
            return;
        }
        // The group may hold children that ignored the farewell; an error means that nobody is left.
        if killpg(self.pid(), Signal::SIGKILL).is_ok()
            && let Err(error) = self.child.wait()
        {
            eprintln!("cannot reap {}: {error}", self.name);
        }
    }
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output of a command that ended well; an error with both outputs otherwise.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("ended with {}\nstdout:\n{}\nstderr:\n{}", self.status, self.stdout, self.stderr);
    }

    /// Both outputs, one after the other.
    #[must_use]
    pub fn both(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end; past the limit its whole group is killed and the call fails.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    Running::start(command)?.finish(limit)
}

/// A command that runs while the test does something else, with its outputs collected. Dropped before its end, it is asked to end
/// and then killed, with its group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    // Nothing once it has been finished.
    outputs: Option<[Reader; 2]>,
}

type Reader = std::thread::JoinHandle<std::io::Result<Vec<u8>>>;

impl Running {
    /// Starts it with closed standard input.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", command.get_program().to_string_lossy()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let stderr = child.stderr.take().context("no standard error")?;
        Ok(Self { child, outputs: Some([collect(stdout), collect(stderr)]) })
    }

    /// True while it has not ended.
    pub fn is_alive(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("cannot wait for a command")?.is_none())
    }

    /// Sends a signal to its group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id does not fit")?;
        killpg(Pid::from_raw(pid), signal).context("cannot signal a command")
    }

    /// Waits for its end.
    pub fn finish(mut self, limit: Duration) -> Result<Finished> {
        let ended = wait::until("a command to end", limit, || {
            self.child.try_wait().context("cannot wait for a command")
        });
        if ended.is_err() {
            self.signal(Signal::SIGKILL)?;
            self.child.wait().context("cannot reap a command")?;
        }
        let [stdout, stderr] = self.outputs.take().context("a command has one end")?;
        let (stdout, stderr) = (text(stdout)?, text(stderr)?);
        let status = ended.with_context(|| format!("stdout:\n{stdout}\nstderr:\n{stderr}"))?;
        Ok(Finished { status, stdout, stderr })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A launcher ends its agent when it is asked to; killed, it could not.
        let asked = matches!(self.is_alive(), Ok(true)) && self.signal(Signal::SIGTERM).is_ok();
        if !asked
            || wait::until("a command to end", REAP_LIMIT, || Ok((!self.is_alive()?).then_some(()))).is_ok()
        {
            return;
        }
        if self.signal(Signal::SIGKILL).is_ok()
            && let Err(error) = self.child.wait()
        {
            eprintln!("cannot reap a command: {error}");
        }
    }
}

fn collect(mut from: impl Read + Send + 'static) -> Reader {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map(|_| bytes)
    })
}

fn text(reader: Reader) -> Result<String> {
    let Ok(bytes) = reader.join() else { bail!("the reader of a command's output panicked") };
    Ok(String::from_utf8_lossy(&bytes.context("cannot read a command's output")?).into_owned())
}

/// The last lines of a file, or a note that it cannot be read.
fn tail(path: &Path) -> String {
    let Ok(bytes) = std::fs::read(path) else { return format!("`{}` cannot be read", path.display()) };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};

    use super::{Process, REAP_LIMIT, Running, run};
    use crate::temp::Dir;
    use crate::wait;

    #[test]
    fn a_dropped_process_is_gone() {
        let dir = Dir::new("process-test").unwrap();
        let log = dir.path().join("log");
        let process =
            Process::start("sleep", Command::new("sleep").arg("600"), &log, Signal::SIGTERM).unwrap();
        let pid = process.pid();
        drop(process);
        assert!(kill(pid, None).is_err());
    }

    #[test]
    fn a_dropped_command_is_gone_with_its_children() {
        let dir = Dir::new("process-test").unwrap();
        let file = dir.path().join("child");
        let script = format!("sleep 600 & echo $! > '{}'; wait", file.display());
        let running = Running::start(Command::new("sh").args(["-c", &script])).unwrap();
        let read = || Ok(std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n')));
        let child = wait::until("the child's number", REAP_LIMIT, read).unwrap();
        drop(running);
        // Signalled already; whoever inherits it may reap it much later.
        let stat = PathBuf::from(format!("/proc/{}/stat", child.trim()));
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        wait::until("the child's end", REAP_LIMIT, || Ok(gone().then_some(()))).unwrap();
    }

    #[test]
    fn a_command_past_its_limit_is_killed() {
        let error = run(Command::new("sleep").arg("600"), Duration::from_millis(50)).unwrap_err();
        assert!(format!("{error:#}").contains("in vain"), "{error:#}");
    }

    #[test]
    fn a_process_that_ends_early_fails_with_its_output() {
        let dir = Dir::new("process-test").unwrap();
        let log = dir.path().join("log");
        let mut early = Process::start(
            "early",
            Command::new("sh").args(["-c", "echo no luck; exit 3"]),
            &log,
            Signal::SIGTERM,
        )
        .unwrap();
        let error = early.wait_ready::<()>(Duration::from_secs(10), || Ok(None)).unwrap_err();
        assert!(format!("{error:#}").contains("no luck"), "{error:#}");
    }
}
