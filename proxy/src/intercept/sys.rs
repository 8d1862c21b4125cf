//! The system calls that no safe library offers; the only unsafe code of the daemon.
//!
//! Each function wraps one call, owns its buffers for the call's duration, and turns a failure into `io::Error`.

#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

pub mod raw;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::bpf_insn;
use nix::libc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use super::births::Notes;
use super::error::InterceptError;
use super::events::Ring;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
/// The kernel runs at most 64 programs per cgroup and hook; effective lists add those of ancestors.
const PROGRAMS_MAX: usize = 256;
/// Longest name of a program, with its closing zero.
const NAME_BYTES: usize = 16;
const FIRST_FREE_DESCRIPTOR: libc::c_uint = 3;

/// Start of `struct bpf_link_info` with its cgroup part.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct LinkFacts {
    kind: u32,
    id: u32,
    /// The program behind the link.
    pub(super) program_id: u32,
    reserved: u32,
    /// The cgroup it is attached to; 0 once that cgroup is gone.
    pub(super) cgroup_id: u64,
    /// The hook.
    pub(super) attach_type: u32,
    tail: [u32; 9],
}

/// `BPF_LINK_TYPE_TRACING`, which links on security hooks have.
const TRACING: u32 = 2;
/// `BPF_LSM_MAC`: the number that all security hooks share.
pub(super) const SECURITY_HOOK: u32 = 27;

impl LinkFacts {
    /// Whether the link is still on this hook, and on this cgroup if one is named. A link on a security hook is on no cgroup: its
    /// facts begin with the number of the hook, and it lives as long as it is attached.
    pub(super) fn is_on(&self, attach_type: u32, cgroup_id: Option<u64>) -> bool {
        if attach_type == SECURITY_HOOK {
            return self.kind == TRACING && self.cgroup_id & u64::from(u32::MAX) == u64::from(SECURITY_HOOK);
        }
        let somewhere = self.cgroup_id != 0 && self.kind != TRACING;
        somewhere && self.attach_type == attach_type && cgroup_id.is_none_or(|id| id == self.cgroup_id)
    }
}

#[repr(C)]
struct ObjectPath {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
struct ProgramQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    reserved: u32,
}

/// Start of the part of `union bpf_attr` that loads a program.
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_BYTES],
    device: u32,
    attach_type: u32,
}

