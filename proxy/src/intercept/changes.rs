//! Word from the kernel that the agents' cgroup may have been removed or made.
//!
//! The looks of each second find that, too; this is what makes the time in between short. It says nothing about programs, and
//! is never relied on: where it cannot be had, or the folder it watches goes away, the looks remain.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::read;
use tokio::io::unix::AsyncFd;

use super::error::InterceptError;
use super::sys;

/// Room for a good many events; what does not fit is read with the next call.
const BUFFER_BYTES: usize = 4096;

/// A watch on the folder that the agents' cgroup is in.
#[derive(Debug)]
pub struct Changes {
    events: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Watches one folder. Needs a tokio runtime.
    pub(super) fn of(folder: &Path) -> Result<Self, InterceptError> {
        let failed = |source| InterceptError::Kernel { action: "watch for cgroups", source };
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let watch = watch.map_err(|errno| failed(errno.into()))?;
        watch
            .add_watch(
                folder,
                AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR,
            )
            .map_err(|errno| failed(errno.into()))?;
        let events = sys::watch_descriptor(OwnedFd::from(watch)).map_err(failed)?;
        Ok(Self { events })
    }

    /// Returns when something was made or removed there. Cancel-safe: what is not read stays.
    ///
    /// # Errors
    /// When the watch cannot be read any more.
    pub async fn next(&self) -> Result<(), InterceptError> {
        let failed = |source| InterceptError::Kernel { action: "hear of new cgroups", source };
        loop {
            let mut ready = self.events.readable().await.map_err(failed)?;
            let mut buffer = [0_u8; BUFFER_BYTES];
            let taken = ready.try_io(|events| read(events.get_ref(), &mut buffer).map_err(Into::into));
            match taken {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(source)) => return Err(failed(source)),
                Err(_would_block) => {}
            }
        }
    }
}
