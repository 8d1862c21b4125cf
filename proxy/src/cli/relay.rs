//! The terminal of whoever calls `run`, kept from the agent: it gets a terminal of its own, and this process passes bytes on.
//!
//! An agent that had the caller's terminal could leave a child behind that goes on reading what is typed there, passwords included.
//! So `run` on a terminal starts itself a second time, on the inner terminal, and that process becomes the agent; this one stays
//! outside, and hangs the inner terminal up once the command has ended. INVARIANT: no descriptor of the caller's terminal is
//! inherited by the agent, and the caller's settings are put back however this ends, but for SIGKILL.
//! Known limits: Ctrl-Z is for the agent to act on, as in a remote shell; what is typed is passed on if standard input is the terminal
//! and this process in its foreground, also where a pager in the same pipeline would like to have it (`< /dev/null` leaves it that).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Pid, Uid, fchown, getpgrp, setsid, tcgetpgrp, ttyname};

use crate::intercept::{set_window_size, window_size};

/// Bytes passed on at a time; the kernel's own buffers between terminals are as large.
const CHUNK: usize = 4096;
/// How much of what an agent said last is shown after its end.
const LAST_CHUNKS: usize = 64;
/// How often a terminal is looked at that nobody has, in milliseconds.
const HUNG_UP_LOOK: u8 = 200;
/// Signals that this process acts on or passes on.
const SIGNALS: [Signal; 9] = [
    Signal::SIGCHLD,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];
/// The option by which the second process knows that it is the second.
const RELAYED: &str = "--relayed";

/// Whether one of the standard streams is a terminal.
pub(super) fn is_needed() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// Makes the terminal on the standard streams this process's own, in a session of its own.
///
/// # Errors
/// When none of them is a terminal, or the kernel refuses.
pub(super) fn take_terminal() -> anyhow::Result<()> {
    setsid().context("could not begin a session")?;
    // The first process held them back.
    SIGNALS.into_iter().collect::<SigSet>().thread_unblock().context("could not let signals through")?;
    let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
    let streams = [input.as_fd(), output.as_fd(), errors.as_fd()];
    let path = streams.into_iter().find_map(|stream| ttyname(stream).ok()).context("there is no terminal")?;
    // A session's first process gets the first terminal it opens.
    File::options().read(true).write(true).open(path).context("could not open the agent's terminal").map(drop)
}

/// Runs this very command again on a terminal of its own, for an agent of this account, and passes bytes on until it ends.
///
/// # Errors
/// When there is no second terminal to be had, or the second process does not start.
pub(super) fn run(account: Option<Uid>) -> anyhow::Result<ExitCode> {
    let outer = Outer::find().context("could not read the terminal's settings")?;
    let size = window_size(&outer.terminal).ok();
    let inner = openpty(size.as_ref(), &outer.before).context("could not make a terminal for the agent")?;
    if let Some(account) = account {
        fchown(&inner.slave, Some(account), None).context("could not give the agent its terminal")?;
    }
    let held = SIGNALS.into_iter().collect::<SigSet>();
    held.thread_block().context("could not hold signals back")?;
    let signals = SignalFd::with_flags(&held, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("could not read signals")?;
    fcntl(&inner.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("could not keep the terminal")?;
    fcntl(&inner.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("could not keep the terminal")?;
    let child = second(&inner.slave).context("could not start the agent's process")?;
    drop(inner.slave);
    let mut relay =
        Relay { outer, master: inner.master.into(), signals, child, typed: Vec::new(), is_hung_up: false };
    relay.until_the_end().map(code_of).context("could not pass the terminal's bytes on")
}

/// The command of this process once more, with the inner terminal in the place of each stream that is the caller's.
fn second(slave: &OwnedFd) -> io::Result<Child> {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let run = arguments.iter().position(|argument| argument == "run").unwrap_or(0);
    arguments.insert(run.saturating_add(1), RELAYED.into());
    let stream = |is_terminal: bool| -> io::Result<Stdio> {
        if is_terminal { slave.try_clone().map(Stdio::from) } else { Ok(Stdio::inherit()) }
    };
    Command::new("/proc/self/exe")
        .args(arguments)
        .stdin(stream(io::stdin().is_terminal())?)
        .stdout(stream(io::stdout().is_terminal())?)
        .stderr(stream(io::stderr().is_terminal())?)
        .spawn()
}

/// As a shell would say it.
fn code_of(status: ExitStatus) -> ExitCode {
    let number = status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128)));
    ExitCode::from(number.and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX))
}

