//! The cgroup2 tree: where agents and the daemon live, and how a process gets there.
//!
//! INVARIANT: names that become directory names are one plain component each; nothing here follows `..`.
//! A cgroup's id is the inode number of its directory, the same number the kernel programs see.
//! Known limit: the tree is found in this process's own mount and cgroup namespaces.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use super::error::InterceptError;

/// Longest accepted name of an agent or of one of its runs: file systems stop at 255.
const NAME_BYTES_MAX: usize = 64;
/// How deep below the parent an agent's own cgroups are looked for.
const LEVELS_SEARCHED: usize = 8;
/// Mode bits that let the group or everybody write.
const OTHERS_MAY_WRITE: u32 = 0o022;

/// The mounted cgroup2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    mount: PathBuf,
}

/// One cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
}

impl Tree {
    /// Finds the mount; hybrid hosts have it elsewhere than at `/sys/fs/cgroup`.
    ///
    /// # Errors
    /// When the host has none.
    pub fn find() -> Result<Self, InterceptError> {
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(|source| InterceptError::Cgroup {
            action: "find the mount of",
            path: PathBuf::from("/proc/self/mountinfo"),
            source,
        })?;
        mount_in(&table).map(|mount| Self { mount }).ok_or(InterceptError::NoCgroup2)
    }

    /// The root of the tree.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn root(&self) -> Result<Cgroup, InterceptError> {
        Cgroup::at(self.mount.clone())
    }

    /// How deep a cgroup lies below the root, which has depth 0.
    #[must_use]
    pub fn level(&self, cgroup: &Cgroup) -> u32 {
        let below = cgroup.path.strip_prefix(&self.mount).map_or(0, |path| path.components().count());
        u32::try_from(below).unwrap_or(u32::MAX)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The cgroup at `below` the mount; it must exist.
    ///
    /// # Errors
    /// When the path leaves the tree or there is no such cgroup.
    pub fn open(&self, below: &Path) -> Result<Cgroup, InterceptError> {
        Cgroup::at(self.place(below)?)
    }

    /// The cgroup at `below` the mount, made if need be.
    ///
    /// # Errors
    /// When the path leaves the tree or the cgroup cannot be made.
    pub fn create(&self, below: &Path) -> Result<Cgroup, InterceptError> {
        let path = self.place(below)?;
        fs::create_dir_all(&path).map_err(|source| InterceptError::Cgroup {
            action: "create",
            path: path.clone(),
            source,
        })?;
        Cgroup::at(path)
    }

    /// Path below the mount of the cgroup this process is in.
    ///
    /// # Errors
    /// When this process is in no cgroup2 cgroup.
    pub fn own(&self) -> Result<PathBuf, InterceptError> {
        Self::of(std::process::id())
    }

    /// Path below the mount of the cgroup that a process is in.
    ///
    /// # Errors
    /// When it is in no cgroup2 cgroup, or gone.
    pub fn of(pid: u32) -> Result<PathBuf, InterceptError> {
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = fs::read_to_string(&path).map_err(|source| InterceptError::Cgroup {
            action: "read",
            path,
            source,
        })?;
        own_in(&text).ok_or(InterceptError::NoCgroup2)
    }

    fn place(&self, below: &Path) -> Result<PathBuf, InterceptError> {
        let plain = below.components().all(|part| matches!(part, Component::Normal(_) | Component::RootDir));
        if !plain {
            return Err(InterceptError::CgroupName { name: below.display().to_string() });
        }
        Ok(self.mount.join(below.strip_prefix("/").unwrap_or(below)))
    }
}

