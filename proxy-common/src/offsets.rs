//! Where fields lie in the running kernel's own structures, for the programs on security hooks.
//!
//! They differ between kernels; the daemon reads them from the kernel's type information (BTF) and gives them to the object before
//! it loads it. INVARIANT: one daemon's object gets one kernel's offsets; nothing is guessed.

/// Bytes from the start of the structure that each name begins with; one bit has a mask beside them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    /// `struct socket`: the inner socket.
    pub socket_sk: u32,
    /// `struct sock`: address family.
    pub sock_family: u32,
    /// `struct sock`: the cgroup it was made in.
    pub sock_cgroup: u32,
    /// `struct sock`: the byte that tells whether the kernel made it for itself.
    pub sock_kernel: u32,
    /// The bit of that byte.
    pub sock_kernel_mask: u32,
    /// `struct sock`: how memory is allocated for it.
    pub sock_allocation: u32,
    /// `struct cgroup`: depth below the root.
    pub cgroup_level: u32,
    /// `struct cgroup`: its ancestors, from the root to itself (6.1).
    pub cgroup_ancestors: u32,
    /// `struct cgroup`: its node in the file system.
    pub cgroup_node: u32,
    /// `struct kernfs_node`: its id, which is the cgroup's.
    pub node_id: u32,
    /// `struct task_struct`: its set of cgroups.
    pub task_cgroups: u32,
    /// `struct css_set`: the cgroup2 one.
    pub css_set_cgroup: u32,
    /// `struct file`: its inode.
    pub file_inode: u32,
    /// `struct file`: what is behind it.
    pub file_data: u32,
    /// `struct inode`: what kind of file it is.
    pub inode_mode: u32,
    /// `struct unix_sock`: what it is bound to.
    pub unix_address: u32,
    /// `struct unix_address`: first byte of the path; zero for an abstract name.
    pub unix_path: u32,
}

impl Offsets {
    /// Before they are known.
    pub const UNKNOWN: Self = Self {
        socket_sk: 0,
        sock_family: 0,
        sock_cgroup: 0,
        sock_kernel: 0,
        sock_kernel_mask: 0,
        sock_allocation: 0,
        cgroup_level: 0,
        cgroup_ancestors: 0,
        cgroup_node: 0,
        node_id: 0,
        task_cgroups: 0,
        css_set_cgroup: 0,
        file_inode: 0,
        file_data: 0,
        inode_mode: 0,
        unix_address: 0,
        unix_path: 0,
    };
}

const _: () = assert!(size_of::<Offsets>() == 68);

/// A command of `bpf(2)` that there is none of: what comes of it shows whether the kernel asks the programs. It takes programs for
/// security hooks also where it asks none of them, which is decided when it is booted.
pub const PROBE_COMMAND: i32 = 0x4348;
/// What the programs answer to that: `EBADE`, which that call never gives.
pub const PROBE_ANSWER: i32 = -52;

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "marker for aya's maps")]
// SAFETY: `repr(C)`, no padding (size asserted above), every bit pattern is a value.
// JUSTIFICATION: aya puts only types with this marker into an object.
unsafe impl aya::Pod for Offsets {}
