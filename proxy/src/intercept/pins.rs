//! The pin directory on bpffs: tables shared by all generations of one layout, links per generation.
//!
//! `<pin_dir>/v<abi>-maps/` holds the tables. `<pin_dir>/v<abi>-<object>-<cgroup>/` holds the links of one object
//! attached to one parent cgroup. A generation is built under another name and renamed once it is whole.
//! INVARIANT: a directory with a generation's name was whole when it got it; others are leftovers.
//! Refuses: a pin directory that is not on bpffs, unless a bpffs can be mounted at `/sys/fs/bpf` for it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256, digest};
use nix::sys::statfs::{FsType, statfs};
use proxy_common::ABI;

use super::cgroup::sole;
use super::error::InterceptError;
use super::sys;

const BPFFS: FsType = FsType(0xcafe_4a11);
const BPFFS_MOUNT: &str = "/sys/fs/bpf";
const STAGING: &str = "new";
const STALE: &str = "stale";
/// Pins tell what the guard is made of and can be unlinked: root alone.
const MODE: u32 = 0o700;

/// The pin directory.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the directory, on bpffs.
    pub(super) fn prepare(&self) -> Result<(), InterceptError> {
        if !self.on_bpffs() {
            self.mount()?;
        }
        for directory in [&self.root, &self.maps()] {
            self::directory(directory)?;
        }
        Ok(())
    }

    /// Takes the directory for one daemon, as long as the file lives. Root alone can open it.
    pub(super) fn claim(&self) -> Result<File, InterceptError> {
        File::open(&self.root).and_then(sole).map_err(|source| pin("take", &self.root, source))
    }

    fn on_bpffs(&self) -> bool {
        self.root
            .ancestors()
            .find(|ancestor| ancestor.exists())
            .and_then(|existing| statfs(existing).ok())
            .is_some_and(|facts| facts.filesystem_type() == BPFFS)
    }

    fn mount(&self) -> Result<(), InterceptError> {
        let refused = |source| InterceptError::Bpffs { path: self.root.clone(), source };
        if !self.root.starts_with(BPFFS_MOUNT) {
            let fix =
                format!("choose a `pin_dir` below `{BPFFS_MOUNT}`, or mount one here with `mount -t bpf`");
            return Err(refused(io::Error::new(io::ErrorKind::Unsupported, fix)));
        }
        sys::mount_bpffs(Path::new(BPFFS_MOUNT)).map_err(refused)?;
        tracing::info!(target = BPFFS_MOUNT, "mounted a bpf file system, because there was none");
        Ok(())
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the tables are pinned.
    pub(super) fn maps(&self) -> PathBuf {
        self.root.join(format!("v{ABI}-maps"))
    }

    /// Where the links of one build's objects on the cgroup with this id are pinned.
    pub(super) fn generation(&self, objects: &[&[u8]], cgroup_id: u64) -> PathBuf {
        let mut context = Context::new(&SHA256);
        for object in objects {
            // Each by itself, so that no byte moves from one to the other unseen.
            context.update(digest(&SHA256, object).as_ref());
        }
        let digest = context.finish();
        let short: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        self.root.join(format!("v{ABI}-{short}-{cgroup_id:x}"))
    }

    /// An empty directory to build a generation in.
    pub(super) fn stage(&self) -> Result<PathBuf, InterceptError> {
        let staging = self.root.join(STAGING);
        // A crash may have left one half built; its links stay until the new ones are in place.
        if staging.exists() {
            self.set_aside(&staging)?;
        }
        DirBuilder::new().mode(MODE).create(&staging).map_err(|source| pin("create", &staging, source))?;
        Ok(staging)
    }

    /// Gives a whole generation its name.
    pub(super) fn commit(&self, staging: &Path, generation: &Path) -> Result<(), InterceptError> {
        if generation.exists() {
            self.set_aside(generation)?;
        }
        fs::rename(staging, generation).map_err(|source| pin("rename", staging, source))
    }

    /// Removes every generation but `keep`, whatever state it is in.
    pub(super) fn retire_others(&self, keep: &Path) -> Result<(), InterceptError> {
        let maps = self.maps();
        for entry in entries(&self.root)? {
            if entry != keep && entry != maps {
                remove(&entry)?;
            }
        }
        Ok(())
    }

    /// Removes everything.
    pub(super) fn clear(&self) -> Result<(), InterceptError> {
        if self.root.exists() { remove(&self.root) } else { Ok(()) }
    }

    /// Generations of this layout, whole ones only.
    pub(super) fn generations(&self) -> Result<Vec<PathBuf>, InterceptError> {
        let (prefix, maps) = (format!("v{ABI}-"), self.maps());
        let mut found = entries(&self.root)?;
        found.retain(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) && *path != maps
        });
        Ok(found)
    }

    /// Everything in the directory, of whatever layout.
    pub(super) fn everything(&self) -> Result<Vec<PathBuf>, InterceptError> {
        entries(&self.root)
    }

    fn set_aside(&self, directory: &Path) -> Result<(), InterceptError> {
        let free = (0_u16..=u16::MAX)
            .map(|number| self.root.join(format!("{STALE}-{number}")))
            .find(|candidate| !candidate.exists())
            .ok_or_else(|| pin("set aside", directory, io::Error::from(io::ErrorKind::AlreadyExists)))?;
        fs::rename(directory, free).map_err(|source| pin("set aside", directory, source))
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, InterceptError> {
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(pin("list", directory, source)),
    };
    listed
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()
        .map_err(|source| pin("list", directory, source))
}

/// Makes a directory for pins, if there is none.
pub(super) fn directory(path: &Path) -> Result<(), InterceptError> {
    DirBuilder::new().mode(MODE).recursive(true).create(path).map_err(|source| pin("create", path, source))
}

/// Removes a pin, or a directory of pins.
pub(super) fn remove(path: &Path) -> Result<(), InterceptError> {
    let facts = fs::symlink_metadata(path).map_err(|source| pin("inspect", path, source))?;
    let removed = if facts.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|source| pin("remove", path, source))
}

pub(super) fn pin(action: &'static str, path: &Path, source: io::Error) -> InterceptError {
    InterceptError::Pin { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_named_by_layout_object_and_cgroup() {
        let pins = Pins::new(Path::new("/p"));
        let one = pins.generation(&[b"object", b"other"], 0x2a);
        assert_eq!(one, pins.generation(&[b"object", b"other"], 0x2a));
        assert_ne!(one, pins.generation(&[b"objecu", b"other"], 0x2a));
        assert_ne!(one, pins.generation(&[b"objecto", b"ther"], 0x2a));
        assert_ne!(one, pins.generation(&[b"object", b"other"], 0x2b));
        assert!(one.to_string_lossy().starts_with(&format!("/p/v{ABI}-")));
        assert!(one.to_string_lossy().ends_with("-2a"));
    }

    #[test]
    fn a_pin_directory_outside_bpffs_is_refused() {
        let pins = Pins::new(Path::new("/proc/nowhere"));
        assert!(matches!(pins.prepare(), Err(InterceptError::Bpffs { .. })));
    }

    #[test]
    fn a_missing_pin_directory_has_no_generations_and_clears() {
        let pins = Pins::new(Path::new("/nonexistent/pins"));
        assert_eq!(pins.generations().unwrap(), Vec::<PathBuf>::new());
        pins.clear().unwrap();
    }
}
