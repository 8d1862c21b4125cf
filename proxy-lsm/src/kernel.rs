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

/// The `struct socket` of a file; 0 if it is no socket's.
#[inline(always)]
pub fn socket_of(file: u64) -> u64 {
    let inode: u64 = read(file, offset!(file_inode));
    let mode: u16 = read(inode, offset!(inode_mode));
    if mode & FORMAT == SOCKET { read(file, offset!(file_data)) } else { 0 }
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
