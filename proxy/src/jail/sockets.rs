//! The host's unix sockets, as the kernel lists them, and how their paths are covered.
//!
//! A path is opened without following a last symbolic link, looked at, and covered through that very descriptor, so that
//! nobody can swap what is covered. Whatever is bound is covered, listening or not: datagram servers never listen.
//! Limits: only the list of this network namespace; sockets bound under a relative path or renamed since are not found; paths that
//! this process cannot reach are passed over, since its agent cannot either.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::error::JailError;
use super::mounts;

/// Hosts have some hundreds; each costs a mount in every jail, and the kernel stops at 100 000 mounts.
const SOCKETS_MAX: usize = 8192;
/// Names that are looked at, in some seconds; as many sockets take ten gigabytes of the kernel's memory.
const NAMES_MAX: usize = 10_000_000;
/// Folders that are hidden for being crowded before a start is given up.
const CROWDED_MAX: usize = 64;
/// A line of the list holds at most 108 bytes of path and some numbers.
const LIST: &str = "/proc/self/net/unix";

/// Covers every bound socket that can be reached from here and is not below one of `kept`, whose links are resolved.
///
/// Where there are more than can be covered one by one, folders that accounts other than root have filled are hidden whole, so
/// that no agent keeps others from starting.
pub(super) fn cover_all(kept: &[PathBuf]) -> Result<(), JailError> {
    let list = fs::read(LIST).map_err(|source| JailError::mount("read", LIST, source))?;
    let names: BTreeSet<PathBuf> = paths(&list).collect();
    if names.len() > NAMES_MAX {
        return Err(JailError::TooMany { what: "names of unix sockets", most: NAMES_MAX });
    }
    let mut found = reachable(&names, kept)?;
    for _ in 0..CROWDED_MAX {
        if found.len() <= SOCKETS_MAX {
            break;
        }
        let Some(crowded) = crowded(&found, kept) else { break };
        eprintln!("chaperone: `{}` has too many sockets and is hidden", crowded.display());
        mounts::hide(&crowded)?;
        // Asked again: a folder that was swapped meanwhile hides nothing.
        found = reachable(&found, kept)?;
    }
    if found.len() > SOCKETS_MAX {
        return Err(JailError::TooMany { what: "unix sockets on this host", most: SOCKETS_MAX });
    }
    found.iter().try_for_each(|path| cover(path, kept))
}

/// Where the sockets among these names are.
fn reachable(names: &BTreeSet<PathBuf>, kept: &[PathBuf]) -> Result<BTreeSet<PathBuf>, JailError> {
    let real = |name: &PathBuf| Ok(find(name, kept)?.map(|(_, real)| real));
    names.iter().filter_map(|name| real(name).transpose()).collect()
}

/// The deepest folder that holds at least half of what the fullest one holds, of those that not root alone can fill.
fn crowded(found: &BTreeSet<PathBuf>, kept: &[PathBuf]) -> Option<PathBuf> {
    let mut held: BTreeMap<&Path, usize> = BTreeMap::new();
    for folder in found.iter().flat_map(|path| path.ancestors().skip(1)) {
        *held.entry(folder).or_default() += 1;
    }
    held.retain(|folder, _| !kept.iter().any(|kept| kept.starts_with(folder)) && is_open(folder));
    let most = held.values().max()? / 2;
    let full = held.into_iter().filter(|(_, count)| *count > most).map(|(folder, _)| folder);
    full.max_by_key(|folder| folder.components().count()).map(Path::to_owned)
}

/// Whether an account other than root can make files in it. In a user namespace root's folders look like others'.
fn is_open(folder: &Path) -> bool {
    folder.parent().is_some()
        && fs::metadata(folder).is_ok_and(|facts| facts.uid() != 0 || facts.mode() & 0o022 != 0)
}

/// Where an open descriptor leads, by the kernel's word.
pub(super) fn place(handle: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

/// Absolute paths in the list; `Num RefCount Protocol Flags Type St Inode Path`. A name may hold line ends and so look like more
/// lines: those make it cover more, never less.
fn paths(list: &[u8]) -> impl Iterator<Item = PathBuf> {
    let path = |line| {
        let mut rest: &[u8] = line;
        for _ in 0..7 {
            rest = word(rest)?.1;
        }
        rest.strip_prefix(b" ").filter(|path| path.starts_with(b"/"))
    };
    list.split(|byte| *byte == b'\n').filter_map(path).map(|path| OsStr::from_bytes(path).into())
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_start();
    let end = text.iter().position(|byte| *byte == b' ').unwrap_or(text.len());
    text.split_at_checked(end).filter(|(word, _)| !word.is_empty())
}

/// The socket that a path leads to, held, and where it really is; `None` when there is none, or it is kept.
fn find(path: &Path, kept: &[PathBuf]) -> Result<Option<(OwnedFd, PathBuf)>, JailError> {
    let failed = |source: io::Error| JailError::mount("look at the socket", path, source);
    let handle = match open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(handle) => handle,
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP | Errno::ENAMETOOLONG) => {
            return Ok(None);
        }
        Err(problem) => return Err(failed(problem.into())),
    };
    let mode = fstat(&handle).map_err(|problem| failed(problem.into()))?.st_mode;
    if SFlag::from_bits_truncate(mode & libc::S_IFMT) != SFlag::S_IFSOCK {
        return Ok(None);
    }
    let real = fs::read_link(place(&handle)).map_err(failed)?;
    let stays = kept.iter().any(|kept| real.starts_with(kept));
    Ok((!stays).then_some((handle, real)))
}

fn cover(path: &Path, kept: &[PathBuf]) -> Result<(), JailError> {
    let Some((handle, _)) = find(path, kept)? else { return Ok(()) };
    mount(Some("/dev/null"), &place(&handle), None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|problem| JailError::mount("cover the socket", path, io::Error::from(problem)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
        0000000007590041: 00000003 00000000 00000000 0001 03   498\n\
        0000000007590042: 00000002 00000000 00010000 0001 01 24871 /run/docker.sock\n\
        0000000007590043: 00000002 00000000 00010000 0001 01 24872 @/tmp/.X11-unix/X0\n\
        0000000007590044: 00000002 00000000 00000000 0002 01 24873 /a path/with \xff spaces\n\
        nonsense\n";

    #[test]
    fn the_kernels_list_gives_absolute_paths() {
        let found: Vec<PathBuf> = paths(LIST).collect();
        let odd = OsStr::from_bytes(b"/a path/with \xff spaces").into();
        assert_eq!(found, [PathBuf::from("/run/docker.sock"), odd]);
    }
}
