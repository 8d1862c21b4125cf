//! `chaperone attach` under a real systemd: what a service is before, while it is attached, and after.
//!
//! systemd is the first process of namespaces of its own, in a cgroup of its own, so that the machine's own init is not touched.
//! Needs root and Debian's systemd.

#![expect(
    clippy::unwrap_used,
    clippy::tests_outside_test_module,
    reason = "a test stops where it fails, and this file holds nothing else"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use chaperone::intercept::Tree;
use chaperone_tests::process::{self, Finished, Process};
use chaperone_tests::{daemon, ports, sample, temp, wait};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);
/// Makes the namespaces fit for a first process, and becomes it.
const BOOT: &str = "set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mkdir -p /run/systemd/system
mount -t tmpfs tmpfs /etc/systemd/system
mount -t bpf bpf \"$1/bpf\"
cp \"$1\"/units/* /etc/systemd/system/
exec env -i PATH=\"$PATH\" container=lxc /lib/systemd/systemd --system --unit=stage.target --log-target=console --show-status=no
";
/// Tries the ways out, one line each.
const PROBE: &str = "
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    answer = libc.syscall(number, *args)
    if answer < 0: raise OSError(ctypes.get_errno(), 'refused')
def say(name, what):
    try:
        what(); print(name, 'ok')
    except OSError as problem:
        print(name, errno.errorcode.get(problem.errno, problem.errno))
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())
print('cgroup', [l for l in open('/proc/self/cgroup').read().splitlines() if l.startswith('0::')][0][3:])
print('privileges', status['NoNewPrivs'], status['CapBnd'] == '0' * 16)
say('host', lambda: socket.socket(socket.AF_UNIX).connect('/run/host.sock'))
say('kept', lambda: socket.socket(socket.AF_UNIX).connect('/run/kept.sock'))
say('vsock', lambda: socket.socket(40, socket.SOCK_STREAM))
say('uring', lambda: call(425, 1, ctypes.create_string_buffer(120)))
say('clone3', lambda: call(435, 0, 0))
say('user', lambda: call(272, 0x10000000))
say('kernel', lambda: os.close(os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)))
say('cgroups', lambda: os.close(os.open('/sys/fs/cgroup/cgroup.procs', os.O_WRONLY)))
say('tmp', lambda: os.stat(NOTE))
say('state', lambda: os.listdir(DIR + '/state'))
";

/// A systemd with its own view of the machine.
struct Machine {
    // Dropped first: with it everything inside ends.
    first: Process,
    cgroup: PathBuf,
    dir: temp::Dir,
    /// Somebody else's folder in `/tmp`.
    _note: temp::Dir,
}