/// The caller's terminal.
#[derive(Debug)]
struct Outer {
    terminal: File,
    before: Termios,
    /// Whether it is where input comes from.
    is_typed: bool,
    is_raw: bool,
}

impl Outer {
    fn find() -> anyhow::Result<Self> {
        let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
        let is_typed = input.is_terminal();
        let streams = [output.as_fd(), errors.as_fd(), input.as_fd()];
        let terminal = streams.into_iter().find(IsTerminal::is_terminal).context("there is no terminal")?;
        let before = tcgetattr(terminal)?;
        Ok(Self { terminal: terminal.try_clone_to_owned()?.into(), before, is_typed, is_raw: false })
    }

    /// Lets each key through as it is, if input comes from here and it is ours to change.
    fn make_raw(&mut self) {
        let in_foreground = tcgetpgrp(&self.terminal) == Ok(getpgrp());
        let mut raw = self.before.clone();
        cfmakeraw(&mut raw);
        self.is_raw =
            self.is_typed && in_foreground && tcsetattr(&self.terminal, SetArg::TCSANOW, &raw).is_ok();
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        if self.is_raw
            && let Err(problem) = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before)
        {
            tracing::debug!(%problem, "the caller's terminal keeps its settings");
        }
    }
}

/// Both terminals and who is between them.
#[derive(Debug)]
struct Relay {
    outer: Outer,
    /// The inner terminal's other side.
    master: File,
    signals: SignalFd,
    child: Child,
    /// What was typed and does not fit yet.
    typed: Vec<u8>,
    is_hung_up: bool,
}

impl Relay {
    fn until_the_end(&mut self) -> io::Result<ExitStatus> {
        self.outer.make_raw();
        loop {
            let has_input = self.wait()?;
            if let Some(status) = self.obey()? {
                // What it said last is still on its way; a child that it left may go on for ever.
                for _ in 0..LAST_CHUNKS {
                    if self.show()? != Shown::Some {
                        break;
                    }
                }
                return Ok(status);
            }
            if has_input {
                self.read()?;
            }
            self.give()?;
            self.is_hung_up = self.show()? == Shown::HungUp;
        }
    }

    /// Waits for something to do; whether something was typed.
    fn wait(&self) -> io::Result<bool> {
        let input = io::stdin();
        let mut events = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        // A terminal that nobody has is told again and again: it is looked at from time to time, for a child may take it up again.
        let limit = if self.is_hung_up { PollTimeout::from(HUNG_UP_LOOK) } else { PollTimeout::NONE };
        if !self.is_hung_up {
            let room = if self.typed.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            events.push(PollFd::new(self.master.as_fd(), PollFlags::POLLIN | room));
        }
        let reads = self.outer.is_raw && self.typed.is_empty();
        if reads {
            events.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut events, limit) {
            Ok(_) => {}
            // Stopped, and continued.
            Err(Errno::EINTR) => return Ok(false),
            Err(problem) => return Err(problem.into()),
        }
        Ok(reads && events.last().and_then(PollFd::any).unwrap_or(false))
    }

