//! A process without root that asks the daemon to become an agent: what is checked before and after it is placed.
//!
//! It is held by a handle that the kernel took from its socket, so that its number cannot come to mean another process unseen.
//! Refused are other accounts' processes, processes with several threads, and every open socket that is no unix socket: it was made
//! outside, where nothing guards it; each is asked for by itself. Limits: a launcher that wants to smuggle a socket in can still be
//! handed one afterwards; the sentinel refuses to connect that one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::JailError;
use crate::intercept::{self, Cgroup, Tree};

/// More descriptors than a launcher has.
const DESCRIPTORS_MAX: usize = 1024;

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    /// No socket.
    None,
    /// A unix socket with no descriptor on its way in it.
    Local,
    /// Anything else, or a unix socket that brings more with it.
    Foreign,
}

/// A process that asked to become an agent.
#[derive(Debug)]
pub struct Newcomer {
    pid: u32,
    uid: u32,
    handle: OwnedFd,
}

impl Newcomer {
    /// The process that the kernel names at the other end of a socket; `handle` is the kernel's own, where it gives one.
    ///
    /// # Errors
    /// When there is no such process any more, or it is not in this process's view.
    pub fn new(pid: u32, uid: u32, handle: Option<OwnedFd>) -> Result<Self, JailError> {
        let handle = match handle {
            Some(handle) => handle,
            // Before Linux 6.5: should the number mean another process by now, that one is checked to be the same account's.
            None => intercept::process_handle(pid).map_err(|_gone| refused("the caller is gone"))?,
        };
        let about = format!("/proc/self/fdinfo/{}", handle.as_raw_fd());
        let about = fs::read_to_string(&about).map_err(|source| JailError::mount("read", &about, source))?;
        let known = about.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
        if known != Some(pid.to_string().as_str()) {
            return Err(refused("the caller is in another process namespace, or gone"));
        }
        Ok(Self { pid, uid, handle })
    }

    /// Puts it into a cgroup, if nothing about it would reach around the guard.
    ///
    /// # Errors
    /// When it may not go there, or did not arrive.
    pub fn place(&self, cgroup: &Cgroup) -> Result<(), JailError> {
        self.check()?;
        cgroup.admit(self.pid)?;
        if !self.is_alive()? {
            // The number may have come to mean another process in between: that one goes back to where its parent is.
            put_back(cgroup);
            return Err(refused("the caller ended while it was placed"));
        }
        // What it opened before it was moved is seen now, if it was not before.
        self.check()
    }

    fn check(&self) -> Result<(), JailError> {
        let own = PathBuf::from(format!("/proc/{}", self.pid));
        let status = fs::read_to_string(own.join("status")).map_err(|_gone| refused("the caller is gone"))?;
        require_same_account(&status, self.uid)?;
        if field(&status, "Threads:") != Some("1") {
            return Err(refused("a process with several threads cannot become an agent"));
        }
        for (target, socket) in descriptors(&own)? {
            if socket == Socket::Foreign || target.contains("[io_uring]") {
                let why = format!("a process with an open network socket cannot become an agent: `{target}`");
                return Err(JailError::Newcomer { why });
            }
        }
        // Everything above was read by number; it was about this process if this process is still there.
        if self.is_alive()? { Ok(()) } else { Err(refused("the caller is gone")) }
    }

    fn is_alive(&self) -> Result<bool, JailError> {
        let mut ended = [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)];
        poll(&mut ended, PollTimeout::ZERO)
            .map(|ended| ended == 0)
            .map_err(|problem| JailError::privileges("look at the caller", problem))
    }
}

impl Socket {
    /// By the kernel's lines about the descriptor itself (`fdinfo`). Only unix sockets have this one, since Linux 5.6, and none of the
    /// lines holds text of the process's: the list of names in `net/unix` does, line ends included.
    fn told(about: &str) -> Self {
        match field(about, "scm_fds:") {
            Some("0") => Self::Local,
            Some(_) | None => Self::Foreign,
        }
    }
}

