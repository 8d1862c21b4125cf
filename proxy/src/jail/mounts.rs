//! What an agent sees of the file system: a mount namespace of its own, which nothing later changes.
//!
//! `/run` is empty but for what is kept, `/tmp` and `/dev/shm` too unless the configuration shares it; the kernel's own file systems (cgroups,
//! `/sys`, `/proc/sys`) are read-only; BPF file systems, the daemon's files and the host's unix sockets are covered.
//! INVARIANT: at the end no writable mount of a kernel's file system is reachable by its path; this is read back.
//! Without root the same happens in a user namespace that maps one account to itself. Limits: mounts that the host makes later
//! do not appear, and those it takes away stay until the agent ends.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, makedev};
use nix::unistd::{Gid, Uid};

use super::error::JailError;
use super::{Launcher, Settings, Tmp, sockets};
use crate::intercept;

/// One line of the table of mounts.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    device: u64,
    path: PathBuf,
    writable: bool,
    kind: String,
}

/// Something that stays although what is above it is covered.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    handle: OwnedFd,
}

/// Mounts, and memory and queues that processes share by number.
const OWN: CloneFlags = CloneFlags::CLONE_NEWNS.union(CloneFlags::CLONE_NEWIPC);
/// File systems through which the kernel itself is configured.
const KERNELS: [&str; 11] = [
    "cgroup",
    "cgroup2",
    "sysfs",
    "debugfs",
    "tracefs",
    "securityfs",
    "configfs",
    "efivarfs",
    "pstore",
    "binfmt_misc",
    "resctrl",
];
/// Parts of a `/proc` that configure the kernel rather than tell about processes.
const PROC_PARTS: [&str; 7] = ["sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi"];
/// Looking below it asks a process outside for a name of the caller's choice, which may ask another host.
const AUTOMOUNT: &str = "autofs";
const RESOLVER: &str = "/etc/resolv.conf";
const RUN: [&str; 2] = ["/run", "/var/run"];
const TMP: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
/// Covered wherever they are mounted: pinned kernel objects, and message queues of other processes.
const COVERED: [&str; 2] = ["bpf", "mqueue"];
/// Pid files and sockets of the agent's own; its files belong elsewhere.
const RUN_OPTIONS: &str = "mode=0755,size=16m";
/// As large as the kernel lets it become: half of the memory, counted as the agent's.
const TMP_OPTIONS: &str = "mode=1777";
/// All that ordinary programs open below `/dev`, but for terminals.
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm"];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("pts/ptmx", "/dev/ptmx"),
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];
/// Where terminals are, and where the agent's own has its name: others' are the host's, its administrators' among them.
const TERMINALS: &str = "/dev/pts";
const OWN_TERMINAL: &str = "/dev/console";
const TERMINAL_OPTIONS: &str = "newinstance,ptmxmode=0666,mode=0620";
const DEV_OPTIONS: &str = "mode=0755,size=64k";
const HIDDEN_OPTIONS: &str = "mode=0,size=4k,nr_inodes=1";

/// Changes the mounts of this process as an agent must find them, and enters its working directory anew.
pub(super) fn seclude(settings: &Settings, launcher: &Launcher) -> Result<(), JailError> {
    let here = std::env::current_dir().map_err(|source| JailError::mount("find", ".", source))?;
    match launcher {
        Launcher::Root(_) => {
            unshare(OWN).map_err(|problem| JailError::privileges("make a mount namespace", problem))?
        }
        Launcher::Unprivileged => user_namespace()?,
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|problem| JailError::mount("make private", "/", problem))?;
    let kept = kept(settings)?;
    let names: Vec<PathBuf> = kept.iter().map(|kept| kept.path.clone()).collect();
    match launcher {
        Launcher::Root(None) => cover_devices(&kept)?,
        // An account of its own has no right to the devices that matter.
        Launcher::Root(Some(_)) | Launcher::Unprivileged => {}
    }
    cover_shared(settings, &kept)?;
    cover_automounts()?;
    protect_kernel()?;
    for path in table()?
        .into_iter()
        .filter(|mounted| COVERED.contains(&mounted.kind.as_str()))
        .map(|mounted| mounted.path)
    {
        hide(&path)?;
    }
    settings.hidden.iter().try_for_each(|path| hide(path))?;
    sockets::cover_all(&names)?;
    require_protected()?;
    // The old working directory is still the one below the covers.
    std::env::set_current_dir(&here).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            JailError::WorkingDirectory { path: here }
        }
        _ => JailError::mount("enter", here, source),
    })
}

