//! All raw reads and writes of kernel contexts, and the helpers that take one. Nothing here decides anything.
//!
//! INVARIANT: every context field is touched by itself through a volatile access of its own width; the compiler
//! would otherwise merge neighbours into a wider access, which the verifier refuses.
//! Pointers come from the kernel as program arguments and are valid for the whole run of the program.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut, null_mut, read_volatile, write_volatile};

use aya_ebpf::bindings::{__sk_buff, bpf_sock, bpf_sock_addr, bpf_sock_ops, bpf_sock_tuple, bpf_sockopt};
use aya_ebpf::helpers::generated as helpers;

/// Reads one field of a context.
macro_rules! field {
    ($pointer:expr, $($field:tt)+) => {
        unsafe { read_volatile(addr_of!((*$pointer).$($field)+)) }
    };
}

/// Writes one field of a context.
macro_rules! set {
    ($pointer:expr, $value:expr, $($field:tt)+) => {
        unsafe { write_volatile(addr_of_mut!((*$pointer).$($field)+), $value) }
    };
}

/// The cgroup of the running process's ancestor at this depth; 0 if it is not that deep.
#[inline(always)]
pub fn current_ancestor(level: u32) -> u64 {
    unsafe { helpers::bpf_get_current_ancestor_cgroup_id(level as i32) }
}

/// The process that runs now.
pub struct Caller {
    pub cgroup_id: u64,
    pub pid: u32,
    pub uid: u32,
}

impl Caller {
    /// Only for programs that run in the caller's context.
    #[inline(always)]
    pub fn now() -> Self {
        let pid_tgid = unsafe { helpers::bpf_get_current_pid_tgid() };
        let uid_gid = unsafe { helpers::bpf_get_current_uid_gid() };
        let cgroup_id = unsafe { helpers::bpf_get_current_cgroup_id() };
        Self { cgroup_id, pid: (pid_tgid >> 32) as u32, uid: uid_gid as u32 }
    }

    /// For socket options: the process id is not to be had there on every supported kernel.
    #[inline(always)]
    pub fn without_pid() -> Self {
        let uid_gid = unsafe { helpers::bpf_get_current_uid_gid() };
        let cgroup_id = unsafe { helpers::bpf_get_current_cgroup_id() };
        Self { cgroup_id, pid: 0, uid: uid_gid as u32 }
    }
}

/// Process (thread group) and thread that run now.
#[inline(always)]
pub fn caller_thread() -> (u32, u32) {
    let pid_tgid = unsafe { helpers::bpf_get_current_pid_tgid() };
    ((pid_tgid >> 32) as u32, pid_tgid as u32)
}

/// Nanoseconds since boot, sleep included.
#[inline(always)]
pub fn boot_ns() -> u64 {
    unsafe { helpers::bpf_ktime_get_boot_ns() }
}

/// `connect`, `sendmsg`, `getpeername`.
pub struct Address(pub *mut bpf_sock_addr);

impl Address {
    #[inline(always)]
    pub fn protocol(&self) -> u32 {
        field!(self.0, protocol)
    }

    #[inline(always)]
    pub fn family(&self) -> u32 {
        field!(self.0, family)
    }

    #[inline(always)]
    pub fn port(&self) -> u16 {
        u16::from_be(field!(self.0, user_port) as u16)
    }

    #[inline(always)]
    pub fn set_port(&self, port: u16) {
        set!(self.0, u32::from(port.to_be()), user_port);
    }

    #[inline(always)]
    pub fn ip4(&self) -> u32 {
        field!(self.0, user_ip4)
    }

    #[inline(always)]
    pub fn set_ip4(&self, word: u32) {
        set!(self.0, word, user_ip4);
    }

    #[inline(always)]
    pub fn ip6(&self) -> [u32; 4] {
        let a = field!(self.0, user_ip6[0]);
        let b = field!(self.0, user_ip6[1]);
        let c = field!(self.0, user_ip6[2]);
        let d = field!(self.0, user_ip6[3]);
        [a, b, c, d]
    }