fn refused(why: &str) -> JailError {
    JailError::Newcomer { why: why.to_owned() }
}

fn field<'t>(status: &'t str, name: &str) -> Option<&'t str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// All four ids, so that no program with an owner's rights is taken for its caller.
fn require_same_account(status: &str, uid: u32) -> Result<(), JailError> {
    let ids = field(status, "Uid:").unwrap_or_default();
    let same = ids.split_ascii_whitespace().filter(|id| *id == uid.to_string()).count() == 4;
    if same { Ok(()) } else { Err(refused("the caller runs under more than one account")) }
}

/// Where each descriptor leads, and what the kernel says of it.
fn descriptors(own: &Path) -> Result<Vec<(String, Socket)>, JailError> {
    let folder = own.join("fd");
    let failed = |source: io::Error| JailError::mount("list", &folder, source);
    let mut open = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        if open.len() == DESCRIPTORS_MAX {
            return Err(JailError::TooMany { what: "open files of the caller", most: DESCRIPTORS_MAX });
        }
        let entry = entry.map_err(failed)?;
        let target = match fs::read_link(entry.path()) {
            Ok(target) => target.to_string_lossy().into_owned(),
            // Closed meanwhile.
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => continue,
            Err(problem) => return Err(failed(problem)),
        };
        let socket = if target.starts_with("socket:") {
            let about = own.join("fdinfo").join(entry.file_name());
            Socket::told(&fs::read_to_string(&about).map_err(failed)?)
        } else {
            Socket::None
        };
        open.push((target, socket));
    }
    Ok(open)
}

/// Moves what is in a cgroup to where each process's parent is. Only for strangers that came by a number used again.
fn put_back(cgroup: &Cgroup) {
    let Ok(inside) = fs::read_to_string(cgroup.path().join("cgroup.procs")) else { return };
    for pid in inside.lines().filter_map(|line| line.parse::<u32>().ok()) {
        let parent = fs::read_to_string(format!("/proc/{pid}/status"));
        let parent = parent.ok().and_then(|status| field(&status, "PPid:")?.parse::<u32>().ok());
        let home = parent.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).ok());
        let home =
            home.and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::").map(PathBuf::from)));
        let moved = home.and_then(|home| Tree::find().ok()?.open(&home).ok()?.admit(pid).ok());
        tracing::warn!(
            pid,
            back = moved.is_some(),
            "a stranger took the number of a process that was placed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_one_account_is_the_callers() {
        require_same_account("Uid:\t7\t7\t7\t7\nGid:\t0\n", 7).unwrap();
        for other in ["Uid:\t7\t0\t7\t7\n", "Uid:\t0\t0\t0\t0\n", "Gid:\t7\t7\t7\t7\n"] {
            assert!(require_same_account(other, 7).is_err(), "{other}");
        }
    }

    #[test]
    fn only_a_unix_socket_with_nothing_on_its_way_is_local() {
        assert_eq!(Socket::told("pos:\t0\nino:\t7\nscm_fds: 0\n"), Socket::Local);
        assert_eq!(Socket::told("pos:\t0\nino:\t7\nscm_fds: 1\n"), Socket::Foreign);
        assert_eq!(Socket::told("pos:\t0\nino:\t7\n"), Socket::Foreign);
    }

    #[test]
    fn a_process_with_threads_is_refused_and_one_that_is_gone_too() {
        let uid = nix::unistd::getuid().as_raw();
        // The test harness itself has threads.
        let own = Newcomer::new(std::process::id(), uid, None).unwrap();
        assert!(matches!(own.check(), Err(JailError::Newcomer { why }) if why.contains("threads")));
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let gone = Newcomer::new(child.id(), uid, None).unwrap();
        child.wait().unwrap();
        assert!(gone.check().is_err());
    }
}
