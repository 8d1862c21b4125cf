//! An agent's own servers: its processes may talk to each other over loopback, past the proxy and to nobody else.
//!
//! Two questions, asked of the kernel's own socket tables, never of a table of ours that could be behind them. At `connect`: is
//! the socket that would answer on that address and port one that a process of this account bound? If not, the connection is
//! captured like any other. At every packet: was the socket that will receive it made in the account of the one that sends it?
//! So it does not matter who listens there by now, or whom the kernel picks among several with `SO_REUSEPORT`.
//! INVARIANT: bytes pass only between two sockets of one account, both ends on loopback; before the kernel can say which socket
//! receives, a packet carries none. A packet that nobody will receive may leave: the answer to it tells its sender so.
//! Known limits: a server must have called `bind`; `connect` to 0.0.0.0 or :: is captured. What one process hands to another
//! outside the account through a unix socket, a connected socket included, is out of sight, as all of that is.

use core::ffi::c_void;
use core::mem::{size_of, zeroed};

use aya_ebpf::bindings::bpf_sock_tuple;
use proxy_common::event::Reason;
use proxy_common::flow::{BOUND, LOCAL, LOOPBACK6, Stamp, is_mapped};

use crate::account::{self, Standing};
use crate::context::{Address, Met, Packet, Socket, look_up};
use crate::denial::{self, ALLOW};
use crate::maps;

const IPPROTO_TCP: u8 = 6;
const LOOPBACK_DEVICE: u32 = 1;
const TCP_TIME_WAIT: u32 = 6;
const TCP_LISTEN: u32 = 10;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// IPv4 header without options, then TCP's up to its flags.
const HEAD4: usize = 34;
/// IPv6 header, then TCP's up to its flags.
const HEAD6: usize = 54;

/// Notes whose server a socket may become.
#[inline(always)]
pub fn bound(ctx: &Socket) {
    if ctx.protocol() != u32::from(IPPROTO_TCP) {
        return;
    }
    let account = account::of_caller().account();
    if account == 0 {
        return;
    }
    let stamp = Stamp { account, kind: BOUND, ..Stamp::NONE };
    // Without room for it the server is not known as the agent's own: its connections are captured.
    let _noted = maps::put_stamp(ctx.0, &stamp);
}

/// Whether a connection goes to a server of the caller's own account.
#[inline(always)]
pub fn is_own(ctx: &Address, address: [u32; 4], port: u16, account: u64) -> bool {
    if account == 0 {
        return false;
    }
    let [_, _, _, last] = address;
    // SAFETY: plain numbers; zero is a value of each.
    let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
    let size = if is_mapped(address) && u32::from_be(last) >> 24 == 127 {
        // The sender is nobody yet: only a listener can be found.
        tuple.__bindgen_anon_1.ipv4.daddr = last;
        tuple.__bindgen_anon_1.ipv4.dport = port.to_be();
        size4()
    } else if address == LOOPBACK6 {
        tuple.__bindgen_anon_1.ipv6.daddr = address;
        tuple.__bindgen_anon_1.ipv6.dport = port.to_be();
        size6()
    } else {
        return false;
    };
    maps::listener_of(ctx, &mut tuple, size).is_some_and(|owner| owner == account)
}

/// A packet of a socket that does not go to the proxy.
#[inline(always)]
pub fn packet(ctx: &Packet, mark: Option<&Stamp>) -> i32 {
    match judge(ctx, mark) {
        Ok(()) => ALLOW,
        Err(reason) => denial::packet(ctx, reason),
    }
}

#[inline(always)]
fn judge(ctx: &Packet, mark: Option<&Stamp>) -> Result<(), Reason> {
    if ctx.device() != LOOPBACK_DEVICE {
        return Err(Reason::PacketUnstamped);
    }
    let parent = maps::parent();
    let account = ctx.ancestor(parent.level + 1);
    if account == 0 {
        return Err(Reason::PacketUnstamped);
    }
    let Some(head) = Head::read(ctx) else { return Err(Reason::PacketUnstamped) };
    if let Standing::Quarantined(_) = account::of_packet(ctx, account) {
        return Err(Reason::Quarantined);
    }
    let mut tuple = head.tuple;
    let starts = head.flags & (SYN | ACK) == SYN;
    if starts && (head.payload || !is_local(mark, account, head.port)) {
        return Err(Reason::PacketUnstamped);
    }
    let mut receiver = look_up(ctx, &mut tuple, head.size, parent.level + 1);
    if starts && receiver.state == TCP_TIME_WAIT {
        // An old connection of these ends makes way for a new one, whose listener the kernel will look for.
        tuple = head.tuple;
        forget_sender(&mut tuple, head.size);
        receiver = look_up(ctx, &mut tuple, head.size, parent.level + 1);
    }
    let passes = match receiver {
        // Nobody, or what is left of a connection: no process gets to see it.
        Met { state: 0 | TCP_TIME_WAIT, .. } => !starts,
        // A listener takes no data; which one of several gets this is not certain.
        Met { state: TCP_LISTEN, account: owner } => owner == account && !head.payload,
        Met { account: owner, .. } => owner == account,
    };
    if passes { Ok(()) } else { Err(Reason::PacketForeign) }
}

