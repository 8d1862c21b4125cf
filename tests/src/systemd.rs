//! A real systemd, booted as the first process of namespaces of its own.
//!
//! It lives in a cgroup of its own and sees copies: an `/etc` it may change, an empty `/run`, `/tmp`, `/var/lib`, and a BPF
//! file system at the usual place, as on a host that has just started. Units of the machine that would touch it are
//! replaced by empty ones. Dropping the value kills the first process, and with it every process, mount and pin.
//! Limits: needs root and Debian's systemd; network and process accounts are the machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chaperone::intercept::Tree;
use nix::sys::signal::Signal;

use crate::process::{self, Finished, Process};
use crate::{daemon, temp, wait};

const LIMIT: Duration = Duration::from_secs(60);

/// Everything before systemd: private mounts, copies, empty folders. Arguments: cgroup, folder.
const BOOT: &str = r#"
cgroup=$1; stage=$2
echo 0 > "$cgroup/cgroup.procs"
exec unshare --mount --pid --ipc --uts --fork --kill-child -- sh -e -c '
stage=$1
mount --make-rprivate /
mount -t proc proc /proc
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf -o mode=0700 bpf /sys/fs/bpf
cp -a /etc/. "$stage/etc"
mount --bind "$stage/etc" /etc
mount -t tmpfs tmpfs /run
mkdir -p /run/stage /run/systemd/system
mount --bind "$stage" /run/stage
for empty in /tmp /var/tmp /var/lib; do mount -t tmpfs tmpfs "$empty"; done
cp -r /run/stage/units/. /run/systemd/system/
mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=lxc /lib/systemd/systemd --system --unit=stage.target \
    --log-target=console --show-status=no
' sh "$stage"
"#;

/// Where its folder is inside: what units hide of the machine does not hide that.
pub const STAGE: &str = "/run/stage";

/// Units of the machine that must not act here: each is a target that wants nothing.
const EMPTY: [&str; 5] =
    ["sysinit.target", "basic.target", "network-online.target", "multi-user.target", "stage.target"];

/// A running systemd.
#[derive(Debug)]
pub struct Systemd {
    // Dropped first: it takes every process with it.
    first: Option<Process>,
    pid: i32,
    cgroup: PathBuf,
    name: String,
    dir: temp::Dir,
}

impl Systemd {
    /// Boots one with these files: paths below `units/` are units and drop-ins, paths below `etc/` end up in `/etc`.
    /// `{slice}` in their text becomes the tree it manages. The folder is at [`STAGE`] inside; `bin/chaperone` is in it.
    pub fn boot(files: &[(String, String)]) -> Result<Self> {
        Self::boot_after(&[], files)
    }

    /// The same behind these words, which put it into another network namespace, say.
    pub fn boot_after(prefix: &[String], files: &[(String, String)]) -> Result<Self> {
        let dir = temp::Dir::new("systemd")?;
        let name = format!("chaperone-test-{}.slice", temp::unique());
        let cgroup = Tree::find()?.mount().join(&name);
        for folder in ["units", "etc"] {
            dir.folder(folder)?;
        }
        for unit in EMPTY {
            dir.write(&format!("units/{unit}"), "[Unit]\nDescription=Empty\n", 0o644)?;
        }
        for (path, text) in files {
            let place = dir.path().join(path);
            fs::create_dir_all(place.parent().context("a file without a folder")?)?;
            dir.write(path, text.replace("{slice}", &name), 0o644)?;
        }
        daemon::stage_program(&dir)?;
        fs::create_dir(&cgroup).with_context(|| format!("cannot make `{}`", cgroup.display()))?;
        let mut booted = Self { first: None, pid: 0, cgroup, name, dir };
        // `env` alone starts what follows it as it is.
        let mut command = Command::new("env");
        command.args(prefix).args(["sh", "-c", BOOT, "sh"]).arg(&booted.cgroup).arg(booted.dir.path());
        let log = booted.dir.path().join("systemd.log");
        let mut first = Process::start("systemd", &mut command, &log, Signal::SIGKILL)?;
        let outer = first.pid();
        booted.pid = first.wait_ready(LIMIT, || {
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"));
            Ok(children.ok().and_then(|text| text.trim().parse::<i32>().ok()))
        })?;
        let pid = booted.pid;
        first.wait_ready(LIMIT, || {
            let seen = process::run(&mut inside(pid, &["systemctl", "is-active", "stage.target"]), LIMIT)?;
            Ok((seen.stdout.trim() == "active").then_some(()))
        })?;
        booted.first = Some(first);
        Ok(booted)
    }

    /// A command that runs in its namespaces.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        inside(self.pid, words)
    }

    /// Runs `systemctl` to its end.
    pub fn systemctl(&self, words: &[&str]) -> Result<Finished> {
        process::run(self.command(&["systemctl"]).args(words), LIMIT)
    }

    /// One property of a unit, as systemd tells it.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let text = self.systemctl(&["show", "--value", "--property", name, unit])?.success()?;
        Ok(text.trim().to_owned())
    }

    /// The process id, on this side, of a unit's main process; 0 when there is none.
    pub fn main_pid(&self, unit: &str) -> Result<i32> {
        let inner: i32 = self.property(unit, "MainPID")?.parse().context("no process id")?;
        let procs = fs::read_to_string(self.cgroup.join("system.slice").join(unit).join("cgroup.procs"));
        let outer = procs.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            inner != 0 && ids.split_whitespace().last() == Some(inner.to_string().as_str())
        });
        Ok(outer.unwrap_or(0))
    }

    /// The text of a file inside; empty when there is none.
    #[must_use]
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(format!("/proc/{}/root{path}", self.pid)).unwrap_or_default()
    }

    /// Waits until a unit is in this state.
    pub fn wait(&self, unit: &str, state: &str) -> Result<()> {
        let what = format!("`{unit}` to be {state}");
        let reached =
            wait::until(&what, LIMIT, || Ok((self.property(unit, "ActiveState")? == state).then_some(())));
        reached.with_context(|| format!("{}\n{}", self.status(unit), self.log()))
    }

    /// What `systemctl status` says, for people.
    #[must_use]
    pub fn status(&self, unit: &str) -> String {
        self.systemctl(&["status", "--no-pager", unit])
            .map_or_else(|error| format!("{error:#}"), |seen| seen.both())
    }

    /// What systemd itself has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.first.as_ref().and_then(|first| first.log().ok()).unwrap_or_default()
    }

    /// The tree it manages, below the cgroup2 mount.
    #[must_use]
    pub fn slice(&self) -> &str {
        &self.name
    }

    /// The same as a folder.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Its folder on this side.
    #[must_use]
    pub fn dir(&self) -> &temp::Dir {
        &self.dir
    }

    fn clean_up(&mut self) -> Result<()> {
        self.first = None;
        wait::until("an empty tree of cgroups", LIMIT, || {
            if !self.cgroup.exists() {
                return Ok(Some(()));
            }
            remove_below(&self.cgroup);
            Ok(fs::remove_dir(&self.cgroup).is_ok().then_some(()))
        })
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if let Err(error) = self.clean_up() {
            eprintln!("cleaning up after systemd: {error:#}");
        }
    }
}

fn inside(pid: i32, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid.to_string(), "-m", "-p", "--"]).args(words);
    command
}

/// A cgroup that is in use refuses to go, and is tried again.
fn remove_below(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
            if fs::remove_dir(entry.path()).is_err() {}
        }
    }
}

/// The text of a file in the repository's `packaging`.
pub fn packaged(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) => bail!("cannot read `{}`: {error}", path.display()),
    }
}
