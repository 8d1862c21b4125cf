//! Evidence about a process: what `/proc` says about the pid in a kernel stamp.
//!
//! The directory of the process is opened once and everything is read through it, so that a pid which is used
//! again half way yields errors and not another process's facts. A process younger than the connection is refused.
//! Pieces that cannot be read stay empty; nothing is invented. Blocks: a hostile process can stall the pages of
//! its arguments and the file system of its executable, so callers put a time limit around [`gather`].
//! Known limits: evidence is as of now, not as of `connect()`; a pid used again within one clock tick (10 ms) is
//! not noticed; executables on FUSE are not hashed, since what was read need not be what runs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};
use parking_lot::Mutex;

use crate::model::{Ancestor, Evidence};

use super::cgroup::{path_in, unit_of};
use super::error::IdentityError;
use super::resolve::ProcessOrigin;
use super::token::hex;

/// Digests of executables by the state of their file.
#[derive(Debug, Default)]
pub(super) struct Digests(Mutex<HashMap<FileState, String>>);

/// Two reads with the same state saw the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileState {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// One process, held open.
struct Process {
    dir: File,
}

/// Start time, parent and whether it is over, from `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    start_ticks: u64,
    is_dead: bool,
}

/// Everything that can be known about the process behind `origin`, whose cgroup is at `cgroup`.
pub(super) fn gather(
    origin: &ProcessOrigin,
    cgroup: &Path,
    digests: &Digests,
) -> Result<Evidence, IdentityError> {
    let mut evidence = Evidence {
        pid: origin.pid,
        uid: origin.uid,
        unit: unit_of(cgroup),
        cgroup: cgroup.to_str().unwrap_or_default().to_owned(),
        cgroup_id: origin.cgroup_id,
        account: origin.account,
        netns: origin.netns,
        ..Evidence::default()
    };
    // A process that is gone may have left its socket to a child; the cgroup still tells whose it is.
    let Some(process) = Process::open(origin.pid) else { return Ok(evidence) };
    let Some(stat) = process.stat() else { return Ok(evidence) };
    if stat.start_ticks > ticks(origin.connected_ns) {
        return Err(IdentityError::Reused { pid: origin.pid });
    }
    evidence.start_ticks = stat.start_ticks;
    evidence.exe = process.exe_path();
    evidence.exe_sha256 = process.exe_digest(digests).unwrap_or_default();
    evidence.argv_sha256 = process.arguments_digest().unwrap_or_default();
    evidence.login_uid = process.login_uid();
    evidence.parents = ancestors(stat.parent);
    Ok(evidence)
}

/// Where the process says it is; a hint.
pub(super) fn cgroup_hint(pid: u32) -> Option<PathBuf> {
    path_in(&Process::open(pid)?.text("cgroup")?)
}

/// When a process started, in clock ticks since the machine did; `None` if it is gone, or a zombie that does nothing more.
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    Process::open(pid)?.stat().filter(|stat| !stat.is_dead).map(|stat| stat.start_ticks)
}

impl Process {
    fn open(pid: u32) -> Option<Self> {
        if pid == 0 {
            return None;
        }
        Some(Self { dir: File::open(format!("/proc/{pid}")).ok()? })
    }

    /// Resolves through the open directory: the process it was opened for, or an error once that is gone.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))
    }

    fn bytes(&self, name: &str, limit: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.path(name)).ok()?;
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).ok()?;
        (u64::try_from(bytes.len()).ok()? <= limit).then_some(bytes)
    }

    fn text(&self, name: &str) -> Option<String> {
        String::from_utf8(self.bytes(name, TEXT_BYTES_MAX)?).ok()
    }

    fn stat(&self) -> Option<Stat> {
        parse_stat(&self.bytes("stat", TEXT_BYTES_MAX)?)
    }

    fn exe_path(&self) -> String {
        let path = fs::read_link(self.path("exe")).ok();
        path.and_then(|path| path.into_os_string().into_string().ok()).unwrap_or_default()
    }

    fn exe_digest(&self, digests: &Digests) -> Option<String> {
        let file = File::open(self.path("exe")).ok()?;
        if fstatfs(&file).ok()?.filesystem_type() == FUSE_SUPER_MAGIC {
            return None;
        }
        digests.of(file)
    }

    fn arguments_digest(&self) -> Option<String> {
        let bytes = self.bytes("cmdline", ARGUMENT_BYTES_MAX)?;
        // Kernel threads and zombies have none.
        (!bytes.is_empty()).then(|| hex(digest::digest(&digest::SHA256, &bytes).as_ref()))
    }

    fn login_uid(&self) -> Option<u32> {
        self.text("loginuid")?.trim().parse().ok().filter(|uid| *uid != LOGIN_UID_UNSET)
    }
}

impl Digests {
    fn of(&self, mut file: File) -> Option<String> {
        let before = state_of(&file)?;
        if before.size > EXECUTABLE_BYTES_MAX {
            return None;
        }
        let known = self.0.lock().get(&before).cloned();
        if known.is_some() {
            return known;
        }
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut block = vec![0_u8; BLOCK_BYTES];
        let mut total = 0_u64;
        loop {
            let count = file.read(&mut block).ok()?;
            total = total.checked_add(u64::try_from(count).ok()?)?;
            if count == 0 {
                break;
            }
            if total > EXECUTABLE_BYTES_MAX {
                return None;
            }
            hash.update(block.get(..count)?);
        }
        // A file that changed while it was read has no one digest.
        if state_of(&file)? != before || total != before.size {
            return None;
        }
        let text = hex(hash.finish().as_ref());
        let mut known = self.0.lock();
        if known.len() >= DIGESTS_MAX {
            known.clear();
        }
        known.insert(before, text.clone());
        Some(text)
    }
}