    #[inline(always)]
    pub fn set_ip6(&self, words: [u32; 4]) {
        let [a, b, c, d] = words;
        set!(self.0, a, user_ip6[0]);
        set!(self.0, b, user_ip6[1]);
        set!(self.0, c, user_ip6[2]);
        set!(self.0, d, user_ip6[3]);
    }

    #[inline(always)]
    pub fn socket(&self) -> *mut bpf_sock {
        field!(self.0, __bindgen_anon_1.sk)
    }

    #[inline(always)]
    pub fn netns_cookie(&self) -> u64 {
        unsafe { helpers::bpf_get_netns_cookie(self.0.cast()) }
    }

    #[inline(always)]
    pub fn socket_cookie(&self) -> u64 {
        unsafe { helpers::bpf_get_socket_cookie(self.0.cast()) }
    }

    /// The socket at these ends, to be given back with [`release`]; null if there is none.
    #[inline(always)]
    pub fn look_up(&self, tuple: &mut bpf_sock_tuple, size: u32) -> *mut bpf_sock {
        unsafe { helpers::bpf_sk_lookup_tcp(self.0.cast(), tuple, size, CURRENT_NETNS, 0) }
    }
}

/// "The network namespace at hand" for look-ups of sockets.
const CURRENT_NETNS: u64 = u64::MAX;

/// A socket that was looked up.
pub struct Met {
    /// Its TCP state; 0 if there is none.
    pub state: u32,
    /// The ancestor, at the depth asked for, of the cgroup it was made in; of a connection that is being made, its listener's.
    pub account: u64,
}