impl Machine {
    /// Boots it with these units, each a name and its text, where `DIR` stands for the machine's folder.
    fn boot(units: &[(&str, &str)]) -> Result<Self> {
        let dir = temp::Dir::new("machine")?;
        for folder in ["bpf", "units", "bin"] {
            dir.folder(folder)?;
        }
        let root = dir.path().display().to_string();
        let program = dir.path().join("bin/chaperone");
        process::run(Command::new("install").arg(daemon::program()?).arg(&program), LIMIT)?.success()?;
        process::run(
            Command::new("cp").arg("-r").arg(sample::shipped_policies()).arg(dir.path().join("policies")),
            LIMIT,
        )?
        .success()?;
        dir.write(
            "chaperone.toml",
            format!(
                "state_dir = \"{root}/state\"\nruntime_dir = \"{root}/run\"\npolicy_dir = \"{root}/policies\"\n\
                 [intercept]\nparent = \"agents.slice\"\nport = {}\npin_dir = \"{root}/bpf/chaperone\"\nsentinel = false\n\
                 [jail]\nkeep = [\"{root}\", \"/run/kept.sock\"]\n\
                 [[agent]]\nname = \"worker\"\nmatch = {{ unit = \"worker.service\" }}\n",
                ports::free()?
            ),
            0o644,
        )?;
        let note = temp::Dir::new("note")?;
        dir.write("probe.py", format!("DIR, NOTE = '{root}', '{}'\n{PROBE}", note.path().display()), 0o644)?;
        dir.write("units/stage.target", "[Unit]\nDescription=stage\n", 0o644)?;
        for (name, text) in units {
            dir.write(&format!("units/{name}"), text.replace("DIR", &root), 0o644)?;
        }
        let boot = dir.write("boot.sh", BOOT, 0o644)?;
        let cgroup = Tree::find()?.mount().join(format!("chaperone-test-{}", temp::unique()));
        std::fs::create_dir(&cgroup)?;
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$1/cgroup.procs\"; shift; exec \"$@\"", "sh"]).arg(&cgroup);
        command.args([
            "unshare",
            "--mount",
            "--pid",
            "--cgroup",
            "--ipc",
            "--uts",
            "--fork",
            "--kill-child",
            "sh",
        ]);
        command.arg(boot).arg(dir.path()).current_dir("/");
        let first = Process::start("systemd", &mut command, &dir.path().join("log"), Signal::SIGKILL);
        let mut machine = Self { first: first?, cgroup, dir, _note: note };
        wait::until("systemd to answer", LIMIT, || {
            anyhow::ensure!(machine.first.ended()?.is_none(), "systemd ended: {}", machine.first.log_tail());
            let up = machine
                .run(&["systemctl", "is-active", "stage.target"])
                .is_ok_and(|seen| seen.status.success());
            Ok(up.then_some(()))
        })?;
        Ok(machine)
    }

    /// Runs a command inside.
    fn run(&self, words: &[&str]) -> Result<Finished> {
        let launcher = self.first.pid();
        let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"))?;
        let init =
            children.split(' ').next().filter(|pid| !pid.is_empty()).context("systemd is not there yet")?;
        let mut command = Command::new("nsenter");
        command.args(["-t", init, "-m", "-p", "-C", "-w/"]).args(words);
        process::run(command.current_dir("/"), LIMIT)
    }

    fn chaperone(&self, word: &str, unit: &str) -> Result<Finished> {
        let (program, config) =
            (self.dir.path().join("bin/chaperone"), self.dir.path().join("chaperone.toml"));
        self.run(&[&program.display().to_string(), word, unit, "--config", &config.display().to_string()])
    }

    /// Starts the worker, which is over when this returns, and reads what it printed.
    fn work(&self) -> (Finished, String) {
        let output = self.dir.path().join("out");
        std::fs::write(&output, "").unwrap();
        let started = self.run(&["systemctl", "start", "worker.service"]).unwrap();
        (started, std::fs::read_to_string(&output).unwrap())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let ended = self.first.stop(Signal::SIGKILL, LIMIT);
        let removed = wait::until("empty cgroups", LIMIT, || Ok(remove(&self.cgroup).ok()));
        if let Err(error) = ended.map(drop).and(removed) {
            eprintln!("cleaning up after systemd: {error:#}");
        }
    }
}

fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    std::fs::remove_dir(cgroup)
}

const DAEMON: (&str, &str) = (
    "chaperone.service",
    "[Unit]\nDefaultDependencies=no\n[Service]\nType=notify\n\
     ExecStart=DIR/bin/chaperone daemon --config DIR/chaperone.toml\n",
);
const WORKER: (&str, &str) = (
    "worker.service",
    "[Unit]\nDefaultDependencies=no\nRequires=host.socket kept.socket\nAfter=host.socket kept.socket\n\
     [Service]\nType=oneshot\nExecStart=/usr/bin/python3 DIR/probe.py\nStandardOutput=file:DIR/out\n",
);
const SOCKETS: [(&str, &str); 4] = [
    (
        "host.socket",
        "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/host.sock\nSocketMode=0777\n",
    ),
    ("host.service", "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 600\n"),
    (
        "kept.socket",
        "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/kept.sock\nSocketMode=0777\n",
    ),
    ("kept.service", "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 600\n"),
];

fn units() -> Vec<(&'static str, &'static str)> {
    let mut units = SOCKETS.to_vec();
    units.extend([DAEMON, WORKER]);
    units
}