/// Whether the kernel lets this process load programs for security hooks at all: one that is none, so that nothing is loaded. A
/// kernel that would take one complains of it; one that refuses them all, or knows none, says so first.
pub(super) fn takes_security_hooks() -> io::Result<()> {
    const PROGRAM_OF_SECURITY_HOOKS: u32 = 29;
    // `r0 = 0; exit`
    let [nothing, exit] = [0xb7, 0x95].map(|code| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm: 0,
    });
    let (name, license) = ("secure_probe", c"GPL");
    let hookless = Unloaded { name, license, kind: PROGRAM_OF_SECURITY_HOOKS, attach_type: SECURITY_HOOK };
    match load(&hookless, &[nothing, exit]) {
        Err(refused) if refused.kind() == io::ErrorKind::PermissionDenied => Err(refused),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// What the kernel says to a command of `bpf(2)` that it does not know.
pub(super) fn answer_to(unknown: libc::c_int) -> io::Error {
    let mut nothing = 0_u64;
    match bpf(unknown, &mut nothing) {
        Err(answer) => answer,
        Ok(_) => io::Error::other("it knows that command"),
    }
}

/// Loads a program for a hook that has the same context as others but a number that libraries do not know.
pub(super) fn load(program: &Unloaded<'_>, instructions: &[bpf_insn]) -> io::Result<OwnedFd> {
    let mut name = [0_u8; NAME_BYTES];
    // The last byte stays zero.
    for (slot, byte) in name.iter_mut().zip(program.name.bytes().take(NAME_BYTES.saturating_sub(1))) {
        *slot = byte;
    }
    let mut request = ProgramLoad {
        kind: program.kind,
        instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        license: program.license.as_ptr() as u64,
        log: [0; 2],
        kernel_version: 0,
        flags: 0,
        name,
        device: 0,
        attach_type: program.attach_type,
    };
    let fd = bpf(BPF_PROG_LOAD, &mut request)?;
    // SAFETY: the kernel just gave this descriptor to us and to nobody else.
    // JUSTIFICATION: ownership of a raw descriptor can only be claimed.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A program as the kernel is told of it.
#[derive(Debug)]
pub(super) struct Unloaded<'a> {
    pub(super) name: &'a str,
    pub(super) license: &'a CStr,
    /// Number of its kind, `enum bpf_prog_type`.
    pub(super) kind: u32,
    /// Number of its hook, `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let mut request = ObjectPath { path: text.as_ptr() as u64, fd: 0, flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &mut request)?;
    // SAFETY: the kernel just gave this descriptor to us and to nobody else.
    // JUSTIFICATION: ownership of a raw descriptor can only be claimed.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins an object.
pub(super) fn pin(object: &impl AsFd, path: &Path) -> io::Result<()> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let mut request = ObjectPath { path: text.as_ptr() as u64, fd: number(object)?, flags: 0 };
    bpf(BPF_OBJ_PIN, &mut request).map(drop)
}

/// Attaches a loaded program to a cgroup for as long as the link lives. Others may attach beside it.
pub(super) fn link(program: &impl AsFd, cgroup: &impl AsFd, attach_type: u32) -> io::Result<OwnedFd> {
    // Flags must be zero: the kernel's cgroup links always allow others beside them.
    let mut request =
        LinkCreate { program: number(program)?, target: number(cgroup)?, attach_type, flags: 0 };
    let fd = bpf(BPF_LINK_CREATE, &mut request)?;
    // SAFETY: the kernel just gave this descriptor to us and to nobody else.
    // JUSTIFICATION: ownership of a raw descriptor can only be claimed.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a link is attached to.
pub(super) fn link_facts(link: &impl AsFd) -> io::Result<LinkFacts> {
    let mut facts = LinkFacts::default();
    let length = u32::try_from(size_of::<LinkFacts>()).map_err(io::Error::other)?;
    let mut request = InfoByFd { fd: number(link)?, length, info: (&raw mut facts) as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut request)?;
    Ok(facts)
}

/// Ids of the programs that run for `cgroup` at one hook, those of its ancestors included.
pub(super) fn effective_programs(cgroup: &impl AsFd, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; PROGRAMS_MAX];
    let mut request = ProgramQuery {
        target: number(cgroup)?,
        attach_type,
        query_flags: BPF_F_QUERY_EFFECTIVE,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: u32::try_from(PROGRAMS_MAX).map_err(io::Error::other)?,
        reserved: 0,
    };
    bpf(BPF_PROG_QUERY, &mut request)?;
    ids.truncate(usize::try_from(request.count).map_err(io::Error::other)?);
    Ok(ids)
}

fn number(fd: &impl AsFd) -> io::Result<u32> {
    u32::try_from(fd.as_fd().as_raw_fd()).map_err(io::Error::other)
}

fn bpf<T>(command: libc::c_int, request: &mut T) -> io::Result<RawFd> {
    // SAFETY: `request` is the kernel's structure for `command`, and every buffer it points to outlives the call.
    // JUSTIFICATION: aya keeps its own wrapper private.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *request, size_of::<T>()) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        RawFd::try_from(answer).map_err(io::Error::other)
    }
}

/// Mounts a bpf file system, readable by root alone.
pub(super) fn mount_bpffs(target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all strings are terminated and outlive the call.
    // JUSTIFICATION: the safe wrapper's crate feature would pull in more than this one call.
    let failed = unsafe {
        libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), flags, c"mode=0700".as_ptr().cast())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the runtime watch a ring; outside a runtime that is an error.