impl Cgroup {
    fn at(path: PathBuf) -> Result<Self, InterceptError> {
        let id = fs::metadata(&path)
            .map_err(|source| InterceptError::Cgroup { action: "open", path: path.clone(), source })?
            .ino();
        Ok(Self { path, id })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it still exists; one that was made anew under the same name is another.
    pub(super) fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|facts| facts.ino() == self.id)
    }

    /// Refuses a cgroup that others than root may rearrange: its agents could be moved out.
    pub(super) fn require_roots_own(&self) -> Result<(), InterceptError> {
        for path in [self.path.clone(), self.path.join("cgroup.procs")] {
            let refused = |source| InterceptError::Cgroup { action: "trust", path: path.clone(), source };
            let facts = fs::metadata(&path).map_err(refused)?;
            if facts.uid() != 0 || facts.mode() & OTHERS_MAY_WRITE != 0 {
                return Err(refused(io::Error::other("others than root may write to it")));
            }
        }
        Ok(())
    }

    /// Takes this cgroup for one daemon, as long as the file lives. The lock is on a file that only root can open: an agent
    /// that could take it would keep the daemon from starting.
    pub(super) fn claim(&self) -> Result<File, InterceptError> {
        let file = self.path.join("cgroup.kill");
        // Opened and never written: writing would end every agent.
        let opened = OpenOptions::new().write(true).open(&file);
        opened.and_then(sole).map_err(|source| InterceptError::Cgroup {
            action: "take",
            path: self.path.clone(),
            source,
        })
    }

    /// A child for one run of an agent: `<agent>/<run>`.
    ///
    /// # Errors
    /// When a name is not one plain component or the cgroup cannot be made.
    pub fn child(&self, agent: &str, run: &str) -> Result<Self, InterceptError> {
        for name in [agent, run] {
            if !is_name(name) {
                return Err(InterceptError::CgroupName { name: name.to_owned() });
            }
        }
        let path = self.path.join(agent).join(run);
        fs::create_dir_all(&path).map_err(|source| InterceptError::Cgroup {
            action: "create",
            path: path.clone(),
            source,
        })?;
        Self::at(path)
    }

    /// Moves a process, with all its threads, into this cgroup.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn admit(&self, pid: u32) -> Result<(), InterceptError> {
        OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.procs"))
            .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
            .map_err(|source| InterceptError::Cgroup {
                action: "move a process into",
                path: self.path.clone(),
                source,
            })
    }

    /// The cgroup with this id at or below `parent`, at most a few levels down.
    #[must_use]
    pub fn below(parent: &Self, id: u64) -> Option<Self> {
        fn find(path: &Path, id: u64, levels: usize) -> Option<PathBuf> {
            let inside =
                fs::read_dir(path).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
            let folders: Vec<PathBuf> = inside.collect();
            let here =
                folders.iter().find(|path| fs::metadata(path).is_ok_and(|facts| facts.ino() == id)).cloned();
            let levels = levels.checked_sub(1)?;
            here.or_else(|| folders.iter().find_map(|path| find(path, id, levels)))
        }
        find(&parent.path, id, LEVELS_SEARCHED).map(|path| Self { path, id })
    }

    /// Stops, or continues, every process in it and below.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn freeze(&self, stop: bool) -> Result<(), InterceptError> {
        let word = if stop { "1" } else { "0" };
        fs::write(self.path.join("cgroup.freeze"), word).map_err(|source| InterceptError::Cgroup {
            action: "freeze or thaw",
            path: self.path.clone(),
            source,
        })
    }

    /// Whether a process lives in it or below.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_populated(&self) -> Result<bool, InterceptError> {
        fs::read_to_string(self.path.join("cgroup.events"))
            .map(|text| text.lines().any(|line| line == "populated 1"))
            .map_err(|source| InterceptError::Cgroup { action: "read", path: self.path.clone(), source })
    }

    /// The processes in it and below, as far as they can be read.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        fn gather(path: &Path, levels: usize, found: &mut Vec<u32>) {
            let listed = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            found.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()));
            let Some(levels) = levels.checked_sub(1) else { return };
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    gather(&entry.path(), levels, found);
                }
            }
        }
        let mut found = Vec::new();
        gather(&self.path, LEVELS_SEARCHED, &mut found);
        found
    }

    /// Ids of the cgroups right below: the accounts that can still act.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn children(&self) -> Result<Vec<(String, u64)>, InterceptError> {
        let listed = fs::read_dir(&self.path).map_err(|source| InterceptError::Cgroup {
            action: "list",
            path: self.path.clone(),
            source,
        })?;
        let folders = listed.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let named = folders.filter_map(|entry| {
            Some((entry.file_name().to_string_lossy().into_owned(), entry.metadata().ok()?.ino()))
        });
        Ok(named.collect())
    }

    /// The cgroup of this name right below.
    #[must_use]
    pub fn at_child(&self, name: &str) -> Option<Self> {
        let is_below = !name.contains('/') && !matches!(name, "" | "." | "..");
        is_below.then(|| Self::at(self.path.join(name)).ok()).flatten()
    }

    /// Removes the empty cgroups below this one, but for those with the ids in `keep`, and leaves those in use; returns how
    /// many are gone. Sockets that outlive their cgroup stay guarded.
    #[must_use]
    pub fn sweep(&self, keep: &[u64]) -> usize {
        sweep_below(&self.path, keep)
    }

    /// Ids of the cgroups of runs, whether they are over or not.
    #[must_use]
    pub fn runs(&self) -> BTreeSet<u64> {
        let agents = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let runs = agents.flat_map(|agent| fs::read_dir(agent.path()).into_iter().flatten().flatten());
        runs.filter_map(|run| run.metadata().ok())
            .filter(fs::Metadata::is_dir)
            .map(|facts| facts.ino())
            .collect()
    }

    /// Removes the cgroups of runs that are over: launchers become the agent and cannot clean up behind it. A run made after
    /// `before` may still be waiting for its process, and stays. Returns how many are gone.
    #[must_use]
    pub fn sweep_runs(&self, before: SystemTime, keep: &[u64]) -> usize {
        let agents = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let runs = agents.flat_map(|agent| fs::read_dir(agent.path()).into_iter().flatten().flatten());
        runs.filter(|run| run.file_name().to_str().is_some_and(is_run))
            .filter(|run| run.metadata().and_then(|facts| facts.modified()).is_ok_and(|made| made < before))
            .filter(|run| {
                // What an agent made below goes first; a cgroup in use refuses to go.
                let _below = sweep_below(&run.path(), keep);
                !is_kept(&run.path(), keep) && fs::remove_dir(run.path()).is_ok()
            })
            .count()
    }

    /// Removes this cgroup if it is empty.
    ///
    /// # Errors
    /// When it is in use.
    pub fn remove(&self) -> Result<(), InterceptError> {
        match fs::remove_dir(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(InterceptError::Cgroup { action: "remove", path: self.path.clone(), source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn directory(&self) -> Result<File, InterceptError> {
        File::open(&self.path).map_err(|source| InterceptError::Cgroup {
            action: "open",
            path: self.path.clone(),
            source,
        })
    }
}

/// Locks a file for this process, or says that another has it.
pub(super) fn sole(file: File) -> io::Result<File> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(io::ErrorKind::WouldBlock, "another daemon has it"))
        }
        Err(TryLockError::Error(source)) => Err(source),
    }
}