/// Maps this account to itself and nothing else, so that it may change mounts and nobody's files.
fn user_namespace() -> Result<(), JailError> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER.union(OWN)).map_err(|problem| {
        JailError::privileges("make a user namespace, which hiding host sockets without root needs", problem)
    })?;
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{uid} {uid} 1")),
        ("/proc/self/gid_map", format!("{gid} {gid} 1")),
    ];
    maps.iter().try_for_each(|(file, text)| {
        fs::write(file, text).map_err(|source| JailError::mount("write", *file, source))
    })
}

/// Opens what stays before anything is covered. What is not there now is not kept: nobody knows what it would be.
fn kept(settings: &Settings) -> Result<Vec<Kept>, JailError> {
    // The link is root's, as everything in that folder.
    let resolver = fs::canonicalize(RESOLVER).ok().filter(|path| path.starts_with("/run"));
    let mut kept = Vec::new();
    for path in settings.keep.iter().cloned().chain(resolver) {
        let path = path
            .strip_prefix("/var/run")
            .map_or_else(|_| path.clone(), |below| Path::new("/run").join(below));
        let failed = |source| JailError::mount("keep", &path, source);
        let handle = match open(&path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(handle) => handle,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => continue,
            Err(problem) => return Err(failed(problem.into())),
        };
        // An agent that may write above a kept path could make it a link to anything, and see that in its next run.
        let real = fs::read_link(sockets::place(&handle)).map_err(failed)?;
        if real != path || is_link(&handle) {
            return Err(failed(io::Error::other("there is a link on the way; name the place itself")));
        }
        kept.push(Kept { path, handle });
    }
    Ok(kept)
}

fn is_link(handle: &OwnedFd) -> bool {
    let kind = |facts: FileStat| SFlag::from_bits_truncate(facts.st_mode & libc::S_IFMT);
    fstat(handle).map_or(true, |facts| kind(facts) == SFlag::S_IFLNK)
}

/// The path without links; `None` when it is not there, or not for this account.
fn reachable(path: &Path) -> Result<Option<PathBuf>, JailError> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(Some(path)),
        Err(problem)
            if matches!(
                problem.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(problem) => Err(JailError::mount("look at", path, problem)),
    }
}

/// A `/dev` without disks and memory, for an agent that stays root: below them lie all the files that are hidden.
fn cover_devices(kept: &[Kept]) -> Result<(), JailError> {
    let dev = Path::new("/dev");
    if kept.iter().any(|kept| kept.path == dev) {
        return Ok(());
    }
    let mut stay = Vec::new();
    let own = [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO].into_iter().find_map(|stream| {
        fs::read_link(format!("/proc/self/fd/{stream}")).ok().filter(|path| path.starts_with(TERMINALS))
    });
    let named = DEVICES.map(|path| (path, PathBuf::from(path)));
    for (path, source) in named.into_iter().chain(own.map(|source| (OWN_TERMINAL, source))) {
        match open(&source, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(handle) => stay.push(Kept { path: path.into(), handle }),
            Err(Errno::ENOENT) => {}
            Err(problem) => return Err(JailError::mount("keep", path, problem)),
        }
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), dev, Some("tmpfs"), flags, Some(DEV_OPTIONS))
        .map_err(|problem| JailError::mount("cover", dev, problem))?;
    for Kept { path, handle } in stay.iter().chain(kept.iter().filter(|kept| kept.path.starts_with(dev))) {
        restore(path, handle, dev)?;
    }
    if !kept.iter().any(|kept| kept.path == Path::new(TERMINALS)) {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        let failed = |source| JailError::mount("cover", TERMINALS, source);
        fs::create_dir(TERMINALS).map_err(failed)?;
        mount(Some("devpts"), TERMINALS, Some("devpts"), flags, Some(TERMINAL_OPTIONS))
            .map_err(|problem| failed(problem.into()))?;
    }
    DEVICE_LINKS.iter().try_for_each(|(target, link)| {
        std::os::unix::fs::symlink(target, link).map_err(|source| JailError::mount("make", *link, source))
    })
}