#[test]
fn a_service_is_an_agent_in_a_jail_while_it_is_attached() {
    let machine = Machine::boot(&units()).unwrap();
    // It runs as root, so that what stops it is not its account.
    machine.run(&["systemctl", "start", "chaperone.service"]).unwrap().success().unwrap();
    let open = "cgroup /system.slice/worker.service\nprivileges 0 False\nhost ok\nkept ok\nvsock ok\nuring ok\nclone3 EINVAL\nuser ok\n\
                kernel ok\ncgroups ok\ntmp ok\nstate ok\n";
    let (started, before) = machine.work();
    started.success().unwrap();
    assert_eq!(before, open);
    let attached = machine.chaperone("attach", "worker.service").unwrap();
    assert!(attached.stderr.contains("runs as root"), "{}", attached.both());
    attached.success().unwrap();
    let (started, within) = machine.work();
    started.success().unwrap();
    let closed = "cgroup /agents.slice/worker.service\nprivileges 1 True\nhost ENOENT\nkept ok\nvsock EAFNOSUPPORT\n\
                  uring EPERM\nclone3 ENOSYS\nuser EPERM\nkernel EROFS\ncgroups EROFS\ntmp ENOENT\nstate EACCES\n";
    assert_eq!(within, closed);
    machine.chaperone("detach", "worker.service").unwrap().success().unwrap();
    let (started, after) = machine.work();
    started.success().unwrap();
    assert_eq!(after, open);
    let twice = machine.chaperone("detach", "worker.service").unwrap();
    assert_eq!(twice.status.code(), Some(1), "{}", twice.both());
}

#[test]
fn an_attached_service_does_not_start_where_nothing_guards_it() {
    let mut units = SOCKETS.to_vec();
    units.push(WORKER);
    let machine = Machine::boot(&units).unwrap();
    machine.chaperone("attach", "worker.service").unwrap().success().unwrap();
    let (started, printed) = machine.work();
    assert!(!started.status.success() && !printed.contains("privileges"), "{}\n{printed}", started.both());
    assert!(printed.contains("nothing would guard it"), "{printed}");
    machine.chaperone("detach", "worker.service").unwrap().success().unwrap();
    let (started, printed) = machine.work();
    started.success().unwrap();
    assert!(printed.starts_with("cgroup /system.slice/"), "{printed}");
}

#[test]
fn only_known_services_of_an_agent_are_attached_and_others_drop_ins_stay() {
    let mut units = units();
    units.push(("other.service", "[Service]\nExecStart=/bin/true\n"));
    let machine = Machine::boot(&units).unwrap();
    let refused = |word: &str, unit: &str, why: &str| {
        let seen = machine.chaperone(word, unit).unwrap();
        assert_eq!(seen.status.code(), Some(1), "{unit}: {}", seen.both());
        assert!(seen.stderr.contains(why), "{unit}: {}", seen.both());
    };
    refused("attach", "other.service", "no agent has `match");
    refused("attach", "../other.service", "is not the name of a service");
    refused("attach", "agents.slice", "is not the name of a service");
    let socket = "/etc/systemd/system/worker.socket";
    let script = format!("printf '[Socket]\\nListenStream=1\\n' > {socket} && systemctl daemon-reload");
    machine.run(&["sh", "-c", &script]).unwrap().success().unwrap();
    refused("attach", "worker.service", "outside the agents' cgroup");
    machine
        .run(&["sh", "-c", &format!("rm {socket} && systemctl daemon-reload")])
        .unwrap()
        .success()
        .unwrap();
    let folder = "/etc/systemd/system/worker.service.d";
    let script = format!("mkdir {folder} && echo '[Service]' > {folder}/50-chaperone.conf");
    machine.run(&["sh", "-c", &script]).unwrap().success().unwrap();
    refused("detach", "worker.service", "was not written by");
    let script =
        format!("rm {folder}/50-chaperone.conf; echo '[Service]\nNoNewPrivileges=no' > {folder}/60-own.conf");
    machine.run(&["sh", "-c", &script]).unwrap().success().unwrap();
    refused("attach", "worker.service", "takes back");
    machine.chaperone("detach", "worker.service").unwrap().success().unwrap();
    machine.run(&["test", "-f", &format!("{folder}/60-own.conf")]).unwrap().success().unwrap();
}
