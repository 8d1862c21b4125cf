//! The kernel's own structures, read at offsets that the daemon took from the running kernel's type information.
//!
//! INVARIANT: every read goes through the helper that copes with any address, so a wrong one is an error and no fault; an error
//! reads as "nothing there". Known limit: what is read may change at once; none of it belongs to an agent's memory.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::helpers::bpf_probe_read_kernel;
use proxy_common::account::Parent;
use proxy_common::offsets::Offsets;

/// Written by the daemon before loading.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::UNKNOWN;

const FORMAT: u16 = 0xf000;
const SOCKET: u16 = 0xc000;
/// `__GFP_IO` and `__GFP_FS`: memory for a program's socket may be had by writing to files and disks.
const FILES_AND_DISKS: u32 = 0xc0;

/// Reads one offset. A constant of this object: the verifier knows its value.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a live static, which nobody writes once it is loaded.
        unsafe { read_volatile(addr_of!(OFFSETS.$field)) }
    };
}

/// What a unix socket is bound to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Name {
    None,
    Abstract,
    Path,
}

/// The inner socket of a `struct socket`; 0 if it has none.
#[inline(always)]
pub fn sock(socket: u64) -> u64 {
    read(socket, offset!(socket_sk))
}

/// Whether the kernel made an inner socket for itself, or took it over for a disk or a file system: it sends on those in the time
/// of whoever happens to wait, and who made them says nothing about him. No call of a program's does either to a socket.
#[inline(always)]
pub fn is_kernels(sock: u64) -> bool {
    let bits: u8 = read(sock, offset!(sock_kernel));
    let allocation: u32 = read(sock, offset!(sock_allocation));
    u32::from(bits) & offset!(sock_kernel_mask) != 0 || allocation & FILES_AND_DISKS != FILES_AND_DISKS
}

/// Address family of an inner socket.
#[inline(always)]
pub fn family(sock: u64) -> u32 {
    let family: u16 = read(sock, offset!(sock_family));
    u32::from(family)
}

/// The account that made an inner socket, 0 for the parent itself; none if that is outside the agents' parent.
#[inline(always)]
pub fn maker(sock: u64, parent: &Parent) -> Option<u64> {
    account(read(sock, offset!(sock_cgroup)), parent)
}

/// The account that a task is in, as for sockets.
#[inline(always)]
pub fn account_of_task(task: u64, parent: &Parent) -> Option<u64> {
    let set: u64 = read(task, offset!(task_cgroups));
    account(read(set, offset!(css_set_cgroup)), parent)
}

/// Whether a file is a socket's; one that cannot be looked at counts as one.
#[inline(always)]
pub fn is_socket(file: u64) -> bool {
    let inode: u64 = read(file, offset!(file_inode));
    let mode: u16 = read(inode, offset!(inode_mode));
    mode == 0 || mode & FORMAT == SOCKET
}

/// The `struct socket` of a socket's file.
#[inline(always)]
pub fn socket_of(file: u64) -> u64 {
    read(file, offset!(file_data))
}

/// A number of the calling process's request to `bpf(2)`, which the kernel has copied.
#[inline(always)]
pub fn request_word(request: u64, at: u32) -> u32 {
    read(request, at)
}

/// What an inner unix socket is bound to.
#[inline(always)]
pub fn name(sock: u64) -> Name {
    let address: u64 = read(sock, offset!(unix_address));
    if address == 0 {
        return Name::None;
    }
    let first: u8 = read(address, offset!(unix_path));
    if first == 0 { Name::Abstract } else { Name::Path }
}

#[inline(always)]
fn account(cgroup: u64, parent: &Parent) -> Option<u64> {
    let depth: u32 = read(cgroup, offset!(cgroup_level));
    if cgroup == 0 || depth < parent.level || ancestor(cgroup, parent.level) != parent.cgroup_id {
        return None;
    }
    Some(if depth == parent.level { 0 } else { ancestor(cgroup, parent.level + 1) })
}

/// Id of a cgroup's ancestor; it must be that deep.
#[inline(always)]
fn ancestor(cgroup: u64, level: u32) -> u64 {
    let at: u64 = read(cgroup + 8 * u64::from(level), offset!(cgroup_ancestors));
    let node: u64 = read(at, offset!(cgroup_node));
    read(node, offset!(node_id))
}

/// Zero where nothing can be read.
#[inline(always)]
fn read<T: Default>(from: u64, offset: u32) -> T {
    if from == 0 {
        return T::default();
    }
    // SAFETY: the helper takes any address.
    unsafe { bpf_probe_read_kernel((from + u64::from(offset)) as *const T) }.unwrap_or_default()
}
