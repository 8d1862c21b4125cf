//! A network namespace that no name leads to, kept open by one thread that does what it is given there.
//!
//! INVARIANT: the namespace lives as long as the room, and no process but ours is ever in it, except one that the room was
//! opened on. Limits: one job at a time; a job that does not end blocks the room.

use std::fs::{self, File};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::sched::{CloneFlags, setns, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A thread in another network namespace.
#[derive(Debug)]
pub(super) struct Room {
    jobs: Sender<Job>,
    namespace: File,
}

impl Room {
    /// A new, empty namespace.
    pub(super) fn fresh() -> io::Result<Self> {
        Self::open(|| Ok(unshare(CloneFlags::CLONE_NEWNET)?))
    }

    /// The namespace that a process is in.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        Self::open(move || Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?))
    }

    fn open(enter: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (jobs, todo): (Sender<Job>, Receiver<Job>) = channel();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let entered = enter().and_then(|()| File::open("/proc/thread-self/ns/net"));
            let inside = entered.is_ok();
            if tell.send(entered).is_ok() && inside {
                todo.iter().for_each(|job| job());
            }
        });
        let namespace = told.recv().map_err(io::Error::other)??;
        Ok(Self { jobs, namespace })
    }

    /// The namespace.
    pub(super) fn namespace(&self) -> &File {
        &self.namespace
    }

    /// Does something there and waits for its end.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (tell, told) = channel();
        let job = Box::new(move || {
            // Nobody waits any more if this fails.
            drop(tell.send(job()));
        });
        self.jobs.send(job).map_err(|_gone| io::Error::other("the room is gone"))?;
        told.recv().map_err(io::Error::other)
    }
}

/// Quietens the kernel of this thread's namespace, so that what the witness sees was caused by somebody.
pub(super) fn quieten() {
    let settings = [
        ("ipv4/ping_group_range", "0 2147483647"),
        ("ipv4/tcp_fastopen", "1"),
        ("ipv4/conf/default/igmpv3_unsolicited_report_interval", "10"),
        ("ipv4/conf/default/igmpv2_unsolicited_report_interval", "10"),
        ("ipv6/conf/default/mldv2_unsolicited_report_interval", "10"),
        ("ipv6/conf/default/mldv1_unsolicited_report_interval", "10"),
        ("ipv6/conf/default/router_solicitations", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
    ];
    for (name, value) in settings {
        if let Err(problem) = fs::write(format!("/proc/sys/net/{name}"), value) {
            tracing::debug!(name, %problem, "a setting of the test's network stays as it is");
        }
    }
}
