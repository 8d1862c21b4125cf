//! What `chaperone run` makes of an agent, and that it starts none where the guard is not whole.

use std::process::ExitStatus;

use super::*;

impl World {
    /// Runs python through `chaperone run`, by way of this very binary.
    pub(super) fn launched(&self, uid: &str, script: &str) -> (ExitStatus, String) {
        let child = Command::new(env!("CARGO_BIN_EXE_guard-helper"))
            .arg("launch")
            .env("LAUNCH_PARENT", &self.settings.parent)
            .env("LAUNCH_PINS", &self.settings.pin_dir)
            .env("LAUNCH_PORT", self.port().to_string())
            .env("LAUNCH_RUNTIME", &self.bpffs)
            .env("LAUNCH_UID", uid)
            .env("LAUNCH_SCRIPT", format!("import errno, os, socket, sys\n{HELPERS}\n{script}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status, String::from_utf8(output.stdout).unwrap())
    }
}

const CONFINED: &str = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    answer = libc.syscall(number, *args)
    return 'ok' if answer >= 0 else errno.errorcode[ctypes.get_errno()]
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())
print()
print('uid', os.getuid(), os.getgid(), os.getgroups())
print('caps', status['CapEff'], status['CapPrm'], status['CapInh'], status['CapAmb'], status['CapBnd'], status['NoNewPrivs'])
print('bpf', call(321, 0, 0, 0), 'clone3', call(435, 0, 0), 'uring', call(425, 1, 0), 'ptrace', call(101, 0, 0, 0, 0))
print('mount', call(165, b'x', b'/', b'tmpfs', 0, 0), 'readv', call(310, 1, 0, 0, 0, 0, 0), 'x32', call(0x40000000 | 321, 0, 0, 0))
print('families', [f for f in range(46) if attempt(lambda: socket.socket(f, socket.SOCK_STREAM)) == 'EAFNOSUPPORT' and f in (16, 17, 38, 40)])
print('packet', attempt(lambda: socket.socket(17, 3, 0)), 'vsock', attempt(lambda: socket.socket(40, 1, 0)), 'unix', attempt(lambda: socket.socket(1, 1, 0)), 'netlink', attempt(lambda: socket.socket(16, 3, 0)))
print('fds', sorted(int(f) for f in os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')))
print('cgroup', [l for l in open('/proc/self/cgroup').read().splitlines() if l.startswith('0::')][0])
print('connect', attempt(lambda: socket.socket().connect(('192.0.2.1', 80))))
";

#[test]
fn a_launched_agent_is_confined() {
    let world = World::new();
    let (status, printed) = world.launched("64123", CONFINED);
    assert!(status.success(), "{printed}");
    let line = |name: &str| printed.lines().find(|line| line.starts_with(name)).unwrap_or("").to_owned();
    assert_eq!(line("uid"), "uid 64123 64123 []");
    let none = "0000000000000000";
    assert_eq!(line("caps"), format!("caps {none} {none} {none} {none} {none} 1"));
    assert_eq!(line("bpf"), "bpf EPERM clone3 ENOSYS uring EPERM ptrace EPERM");
    assert_eq!(line("mount"), "mount EPERM readv EPERM x32 EPERM");
    assert_eq!(line("packet"), "packet EAFNOSUPPORT vsock EAFNOSUPPORT unix ok netlink ok");
    assert_eq!(line("fds"), "fds [0, 1, 2] 4");
    assert!(line("cgroup").contains("/reporter/"), "{printed}");
    assert_eq!(line("connect"), "connect ECONNREFUSED");
}

#[test]
fn a_launched_root_agent_keeps_no_right_over_network_or_kernel() {
    let world = World::new();
    let (status, printed) = world.launched("", CONFINED);
    assert!(status.success(), "{printed}");
    let caps = printed.lines().find(|line| line.starts_with("caps ")).unwrap();
    let bounding = u64::from_str_radix(caps.split(' ').nth(5).unwrap(), 16).unwrap();
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, NET_BIND_SERVICE.
    assert_eq!(bounding, 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10);
    assert!(printed.contains("packet EAFNOSUPPORT"), "{printed}");
}

#[test]
fn nothing_is_launched_where_a_program_is_missing() {
    let mut world = World::new();
    world.without(&["agent_egress"]);
    let (status, printed) = world.launched("64123", "print('ran')");
    assert_eq!(status.code(), Some(1), "{printed}");
    assert!(printed.contains("ExitCode(unix_exit_status(3))") && !printed.contains("ran\n"), "{printed}");
}