/// Whether a socket was let through to a server of its own account on this port.
#[inline(always)]
fn is_local(mark: Option<&Stamp>, account: u64, port: u16) -> bool {
    mark.is_some_and(|stamp| stamp.kind == LOCAL && stamp.account == account && stamp.port == port)
}

/// What a packet says of itself.
struct Head {
    tuple: bpf_sock_tuple,
    size: u32,
    port: u16,
    flags: u8,
    payload: bool,
}

impl Head {
    /// Plain TCP from loopback to loopback, nothing else.
    #[inline(always)]
    fn read(ctx: &Packet) -> Option<Self> {
        let first = ctx.bytes::<1>()?;
        match first[0] >> 4 {
            4 => Self::read4(&ctx.bytes::<HEAD4>()?),
            6 => Self::read6(&ctx.bytes::<HEAD6>()?),
            _ => None,
        }
    }

    #[inline(always)]
    fn read4(head: &[u8; HEAD4]) -> Option<Self> {
        if head[0] != 0x45 || head[9] != IPPROTO_TCP || head[12] != 127 || head[16] != 127 {
            return None;
        }
        // SAFETY: plain numbers; zero is a value of each.
        let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
        tuple.__bindgen_anon_1.ipv4.saddr = u32::from_ne_bytes([head[12], head[13], head[14], head[15]]);
        tuple.__bindgen_anon_1.ipv4.daddr = u32::from_ne_bytes([head[16], head[17], head[18], head[19]]);
        tuple.__bindgen_anon_1.ipv4.sport = u16::from_ne_bytes([head[20], head[21]]);
        tuple.__bindgen_anon_1.ipv4.dport = u16::from_ne_bytes([head[22], head[23]]);
        let length = u16::from_be_bytes([head[2], head[3]]);
        let headers = 20 + u16::from(head[32] >> 4) * 4;
        let port = u16::from_be_bytes([head[22], head[23]]);
        Some(Self { tuple, size: size4(), port, flags: head[33], payload: length != headers })
    }

    #[inline(always)]
    fn read6(head: &[u8; HEAD6]) -> Option<Self> {
        let words = |at: usize| -> [u32; 4] {
            let word = |from: usize| {
                u32::from_ne_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]])
            };
            [word(at), word(at + 4), word(at + 8), word(at + 12)]
        };
        let (source, destination) = (words(8), words(24));
        if head[6] != IPPROTO_TCP || source != LOOPBACK6 || destination != LOOPBACK6 {
            return None;
        }
        // SAFETY: plain numbers; zero is a value of each.
        let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
        tuple.__bindgen_anon_1.ipv6.saddr = source;
        tuple.__bindgen_anon_1.ipv6.daddr = destination;
        tuple.__bindgen_anon_1.ipv6.sport = u16::from_ne_bytes([head[40], head[41]]);
        tuple.__bindgen_anon_1.ipv6.dport = u16::from_ne_bytes([head[42], head[43]]);
        let length = u16::from_be_bytes([head[4], head[5]]);
        let headers = u16::from(head[52] >> 4) * 4;
        let port = u16::from_be_bytes([head[42], head[43]]);
        Some(Self { tuple, size: size6(), port, flags: head[53], payload: length != headers })
    }
}

/// Leaves only a listener to be found.
#[inline(always)]
fn forget_sender(tuple: &mut bpf_sock_tuple, size: u32) {
    if size == size4() {
        tuple.__bindgen_anon_1.ipv4.sport = 0;
    } else {
        tuple.__bindgen_anon_1.ipv6.sport = 0;
    }
}

#[inline(always)]
fn size4() -> u32 {
    // Two addresses and two ports.
    12
}

#[inline(always)]
fn size6() -> u32 {
    size_of::<bpf_sock_tuple>() as u32
}

const _: () = assert!(size_of::<bpf_sock_tuple>() == 36 && size_of::<*mut c_void>() == 8);
