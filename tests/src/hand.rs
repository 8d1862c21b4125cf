//! Root's hand: what somebody with every right may do to the guard, by raw system calls and plain tools.
//!
//! Each function does one thing and says whether it worked. Limits: needs root and Debian's Python.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

const LIMIT: Duration = Duration::from_secs(30);

/// `bpf(2)` by number, as no client here has it: `bpf(command, attributes)` for Python.
pub const BPF_CALL: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b'\0'), 128)
    answer = libc.syscall(321, command, buffer, 128)
    if answer < 0:
        raise OSError(ctypes.get_errno(), 'bpf')
    return answer
"#;

/// Opens pins, and detaches the links behind them or adds to the first count of a table.
const PINS: &str = r#"
def opened(path):
    text = ctypes.create_string_buffer(path.encode())
    return bpf(7, struct.pack('QII', ctypes.addressof(text), 0, 0))
objects = [opened(path) for path in sys.argv[2:]]
for one in objects:
    if sys.argv[1] == 'detach':
        bpf(34, struct.pack('I', one))
        continue
    key, value = ctypes.create_string_buffer(8), ctypes.create_string_buffer(256)
    bpf(4, struct.pack('IxxxxQQQ', one, 0, ctypes.addressof(key), 0))
    bpf(1, struct.pack('IxxxxQQQ', one, ctypes.addressof(key), ctypes.addressof(value), 0))
    delivered, = struct.unpack_from('Q', value, 8)
    struct.pack_into('Q', value, 8, delivered + 1)
    bpf(2, struct.pack('IxxxxQQQ', one, ctypes.addressof(key), ctypes.addressof(value), 0))
"#;

fn bpf(what: &str, pins: &[&Path]) -> Result<()> {
    let mut python = Command::new("/usr/bin/python3");
    let script = format!("{BPF_CALL}{PINS}");
    process::run(python.args(["-c", &script, what]).args(pins), LIMIT)?.success().context("bpf").map(drop)
}

/// Detaches the program behind a pinned link.
pub fn detach(pin: &Path) -> Result<()> {
    detach_all(&[pin])
}

/// Detaches several, one right after the other.
pub fn detach_all(pins: &[&Path]) -> Result<()> {
    bpf("detach", pins)
}

/// Adds one delivered connection to the first account of the pinned table.
pub fn miscount(table: &Path) -> Result<()> {
    bpf("count", &[table])
}

/// Unmounts a file system, also one in use.
pub fn unmount(place: &Path) -> Result<()> {
    process::run(Command::new("umount").arg("-l").arg(place), LIMIT)?.success().map(drop)
}

/// Mounts a BPF file system.
pub fn mount_bpf(place: &Path) -> Result<()> {
    process::run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(place), LIMIT)?.success().map(drop)
}

/// Removes a cgroup and what is below; true when it is gone.
#[must_use]
pub fn remove_cgroup(place: &Path) -> bool {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !remove_cgroup(&entry.path()) {
            return false;
        }
    }
    fs::remove_dir(place).is_ok()
}