pub(super) fn watch(ring: Ring) -> io::Result<AsyncFd<Ring>> {
    Handle::try_current().map_err(io::Error::other)?;
    // SAFETY: the ring owns its map's descriptor, always answers with that one, and is dropped after it is
    // deregistered, because the `AsyncFd` owns the ring.
    // JUSTIFICATION: aya's own async support is another feature; tokio leaves this promise to the caller.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)
}

/// Lets the runtime watch a descriptor; outside a runtime that is an error.
pub(super) fn watch_descriptor(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    Handle::try_current().map_err(io::Error::other)?;
    // SAFETY: the `AsyncFd` owns the one descriptor and is deregistered before that is closed.
    // JUSTIFICATION: tokio leaves this promise to the caller.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(io::Error::from)
}

/// Lets the runtime watch the notes on new folders; outside a runtime that is an error.
pub(super) fn watch_notes(notes: Notes) -> io::Result<AsyncFd<Notes>> {
    Handle::try_current().map_err(io::Error::other)?;
    // SAFETY: the notes own their descriptor, always answer with that one, and are dropped after it is deregistered, because the
    // `AsyncFd` owns them.
    // JUSTIFICATION: tokio leaves this promise to the caller.
    unsafe { AsyncFd::register_with_interest(notes, Interest::READABLE) }.map_err(io::Error::from)
}

/// Cookie of the network namespace `socket` lives in.
pub(super) fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the buffer is as long as `length` says.
    // JUSTIFICATION: no library knows this option.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Makes a mount and everything mounted below it read-only, for the mount namespace of this process.
///
/// # Errors
/// When the kernel refuses, `InvalidInput` when nothing is mounted at `path`.
pub fn make_mounts_read_only(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let wanted =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is terminated, the structure is as long as the call says, and both outlive it.
    // JUSTIFICATION: no safe wrapper; a remount for each mount would have to repeat flags that a race can change.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Rows and columns of a terminal.
///
/// # Errors
/// When it is none.
pub fn window_size(terminal: &impl AsFd) -> io::Result<libc::winsize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the buffer is the kernel's own structure and outlives the call.
    // JUSTIFICATION: no safe wrapper among the dependencies.
    let failed = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    if failed == 0 { Ok(size) } else { Err(io::Error::last_os_error()) }
}

/// Gives a terminal a size, and tells whoever is in front of it.
///
/// # Errors
/// When it is none.
pub fn set_window_size(terminal: &impl AsFd, size: &libc::winsize) -> io::Result<()> {
    // SAFETY: the buffer is the kernel's own structure and outlives the call.
    // JUSTIFICATION: no safe wrapper among the dependencies.
    let failed = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const *size) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A handle on the process that has this id now; it never means another one.
///
/// # Errors
/// When there is no such process.
pub fn process_handle(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: the call takes two numbers.
    // JUSTIFICATION: no safe wrapper.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave this descriptor to us and to nobody else.
    // JUSTIFICATION: ownership of a raw descriptor can only be claimed.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Nanoseconds since boot, sleep included: the clock of the kernel programs.
pub(super) fn boot_ns() -> io::Result<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the buffer is the kernel's own structure and outlives the call.
    // JUSTIFICATION: the safe wrapper's crate feature would pull in more than this one call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    let (seconds, rest) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    let nanoseconds = |seconds: u64, rest: u64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    Ok(nanoseconds(seconds.map_err(io::Error::other)?, rest.map_err(io::Error::other)?))
}

/// Marks every descriptor above standard error to be closed by the next `exec`.
///
/// # Errors
/// When the kernel refuses; the caller must then not `exec`.
pub fn close_descriptors_on_exec() -> Result<(), InterceptError> {
    let (first, last) = (FIRST_FREE_DESCRIPTOR, libc::c_uint::MAX);
    // SAFETY: the call only sets a flag on this process's descriptors.
    // JUSTIFICATION: no safe wrapper reaches descriptors that nobody owns.
    let failed = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if failed == 0 {
        Ok(())
    } else {
        Err(InterceptError::Kernel {
            action: "mark inherited descriptors for closing",
            source: io::Error::last_os_error(),
        })
    }
}
