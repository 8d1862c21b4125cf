//! What would undo guard or jail from within, each way by root and by an account of the agent's own.

use std::path::PathBuf;

use super::*;

/// A pinned program of the daemon's guard.
fn pin(folder: PathBuf) -> Option<PathBuf> {
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.file_name() == "agent_connect4" {
                return Some(entry.path());
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    None
}

/// Opens, and never writes: the machine's settings must survive a jail that does not hold.
const WAYS: &str = "
import fcntl, pty
def mount_bpf(): call(165, b'bpf', b'/tmp', b'bpf', 0, 0)
def writable(path): os.close(os.open(path, os.O_WRONLY))
def user_namespace():
    child = os.fork()
    if child == 0: os._exit(0 if libc.unshare(0x10000000) == 0 else ctypes.get_errno())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code: raise OSError(code, 'refused')
say(lambda: os.unlink(PIN))
say(lambda: os.unlink('/proc/1/root' + PIN))
say(lambda: os.unlink('/proc/self/root' + '/../..' + PIN))
say(lambda: call(321, 34, ctypes.create_string_buffer(128), 128))
say(mount_bpf)
say(lambda: writable('/proc/sys/kernel/core_pattern'))
say(lambda: writable('/proc/1/root' + '/proc/sys/kernel/core_pattern'))
say(user_namespace)
say(lambda: fcntl.ioctl(pty.openpty()[1], 0x5412, b'x'))
";

#[test]
fn neither_root_nor_another_account_undoes_guard_or_jail_from_within() {
    let daemon = stage("");
    let pin = pin(daemon.dir().path().join("bpf")).unwrap();
    let script = format!("PIN = '{}'\n{WAYS}", pin.display());
    let root = inside(&daemon, 0, &script);
    let account = inside(&daemon, UID, &script);
    assert!(pin.exists());
    assert_eq!(root, ["ENOENT", "EACCES", "ENOENT", "EPERM", "EPERM", "EROFS", "EACCES", "EPERM", "EPERM"]);
    assert_eq!(
        account,
        ["ENOENT", "EACCES", "ENOENT", "EPERM", "EPERM", "EACCES", "EACCES", "EPERM", "EPERM"]
    );
    // The control, without taking the guard away or mounting anything.
    let free = outside(0, &script.replace("os.unlink(", "os.stat(").replace("say(mount_bpf)", "print()"));
    assert_eq!((free[0].as_str(), free[5].as_str(), free[7].as_str()), ("ok", "ok", "ok"), "{free:?}");
}