    /// Acts on signals; how the agent ended, if it did.
    fn obey(&mut self) -> io::Result<Option<ExitStatus>> {
        while let Some(told) = self.signals.read_signal()? {
            let number = i32::try_from(told.ssi_signo).map_err(io::Error::other)?;
            match Signal::try_from(number)? {
                Signal::SIGCHLD => {
                    if let Some(status) = self.child.try_wait()? {
                        return Ok(Some(status));
                    }
                }
                Signal::SIGWINCH => self.resize(),
                Signal::SIGCONT => {
                    self.outer.make_raw();
                    self.resize();
                }
                // A key's signals are for whoever is in front.
                Signal::SIGINT | Signal::SIGQUIT => {
                    let front = tcgetpgrp(&self.master);
                    pass_on(front.and_then(|group| killpg(group, Signal::try_from(number)?)));
                }
                other => {
                    let agent = i32::try_from(self.child.id()).map_err(io::Error::other)?;
                    pass_on(kill(Pid::from_raw(agent), other));
                }
            }
        }
        Ok(None)
    }

    fn resize(&self) {
        if let Ok(size) = window_size(&self.outer.terminal)
            && let Err(problem) = set_window_size(&self.master, &size)
        {
            tracing::debug!(%problem, "the agent's terminal keeps its size");
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; CHUNK];
        // Not by the buffered reader: what is typed after the end is the caller's.
        let count = match nix::unistd::read(io::stdin(), &mut bytes) {
            Ok(count) => count,
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(()),
            // The terminal is gone, and a signal says so.
            Err(Errno::EIO) => 0,
            Err(problem) => return Err(problem.into()),
        };
        if count == 0 {
            self.outer.is_raw = false;
        }
        self.typed.extend_from_slice(bytes.get(..count).unwrap_or_default());
        Ok(())
    }

    /// Gives the agent what it has room for.
    fn give(&mut self) -> io::Result<()> {
        if self.typed.is_empty() {
            return Ok(());
        }
        match (&self.master).write(&self.typed) {
            Ok(count) => drop(self.typed.drain(..count.min(self.typed.len()))),
            Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => {}
            // Hung up: nobody reads any more.
            Err(problem) if problem.raw_os_error() == Some(libc::EIO) => self.typed.clear(),
            Err(problem) => return Err(problem),
        }
        Ok(())
    }

    /// Shows what the agent wrote.
    fn show(&self) -> io::Result<Shown> {
        let mut bytes = [0; CHUNK];
        match (&self.master).read(&mut bytes) {
            Ok(0) => Ok(Shown::HungUp),
            Ok(count) => {
                let said = bytes.get(..count).unwrap_or_default();
                // The caller's terminal puts its own before each end of a line, unless it is told to let everything through.
                let said = if self.outer.is_raw { said.to_vec() } else { without_returns(said) };
                (&self.outer.terminal).write_all(&said)?;
                Ok(Shown::Some)
            }
            Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => Ok(Shown::Nothing),
            Err(problem) if problem.raw_os_error() == Some(libc::EIO) => Ok(Shown::HungUp),
            Err(problem) => Err(problem),
        }
    }
}

/// Without what a terminal puts before the end of a line.
fn without_returns(said: &[u8]) -> Vec<u8> {
    let next = said.iter().skip(1).map(Some).chain([None]);
    said.iter().zip(next).filter(|pair| *pair != (&b'\r', Some(&b'\n'))).map(|(byte, _)| *byte).collect()
}

/// What was to be shown.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Some,
    Nothing,
    /// Nobody has the inner terminal; the agent may live on without.
    HungUp,
}

/// Whoever a signal was for may be gone.
fn pass_on(sent: nix::Result<()>) {
    if let Err(problem) = sent {
        tracing::debug!(%problem, "nobody took a signal");
    }
}

#[cfg(test)]
mod tests {
    use super::without_returns;

    #[test]
    fn only_returns_before_the_end_of_a_line_are_left_out() {
        assert_eq!(without_returns(b"1%\r2%\r\nend\r"), b"1%\r2%\nend\r");
        assert_eq!(without_returns(b""), b"");
    }
}