/// The socket that receives what is sent between these ends.
#[inline(always)]
pub fn look_up(ctx: &Packet, tuple: &mut bpf_sock_tuple, size: u32, level: u32) -> Met {
    let socket = unsafe { helpers::bpf_skc_lookup_tcp(ctx.0.cast(), tuple, size, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return Met { state: 0, account: 0 };
    }
    let state = field!(socket, state);
    let account = unsafe { helpers::bpf_sk_ancestor_cgroup_id(socket.cast(), level as i32) };
    release(socket);
    Met { state, account }
}

/// Gives back a socket that was looked up.
#[inline(always)]
pub fn release(socket: *mut bpf_sock) {
    let _always_works = unsafe { helpers::bpf_sk_release(socket.cast()) };
}

/// Device the socket is bound to; 0 for none. `socket` must not be null.
#[inline(always)]
pub fn bound_device(socket: *mut bpf_sock) -> u32 {
    field!(socket, bound_dev_if)
}

/// The IPv6 address the socket is bound to; zero for none. `socket` must not be null.
#[inline(always)]
pub fn bound_source6(socket: *mut bpf_sock) -> [u32; 4] {
    let a = field!(socket, src_ip6[0]);
    let b = field!(socket, src_ip6[1]);
    let c = field!(socket, src_ip6[2]);
    let d = field!(socket, src_ip6[3]);
    [a, b, c, d]
}

/// `sock_create` and `post_bind`.
pub struct Socket(pub *mut bpf_sock);

impl Socket {
    #[inline(always)]
    pub fn family(&self) -> u32 {
        field!(self.0, family)
    }

    #[inline(always)]
    pub fn kind(&self) -> u32 {
        field!(self.0, type_)
    }

    #[inline(always)]
    pub fn protocol(&self) -> u32 {
        field!(self.0, protocol)
    }

    /// The port just bound, host order. Only in `post_bind`.
    #[inline(always)]
    pub fn port(&self) -> u32 {
        field!(self.0, src_port)
    }

    #[inline(always)]
    pub fn netns_cookie(&self) -> u64 {
        unsafe { helpers::bpf_get_netns_cookie(self.0.cast()) }
    }
}

/// `sock_ops`.
pub struct Operation(pub *mut bpf_sock_ops);

impl Operation {
    #[inline(always)]
    pub fn code(&self) -> u32 {
        field!(self.0, op)
    }

    /// New TCP state, in a state callback.
    #[inline(always)]
    pub fn state(&self) -> u32 {
        field!(self.0, __bindgen_anon_1.args[1])
    }

    #[inline(always)]
    pub fn family(&self) -> u32 {
        field!(self.0, family)
    }

    #[inline(always)]
    pub fn local_ip4(&self) -> u32 {
        field!(self.0, local_ip4)
    }

    #[inline(always)]
    pub fn remote_ip4(&self) -> u32 {
        field!(self.0, remote_ip4)
    }

    #[inline(always)]
    pub fn local_ip6(&self) -> [u32; 4] {
        let a = field!(self.0, local_ip6[0]);
        let b = field!(self.0, local_ip6[1]);
        let c = field!(self.0, local_ip6[2]);
        let d = field!(self.0, local_ip6[3]);
        [a, b, c, d]
    }

    #[inline(always)]
    pub fn remote_ip6(&self) -> [u32; 4] {
        let a = field!(self.0, remote_ip6[0]);
        let b = field!(self.0, remote_ip6[1]);
        let c = field!(self.0, remote_ip6[2]);
        let d = field!(self.0, remote_ip6[3]);
        [a, b, c, d]
    }

    /// The kernel gives this one in host order.
    #[inline(always)]
    pub fn local_port(&self) -> u16 {
        field!(self.0, local_port) as u16
    }

    /// The kernel gives this one in network order, in the upper half.
    #[inline(always)]
    pub fn remote_port(&self) -> u16 {
        u32::from_be(field!(self.0, remote_port)) as u16
    }

    #[inline(always)]
    pub fn socket(&self) -> *mut bpf_sock {
        field!(self.0, __bindgen_anon_2.sk)
    }

    #[inline(always)]
    pub fn netns_cookie(&self) -> u64 {
        unsafe { helpers::bpf_get_netns_cookie(self.0.cast()) }
    }

    #[inline(always)]
    pub fn socket_cookie(&self) -> u64 {
        unsafe { helpers::bpf_get_socket_cookie(self.0.cast()) }
    }

    /// Asks for a callback at every change of state; whether the kernel will call.
    #[inline(always)]
    pub fn watch_state(&self, flag: u32) -> bool {
        unsafe { helpers::bpf_sock_ops_cb_flags_set(self.0, flag as i32) == 0 }
    }
}

/// `cgroup_skb`.
pub struct Packet(pub *mut __sk_buff);

impl Packet {
    /// The full socket of the packet; null if there is none.
    #[inline(always)]
    pub fn socket(&self) -> *mut bpf_sock {
        let socket: *mut bpf_sock = field!(self.0, __bindgen_anon_2.sk);
        if socket.is_null() {
            return null_mut();
        }
        unsafe { helpers::bpf_sk_fullsock(socket) }
    }

    #[inline(always)]
    pub fn device(&self) -> u32 {
        field!(self.0, ifindex)
    }

    /// Writes the packet's mark.
    #[inline(always)]
    pub fn seal(&self, mark: u32) {
        set!(self.0, mark, mark);
    }

    #[inline(always)]
    pub fn cgroup_id(&self) -> u64 {
        unsafe { helpers::bpf_skb_cgroup_id(self.0) }
    }

    /// The ancestor at this depth of the cgroup the socket was made in; 0 if it is not that deep.
    #[inline(always)]
    pub fn ancestor(&self, level: u32) -> u64 {
        unsafe { helpers::bpf_skb_ancestor_cgroup_id(self.0, level as i32) }
    }

    /// `N` bytes from the start of the network header.
    #[inline(always)]
    pub fn bytes<const N: usize>(&self) -> Option<[u8; N]> {
        let mut buffer = [0_u8; N];
        let target: *mut c_void = buffer.as_mut_ptr().cast();
        let failed = unsafe { helpers::bpf_skb_load_bytes(self.0.cast(), 0, target, N as u32) };
        (failed == 0).then_some(buffer)
    }
}

/// `setsockopt`.
pub struct SockOption(pub *mut bpf_sockopt);

impl SockOption {
    #[inline(always)]
    pub fn level(&self) -> i32 {
        field!(self.0, level)
    }

    #[inline(always)]
    pub fn name(&self) -> i32 {
        field!(self.0, optname)
    }

    #[inline(always)]
    pub fn length(&self) -> i32 {
        field!(self.0, optlen)
    }

    /// Tells the kernel to take the caller's own bytes.
    #[inline(always)]
    pub fn keep_original(&self) {
        set!(self.0, 0, optlen);
    }
}
