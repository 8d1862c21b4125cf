//! The seam to the disk, narrow enough that tests can fail every single write and sync.
//!
//! The real implementation writes at offsets that the writer tracks, never at "the end", so that bytes which a failed
//! write left behind can be overwritten or cut and can never come to stand between two records.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

/// Opens files of a log.
pub(super) trait Storage: Send + Sync + Debug {
    /// Opens a file for reading and writing (0600), made when missing; never through a symbolic link.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Medium>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// One open file.
pub(super) trait Medium: Send + Sync + Debug {
    /// One write; may be short.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Fills `bytes` from `offset`.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Cuts the file.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Waits until everything written is on disk.
    fn sync(&self) -> io::Result<()>;
}

/// The file system.
#[derive(Debug)]
pub(super) struct Disk;

impl Storage for Disk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Medium>> {
        let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits();
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        Ok(Arc::new(DiskFile(open.open(path)?)))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

#[derive(Debug)]
struct DiskFile(File);

impl Medium for DiskFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.0.metadata().map(|data| data.len())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Cuts what stands behind `length`. Never lengthens: a file that is too short must stay so to be noticed.
pub(super) fn cut_behind(medium: &dyn Medium, length: u64) -> io::Result<()> {
    if medium.length()? > length { medium.truncate(length) } else { Ok(()) }
}

/// Writes all of `bytes` at `offset` with as few writes as the system allows, one as a rule. A write that takes only
/// part is an error: on a regular file it means that the disk is full.
pub(super) fn write_whole(medium: &dyn Medium, bytes: &[u8], offset: u64) -> io::Result<()> {
    loop {
        match medium.write_at(bytes, offset) {
            Ok(count) if count == bytes.len() => return Ok(()),
            Ok(count) => {
                let text = format!("only {count} of {} bytes were taken", bytes.len());
                return Err(io::Error::new(io::ErrorKind::WriteZero, text));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