fn state_of(file: &File) -> Option<FileState> {
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    Some(FileState {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

fn ancestors(first: u32) -> Vec<Ancestor> {
    let mut found = Vec::new();
    let mut next = first;
    while next != 0 && found.len() < PARENTS_MAX {
        let Some(process) = Process::open(next) else { break };
        let Some(stat) = process.stat() else { break };
        found.push(Ancestor { pid: next, exe: process.exe_path() });
        next = stat.parent;
    }
    found
}

/// The name in parentheses may itself hold spaces and parentheses: the fields start after the last one.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let end = bytes.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(bytes.get(end.checked_add(1)?..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    // Fields are numbered from 1; the first here is the third (state).
    let is_dead = matches!(fields.next()?, "Z" | "X" | "x");
    let parent = fields.next()?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Stat { parent, start_ticks, is_dead })
}

fn ticks(since_boot_ns: u64) -> u64 {
    since_boot_ns / TICK_NS
}

/// `/proc` counts in hundredths of a second on every architecture we build for (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;
/// "Not set" in `/proc/PID/loginuid`.
const LOGIN_UID_UNSET: u32 = u32::MAX;
/// Small files of `/proc` are under 4 KiB.
const TEXT_BYTES_MAX: u64 = 64 * 1024;
/// The kernel's own limit on arguments is 6 MiB with the default stack.
const ARGUMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The largest interpreters and bundled runtimes are under 200 MiB.
const EXECUTABLE_BYTES_MAX: u64 = 512 * 1024 * 1024;
const BLOCK_BYTES: usize = 256 * 1024;
/// Executables of agents on one host.
const DIGESTS_MAX: usize = 1024;
/// Deeper trees add noise, not evidence.
const PARENTS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::super::testing::Scratch;
    use super::*;

    fn origin(pid: u32, connected_ns: u64) -> ProcessOrigin {
        ProcessOrigin { cgroup_id: 7, account: 6, pid, uid: 1234, connected_ns, netns: None }
    }

    #[test]
    fn a_live_process_yields_its_executable_arguments_and_parents() {
        let mut child = Command::new("/bin/sleep").arg("30").stdin(Stdio::null()).spawn().unwrap();
        // Until exec the child is still this test binary, and for a moment of exec it has no arguments.
        let exe = fs::canonicalize("/bin/sleep").unwrap();
        let begun = || {
            fs::read_link(format!("/proc/{}/exe", child.id())).unwrap() == exe
                && !fs::read(format!("/proc/{}/cmdline", child.id())).unwrap().is_empty()
        };
        while !begun() {
            std::thread::yield_now();
        }
        let digests = Digests::default();
        let found = gather(&origin(child.id(), u64::MAX), Path::new("a.slice/b.service"), &digests);
        child.kill().unwrap();
        child.wait().unwrap();
        let found = found.unwrap();
        let hash = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
        assert_eq!(found.exe, exe.to_str().unwrap());
        assert_eq!(found.exe_sha256, hash(&fs::read(&exe).unwrap()));
        assert_eq!(found.argv_sha256, hash(b"/bin/sleep\x0030\x00"));
        assert_eq!((found.uid, found.cgroup_id, found.unit.as_deref()), (1234, 7, Some("b.service")));
        assert_eq!(found.parents.first().unwrap().pid, std::process::id());
        assert!(found.start_ticks > 0 && found.parents.len() <= PARENTS_MAX);
        assert_eq!(digests.0.lock().len(), 1);
    }

    #[test]
    fn a_process_younger_than_the_connection_is_refused() {
        assert!(matches!(
            gather(&origin(std::process::id(), 1), Path::new(""), &Digests::default()),
            Err(IdentityError::Reused { .. })
        ));
        let own = Process::open(std::process::id()).unwrap().stat().unwrap();
        let same_tick = own.start_ticks * TICK_NS;
        assert!(gather(&origin(std::process::id(), same_tick), Path::new(""), &Digests::default()).is_ok());
        assert!(
            gather(&origin(std::process::id(), same_tick - 1), Path::new(""), &Digests::default()).is_err()
        );
    }

    #[test]
    fn a_process_that_is_gone_leaves_its_pieces_empty() {
        let mut child = Command::new("/bin/true").spawn().unwrap();
        child.wait().unwrap();
        let found = gather(&origin(child.id(), u64::MAX), Path::new("x"), &Digests::default()).unwrap();
        assert_eq!((found.exe.as_str(), found.exe_sha256.as_str(), found.argv_sha256.as_str()), ("", "", ""));
        assert_eq!((found.start_ticks, found.parents.len(), found.cgroup.as_str()), (0, 0, "x"));
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let fields = "S 41 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 1";
        let line = format!("42 (a) 9 9 (b c)) {fields}");
        assert_eq!(parse_stat(line.as_bytes()), Some(Stat { parent: 41, start_ticks: 777, is_dead: false }));
        assert_eq!(parse_stat(b"42 (x"), None);
        assert_eq!(parse_stat(b"42 (x) S 1"), None);
    }

    #[test]
    fn a_digest_is_remembered_until_the_file_changes_and_too_large_files_have_none() {
        let dir = Scratch::new();
        let path = dir.path().join("exe");
        fs::write(&path, "one").unwrap();
        let digests = Digests::default();
        let first = digests.of(File::open(&path).unwrap()).unwrap();
        assert_eq!(digests.of(File::open(&path).unwrap()), Some(first.clone()));
        fs::write(&path, "other").unwrap();
        assert_ne!(digests.of(File::open(&path).unwrap()), Some(first));
        File::create(&path).unwrap().set_len(EXECUTABLE_BYTES_MAX + 1).unwrap();
        assert_eq!(digests.of(File::open(&path).unwrap()), None);
    }
}
