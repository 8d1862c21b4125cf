//! The host's unix sockets, as the kernel lists them, and how their paths are covered.
//!
//! A path is opened without following a last symbolic link, looked at, and covered through that very descriptor, so that
//! nobody can swap what is covered. Whatever is bound is covered, listening or not: datagram servers never listen.
//! Limits: only the list of this network namespace; sockets bound under a relative path or renamed since are not found; paths that
//! this process cannot reach are passed over, since its agent cannot either.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::error::JailError;

/// Hosts have some hundreds; each costs a mount in every jail, and the kernel stops at 100 000 mounts.
const SOCKETS_MAX: usize = 8192;
/// A line of the list holds at most 108 bytes of path and some numbers.
const LIST: &str = "/proc/self/net/unix";

/// Covers every bound socket that can be reached from here and is not below one of `kept`, whose links are resolved.
pub(super) fn cover_all(kept: &[PathBuf]) -> Result<(), JailError> {
    let list = fs::read(LIST).map_err(|source| JailError::mount("read", LIST, source))?;
    let paths: BTreeSet<PathBuf> = paths(&list).collect();
    if paths.len() > SOCKETS_MAX {
        return Err(JailError::TooMany { what: "unix sockets on this host", most: SOCKETS_MAX });
    }
    paths.iter().try_for_each(|path| cover(path, kept))
}

/// Inodes of every unix socket in a list of the kernel's.
pub(super) fn inodes(list: &[u8]) -> BTreeSet<u64> {
    lines(list).map(|(inode, _)| inode).collect()
}

/// Where an open descriptor leads, by the kernel's word.
pub(super) fn place(handle: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

fn paths(list: &[u8]) -> impl Iterator<Item = PathBuf> {
    lines(list)
        .map(|(_, path)| path)
        .filter(|path| path.starts_with(b"/"))
        .map(|path| OsStr::from_bytes(path).into())
}

/// Inode and path of every line; `Num RefCount Protocol Flags Type St Inode Path`.
fn lines(list: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    list.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut rest = line;
        for _ in 0..6 {
            rest = word(rest)?.1;
        }
        let (inode, path) = word(rest)?;
        let inode = std::str::from_utf8(inode).ok()?.parse().ok()?;
        Some((inode, path.strip_prefix(b" ").unwrap_or(path)))
    })
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_start();
    let end = text.iter().position(|byte| *byte == b' ').unwrap_or(text.len());
    text.split_at_checked(end).filter(|(word, _)| !word.is_empty())
}

fn cover(path: &Path, kept: &[PathBuf]) -> Result<(), JailError> {
    let failed = |source: io::Error| JailError::mount("cover the socket", path, source);
    let handle = match open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(handle) => handle,
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP | Errno::ENAMETOOLONG) => {
            return Ok(());
        }
        Err(problem) => return Err(failed(problem.into())),
    };
    let mode = fstat(&handle).map_err(|problem| failed(problem.into()))?.st_mode;
    if SFlag::from_bits_truncate(mode & libc::S_IFMT) != SFlag::S_IFSOCK {
        return Ok(());
    }
    let real = fs::read_link(place(&handle)).map_err(failed)?;
    if kept.iter().any(|kept| real.starts_with(kept)) {
        return Ok(());
    }
    mount(Some("/dev/null"), &place(&handle), None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|problem| failed(problem.into()))
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
    fn the_kernels_list_gives_inodes_and_absolute_paths() {
        assert_eq!(inodes(LIST), [498, 24_871, 24_872, 24_873].into());
        let found: Vec<PathBuf> = paths(LIST).collect();
        let odd = OsStr::from_bytes(b"/a path/with \xff spaces").into();
        assert_eq!(found, [PathBuf::from("/run/docker.sock"), odd]);
    }
}
