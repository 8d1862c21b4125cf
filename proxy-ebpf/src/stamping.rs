//! What is asked of every socket that is sent to the daemon, and the stamp it gets, whether it connects or asks a resolver.
//!
//! INVARIANT: the address is rewritten only after this said yes; a socket that could leave by a device or from a foreign address, whose process is
//! quarantined, or for whose stamp the kernel has no room goes nowhere.

use aya_ebpf::bindings::bpf_sock;
use proxy_common::event::Reason;
use proxy_common::flow::{LOOPBACK6, Stamp, is_mapped};

use crate::account::{self, Standing};
use crate::context::{Address, Caller, boot_ns, bound_device, bound_source6};
use crate::maps;

/// A socket that may be sent somewhere, and whose.
pub struct Asker {
    pub socket: *mut bpf_sock,
    pub account: u64,
}

impl Asker {
    /// Of a socket that wants to reach `address`.
    #[inline(always)]
    pub fn of(ctx: &Address, address: [u32; 4]) -> Result<Self, Reason> {
        let socket = ctx.socket();
        if socket.is_null() {
            return Err(Reason::StampFailed);
        }
        // A socket bound to a device would put the rewritten address on that device's wire.
        if bound_device(socket) != 0 {
            return Err(Reason::DeviceBound);
        }
        // The packet guard would drop what comes from an IPv6 address of the agent's choice; this says so at once.
        if !is_mapped(address) && !matches!(bound_source6(socket), [0, 0, 0, 0] | LOOPBACK6) {
            return Err(Reason::DeviceBound);
        }
        match account::of_caller() {
            Standing::Quarantined(_) => Err(Reason::Quarantined),
            Standing::Free(account) => Ok(Self { socket, account }),
        }
    }

    /// Notes who sends the socket to the daemon, and where it asked to go.
    #[inline(always)]
    pub fn stamped(&self, ctx: &Address, asked: Asked) -> Result<(), Reason> {
        let Asked { address, port, netns_cookie, proxy_port, kind } = asked;
        let caller = Caller::now();
        let stamp = Stamp {
            address,
            netns_cookie,
            socket_cookie: ctx.socket_cookie(),
            cgroup_id: caller.cgroup_id,
            account: self.account,
            connected_ns: boot_ns(),
            pid: caller.pid,
            uid: caller.uid,
            port,
            proxy_port,
            kind,
        };
        if maps::put_stamp(self.socket, &stamp) { Ok(()) } else { Err(Reason::StampFailed) }
    }
}

/// What a socket asked for, and what it gets.
pub struct Asked {
    pub address: [u32; 4],
    pub port: u16,
    pub netns_cookie: u64,
    pub proxy_port: u16,
    pub kind: u32,
}