/// Empty folders over those where hosts put sockets and other people's files, with what is kept put back in.
fn cover_shared(settings: &Settings, kept: &[Kept]) -> Result<(), JailError> {
    let tmp: &[&str] = match settings.tmp {
        Tmp::Private => &TMP,
        Tmp::Shared => &[],
    };
    let mut covered = Vec::new();
    for (folder, options) in
        RUN.iter().map(|run| (run, RUN_OPTIONS)).chain(tmp.iter().map(|tmp| (tmp, TMP_OPTIONS)))
    {
        // `/var/run` mostly leads to `/run`, and a folder that is itself kept stays as it is.
        let Some(folder) = reachable(Path::new(folder))? else { continue };
        if !covered.contains(&folder) && !kept.iter().any(|kept| kept.path == folder) {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(Some("tmpfs"), &folder, Some("tmpfs"), flags, Some(options))
                .map_err(|problem| JailError::mount("cover", &folder, problem))?;
            covered.push(folder);
        }
    }
    for Kept { path, handle } in kept {
        if let Some(folder) = covered.iter().find(|folder| path.starts_with(folder)) {
            restore(path, handle, folder)?;
        }
    }
    Ok(())
}

fn restore(path: &Path, handle: &OwnedFd, covered: &Path) -> Result<(), JailError> {
    let failed = |source| JailError::mount("keep", path, source);
    let source = sockets::place(handle);
    let folder = fs::metadata(&source).map_err(failed)?.is_dir();
    let above = path.ancestors().skip(usize::from(!folder)).take_while(|above| *above != covered);
    let mut above: Vec<&Path> = above.collect();
    above.reverse();
    for step in above {
        match fs::create_dir(step) {
            // Whatever the caller's mask: the agent must be able to pass.
            Ok(()) => fs::set_permissions(step, fs::Permissions::from_mode(0o755)).map_err(failed)?,
            Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists => {}
            Err(problem) => return Err(failed(problem)),
        }
    }
    if !folder && !path.exists() {
        fs::write(path, "").map_err(failed)?;
    }
    mount(Some(&source), path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|problem| failed(problem.into()))
}

/// Covers automount points without waking them, and puts back what is mounted below them already. Those of `/proc` pass no names on.
fn cover_automounts() -> Result<(), JailError> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let all = table()?;
    for point in all.iter().filter(|point| point.kind == AUTOMOUNT && !point.path.starts_with("/proc")) {
        let Ok(handle) = open(&point.path, flags, Mode::empty()) else { continue };
        let facts = fstat(&handle).map_err(|problem| JailError::mount("look at", &point.path, problem))?;
        if facts.st_dev != point.device {
            // Something is mounted over it.
            continue;
        }
        let below = all.iter().filter(|other| other.path.starts_with(&point.path));
        let stay: Vec<Kept> = below
            .filter_map(|other| {
                let handle = open(&other.path, flags, Mode::empty()).ok()?;
                let device = fstat(&handle).ok()?.st_dev;
                let wakes = all.iter().any(|other| other.kind == AUTOMOUNT && other.device == device);
                (!wakes).then(|| Kept { path: other.path.clone(), handle })
            })
            .collect();
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), &sockets::place(&handle), Some("tmpfs"), flags, Some(DEV_OPTIONS))
            .map_err(|problem| JailError::mount("cover", &point.path, problem))?;
        for Kept { path, handle } in &stay {
            restore(path, handle, &point.path)?;
        }
    }
    Ok(())
}