/// The tree's depth is the kernel's own limit, so the recursion is bounded.
fn sweep_below(path: &Path, keep: &[u64]) -> usize {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let mut gone = 0_usize;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gone = gone.saturating_add(sweep_below(&entry.path(), keep));
            // A cgroup in use refuses to go; that is the wanted test.
            if !is_kept(&entry.path(), keep) && fs::remove_dir(entry.path()).is_ok() {
                gone = gone.saturating_add(1);
            }
        }
    }
    gone
}

/// Whether a cgroup must stay: one that is made anew under the same name has another id, and would not be quarantined.
fn is_kept(path: &Path, keep: &[u64]) -> bool {
    fs::metadata(path).map_or(true, |facts| keep.contains(&facts.ino()))
}

/// The name of a run, as launchers make it: sixteen hexadecimal digits.
fn is_run(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('.') && name.bytes().all(plain)
}

/// Mount point of the whole cgroup2 hierarchy in the text of `/proc/self/mountinfo`.
fn mount_in(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, mount) = (place.next()?, place.next()?);
        let whole = root == "/" && kind.split(' ').next()? == "cgroup2";
        // A blank in a path is written as `\040`.
        whole.then(|| PathBuf::from(mount.replace("\\040", " ")))
    })
}

fn own_in(text: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| line.strip_prefix("0::")).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_on_hybrid_and_on_unified_hosts() {
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_in(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let unified = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mount_in(unified), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(mount_in("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
    }

    #[test]
    fn a_mount_of_a_part_of_the_tree_is_not_taken_for_the_whole() {
        assert_eq!(mount_in("30 23 0:26 /some/part /mnt rw - cgroup2 cgroup2 rw\n"), None);
    }

    #[test]
    fn names_that_could_leave_the_tree_are_refused() {
        let tree = Tree { mount: PathBuf::from("/nowhere") };
        assert!(matches!(tree.place(Path::new("a/../..")), Err(InterceptError::CgroupName { .. })));
        let group = Cgroup { path: PathBuf::from("/nowhere"), id: 1 };
        for bad in ["", "..", ".hidden", "a/b", "a b", "x\0"] {
            assert!(matches!(group.child(bad, "1"), Err(InterceptError::CgroupName { .. })), "{bad}");
        }
        assert!(is_name("reporter-1.2_x"));
    }

    #[test]
    fn only_runs_that_are_old_and_empty_are_swept() {
        let root = std::env::temp_dir().join(format!("chaperone-sweep-{}", std::process::id()));
        let (old, used) = (root.join("reporter/00000000000000aa"), root.join("reporter/00000000000000bb"));
        let (unit, nested) = (root.join("reporter/some.service"), old.join("made/by/the/agent"));
        for path in [&used, &unit, &nested] {
            fs::create_dir_all(path).unwrap();
        }
        // A file stands for what keeps a cgroup from being removed.
        fs::write(used.join("busy"), "").unwrap();
        let group = Cgroup { path: root.clone(), id: 1 };
        assert_eq!(group.sweep_runs(SystemTime::UNIX_EPOCH, &[]), 0, "a fresh run was swept");
        let later = fs::metadata(&old).unwrap().modified().unwrap() + std::time::Duration::from_secs(1);
        let kept = fs::metadata(&old).unwrap().ino();
        assert_eq!(group.sweep_runs(later, &[kept]), 0, "a run that must stay was swept");
        assert_eq!(group.sweep_runs(later, &[]), 1);
        assert!(!old.exists() && used.exists() && unit.exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_own_cgroup_is_read_from_the_unified_line() {
        assert_eq!(own_in("9:name=systemd:/x\n0::/agents.slice/a\n"), Some(PathBuf::from("/agents.slice/a")));
        assert_eq!(own_in("9:name=systemd:/x\n"), None);
    }
}
