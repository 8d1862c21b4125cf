//! Reads a token file that others swap at will.
//!
//! Kubernetes and systemd replace tokens through a symlink beside them; such links are followed, links out of
//! the file's directory are not (the kernel checks it while opening, so there is no window). Anything but a
//! regular file of modest size is refused.
//! Known limit: a change that keeps inode, size, mtime and ctime is not noticed; no file system does that.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::error::TokenError;

/// A token file, remembering what it read last.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    seen: Option<Stamp>,
}

/// What a look at the file found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// As at the last look.
    Unchanged,
    /// New content.
    Read(String),
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// Looks again; blocks on the file system. After an error the next look reads afresh.
    pub(super) fn look(&mut self) -> Result<Look, TokenError> {
        let before = self.seen.take();
        let file = open(&self.path).map_err(|error| self.fail(&error))?;
        let metadata = file.metadata().map_err(|error| self.fail(&error))?;
        if !metadata.is_file() {
            return Err(TokenError::Unreadable("it is not a regular file".to_owned()));
        }
        if metadata.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Unreadable(format!("it is larger than {TOKEN_BYTES_MAX} bytes")));
        }
        let now = Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        if before == Some(now) {
            self.seen = before;
            return Ok(Look::Unchanged);
        }
        let mut bytes = Vec::new();
        file.take(TOKEN_BYTES_MAX.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| self.fail(&error))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > TOKEN_BYTES_MAX {
            return Err(TokenError::Unreadable("it grew while it was read".to_owned()));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| TokenError::Unreadable(format!("it is not text: {}", error.utf8_error())))?;
        self.seen = Some(now);
        Ok(Look::Read(text.trim().to_owned()))
    }

    fn fail(&self, error: &io::Error) -> TokenError {
        TokenError::Unreadable(format!("`{}`: {error}", self.path.display()))
    }
}

fn open(path: &Path) -> io::Result<File> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let dir = File::open(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })?;
    // Non-blocking, so that a fifo in its place cannot stall the watcher.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut opened = openat2(&dir, name, how);
    for _ in 1..OPEN_TRIES {
        // The kernel answers EAGAIN when a rename elsewhere raced with its check.
        if !matches!(opened, Err(Errno::EAGAIN)) {
            break;
        }
        opened = openat2(&dir, name, how);
    }
    Ok(File::from(opened?))
}

/// 64 KiB: real tokens are under four.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;
/// Renames that race this often in a row mean a broken machine; the next look tries again.
const OPEN_TRIES: usize = 8;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::testing::Scratch;
    use super::*;

    #[test]
    fn an_atomic_swap_is_seen_and_an_unchanged_file_is_not_read_again() {
        let dir = Scratch::new();
        fs::write(dir.path().join("t"), "one\n").unwrap();
        let mut file = TokenFile::new(dir.path().join("t"));
        assert_eq!(file.look(), Ok(Look::Read("one".into())));
        assert_eq!(file.look(), Ok(Look::Unchanged));
        fs::write(dir.path().join("n"), "two\n").unwrap();
        fs::rename(dir.path().join("n"), dir.path().join("t")).unwrap();
        assert_eq!(file.look(), Ok(Look::Read("two".into())));
    }

    #[test]
    fn projected_volumes_with_links_beside_the_file_work() {
        let dir = Scratch::new();
        for version in ["..1", "..2"] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("t"), version).unwrap();
        }
        symlink("..1", dir.path().join("..data")).unwrap();
        symlink("..data/t", dir.path().join("t")).unwrap();
        let mut file = TokenFile::new(dir.path().join("t"));
        assert_eq!(file.look(), Ok(Look::Read("..1".into())));
        symlink("..2", dir.path().join("..new")).unwrap();
        fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
        assert_eq!(file.look(), Ok(Look::Read("..2".into())));
    }

    #[test]
    fn links_out_of_the_directory_are_refused() {
        let (dir, other) = (Scratch::new(), Scratch::new());
        fs::write(other.path().join("t"), "stolen").unwrap();
        symlink(other.path().join("t"), dir.path().join("absolute")).unwrap();
        let name = other.path().file_name().unwrap().to_str().unwrap();
        symlink(format!("../{name}/t"), dir.path().join("relative")).unwrap();
        for link in ["absolute", "relative"] {
            assert!(
                matches!(TokenFile::new(dir.path().join(link)).look(), Err(TokenError::Unreadable(_))),
                "{link}"
            );
        }
    }

    #[test]
    fn oversize_missing_and_special_files_are_refused() {
        let dir = Scratch::new();
        fs::write(dir.path().join("big"), vec![b'a'; 64 * 1024 + 1]).unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["big", "dir", "fifo", "missing"] {
            assert!(
                matches!(TokenFile::new(dir.path().join(name)).look(), Err(TokenError::Unreadable(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn a_file_that_came_back_is_read_even_if_it_looks_the_same() {
        let dir = Scratch::new();
        let (path, away) = (dir.path().join("t"), dir.path().join("away"));
        fs::write(&path, "one").unwrap();
        let mut file = TokenFile::new(path.clone());
        assert_eq!(file.look(), Ok(Look::Read("one".into())));
        fs::rename(&path, &away).unwrap();
        assert!(file.look().is_err());
        fs::rename(&away, &path).unwrap();
        assert_eq!(file.look(), Ok(Look::Read("one".into())));
    }
}
