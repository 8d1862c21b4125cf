//! New cgroups of agents, at the moment they are made: what a container's runtime does before it starts anything in it.
//!
//! A hint, and no more: it makes the daemon look soon and often, so that a container's namespace has a proxy before its first
//! program runs. Whatever is missed here is found by the look of each second, or by the first socket.
//! Watches the agents' parent and the cgroups right below it; a runtime that nests deeper is found by the others.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use super::cgroup::Tree;
use super::error::InterceptError;
use super::sys;

/// The kernel's notes on new folders.
#[derive(Debug)]
pub(super) struct Notes(Inotify);

impl AsRawFd for Notes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The stream of new cgroups.
#[derive(Debug)]
pub struct Births {
    notes: AsyncFd<Notes>,
    parent: PathBuf,
}

impl Births {
    pub(super) fn watch(parent: &Path) -> Result<Self, InterceptError> {
        let failed = |source| InterceptError::Kernel { action: "watch for new cgroups of agents", source };
        let parent = Tree::find()?.open(parent)?.path().to_owned();
        let notes = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        let notes = notes.map_err(|errno| failed(errno.into()))?;
        let notes = sys::watch_notes(Notes(notes)).map_err(failed)?;
        let births = Self { notes, parent };
        births.cover();
        Ok(births)
    }

    /// Returns when cgroups were made since the last call. Cancel-safe.
    ///
    /// # Errors
    /// When the runtime can no longer watch.
    pub async fn next(&mut self) -> Result<(), InterceptError> {
        let failed = |source| InterceptError::Kernel { action: "wait for new cgroups of agents", source };
        loop {
            let mut ready = self.notes.readable_mut().await.map_err(failed)?;
            match ready.get_inner().0.read_events() {
                Ok(events) => {
                    // An account's own folder has no watch yet; one that was removed and made anew needs another.
                    let names: Vec<OsString> = events.into_iter().filter_map(|event| event.name).collect();
                    if !names.is_empty() {
                        self.cover();
                        return Ok(());
                    }
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }

    /// Watches the parent and everything right below it. The kernel keeps one watch per folder, however often it is asked.
    fn cover(&self) {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR;
        let below = fs::read_dir(&self.parent).into_iter().flatten().flatten().map(|entry| entry.path());
        for folder in [self.parent.clone()].into_iter().chain(below.filter(|path| path.is_dir())) {
            if let Err(errno) = self.notes.get_ref().0.add_watch(&folder, flags) {
                let problem = io::Error::from(errno);
                tracing::debug!(%problem, folder = %folder.display(), "new cgroups in it are noticed late");
            }
        }
    }
}