/// Makes read-only what configures the kernel, wherever it is mounted.
fn protect_kernel() -> Result<(), JailError> {
    for mounted in table()? {
        if KERNELS.contains(&mounted.kind.as_str()) {
            read_only(&mounted.path)?;
        } else if mounted.kind == "proc" {
            for part in PROC_PARTS {
                let path = mounted.path.join(part);
                let own =
                    mount(Some(&path), &path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>);
                match own {
                    Ok(()) => intercept::make_mounts_read_only(&path)
                        .map_err(|problem| JailError::mount("make read-only", path, problem))?,
                    Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => {}
                    Err(problem) => return Err(JailError::mount("make a mount of", path, problem)),
                }
            }
        }
    }
    Ok(())
}

/// A line of the table may lie below another's cover, and then nothing is mounted at its path any more.
fn read_only(path: &Path) -> Result<(), JailError> {
    match intercept::make_mounts_read_only(path) {
        Err(problem)
            if !matches!(
                problem.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied
            ) =>
        {
            Err(JailError::mount("make read-only", path, problem))
        }
        // Whether it mattered is told by reading the table again.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Reads the mounts back: what configures the kernel is read-only, if its path still leads to it.
fn require_protected() -> Result<(), JailError> {
    let open = table()?.into_iter().find(|mounted| {
        let seen = || fs::metadata(&mounted.path).is_ok_and(|facts| facts.dev() == mounted.device);
        mounted.writable && KERNELS.contains(&mounted.kind.as_str()) && seen()
    });
    match open {
        None => Ok(()),
        Some(mounted) => {
            Err(JailError::mount("make read-only", mounted.path, io::ErrorKind::ReadOnlyFilesystem))
        }
    }
}

/// Puts an empty, locked folder or an empty file over a path, if it is there.
pub(super) fn hide(path: &Path) -> Result<(), JailError> {
    let Some(path) = reachable(path)? else { return Ok(()) };
    let failed = |source| JailError::mount("hide", &path, source);
    let hidden = if fs::metadata(&path).map_err(failed)?.is_dir() {
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some(HIDDEN_OPTIONS))
    } else {
        mount(Some("/dev/null"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    };
    hidden.map_err(|problem| failed(problem.into()))
}

fn table() -> Result<Vec<Mounted>, JailError> {
    let file = "/proc/self/mountinfo";
    let text = fs::read_to_string(file).map_err(|source| JailError::mount("read", file, source))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// `id parent major:minor root path options [optional..] - kind source options`.
fn parse(line: &str) -> Option<Mounted> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ').skip(2);
    let (major, minor) = fields.next()?.split_once(':')?;
    let device = makedev(major.parse().ok()?, minor.parse().ok()?);
    let path = PathBuf::from(plain(fields.nth(1)?));
    let writable = fields.next()?.split(',').any(|option| option == "rw");
    let kind = right.split(' ').next()?.to_owned();
    Some(Mounted { device, path, writable, kind })
}

/// The kernel writes spaces, tabs, line ends and backslashes of a path in octal.
fn plain(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(path.to_owned(), |path, (code, sign)| path.replace(code, sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_gives_kind_path_and_whether_it_can_be_written() {
        let line = "41 31 0:38 / /sys/fs/cgroup/my\\040tree rw,relatime shared:9 - cgroup2 cgroup2 rw";
        let expected = Mounted {
            device: makedev(0, 38),
            path: "/sys/fs/cgroup/my tree".into(),
            writable: true,
            kind: "cgroup2".into(),
        };
        assert_eq!(parse(line), Some(expected));
        let read_only = parse("23 27 0:22 / /sys ro,relatime - sysfs sysfs rw").unwrap();
        assert!(!read_only.writable);
        assert_eq!(parse("23 27 0:22"), None);
    }
}
