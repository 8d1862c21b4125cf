//! Places where a mere name makes a process outside act: automounters.
//!
//! Whoever looks at a name below one has it told to the automounter, which acts on it as root outside, and with some maps calls the
//! host of that name. An empty folder takes the place of each; what is mounted below already is put back into it.
//! Limits: `/proc/sys/fs/binfmt_misc` stays, which tells nobody anything; what would be mounted later is not there for the agent.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, fstat};

use super::error::JailError;
use super::mounts::{Mounted, restore, table};

const KIND: &str = "autofs";
/// Automounters in what others mounted: more than this deep nobody goes, nor has so many.
const PLACES_MAX: usize = 1024;
/// Nothing is written there but the places of what is put back.
const OPTIONS: &str = "mode=0755,size=256k";

/// Puts an empty folder in the place of every automounter that can be reached.
pub(super) fn cover() -> Result<(), JailError> {
    for _ in 0..PLACES_MAX {
        let all = table()?;
        let Some(place) = all.iter().find(|mounted| is_automounter(mounted)) else { return Ok(()) };
        replace(&place.path, &all)?;
    }
    Err(JailError::TooMany { what: "automounters", most: PLACES_MAX })
}

/// Whether its path still leads to it: what is mounted over it, ours or its own, has taken its place.
fn is_automounter(mounted: &Mounted) -> bool {
    mounted.kind == KIND
        && !mounted.path.starts_with("/proc")
        && handle(&mounted.path)
            .is_ok_and(|handle| fstat(&handle).is_ok_and(|facts| facts.st_dev == mounted.device))
}

/// Opened as a place only, which wakes no automounter.
fn handle(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

fn replace(place: &Path, all: &[Mounted]) -> Result<(), JailError> {
    let mut below: Vec<(PathBuf, OwnedFd)> = Vec::new();
    for mounted in all.iter().filter(|mounted| mounted.kind != KIND && mounted.path != place) {
        let path = &mounted.path;
        // What is mounted further in comes along.
        if path.starts_with(place) && !below.iter().any(|(above, _)| path.starts_with(above)) {
            match handle(path) {
                Ok(handle) => below.push((path.clone(), handle)),
                // Not for this account, or covered itself.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => {}
                Err(problem) => return Err(JailError::mount("keep", path, problem)),
            }
        }
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some(OPTIONS))
        .map_err(|problem| JailError::mount("cover", place, problem))?;
    below.iter().try_for_each(|(path, handle)| restore(path, handle, place))
}
