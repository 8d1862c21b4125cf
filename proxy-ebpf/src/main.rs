//! Entry points of the kernel programs: each unpacks its context, calls one function, returns its verdict.
//!
//! Attached to the agents' parent cgroup: everything but `accepted`, which belongs on the daemon's own cgroup, and the
//! `sentinel` programs, which belong on the root of the tree.
//! Minimum kernel 5.15; those for unix sockets 6.7, and attached only where a kernel takes them. Every path that is not an
//! explicit allow ends in a denial.
//!
//! Verdicts: 1 allows, 0 denies with EPERM (packets: drops). `getpeername`, `recvmsg` and `sock_ops` must return 1.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic addition, see `maps`; rare paths, see `denial`")]

mod account;
mod context;
mod denial;
mod guard;
mod inbound;
mod listeners;
mod local;
mod maps;
mod names;
mod redirect;
mod sentinel;
mod sighting;
mod stamping;
mod unreachable;

use aya_ebpf::macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, sock_ops};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext, SockOpsContext, SockoptContext};

use crate::context::{Address, Operation, Packet, SockOption, Socket};

#[cgroup_sock(sock_create)]
pub fn agent_create(ctx: SockContext) -> i32 {
    guard::socket_kind(&Socket(ctx.sock))
}

#[cgroup_sock(post_bind4)]
pub fn agent_bind4(ctx: SockContext) -> i32 {
    guard::bound_port(&Socket(ctx.sock))
}

#[cgroup_sock(post_bind6)]
pub fn agent_bind6(ctx: SockContext) -> i32 {
    guard::bound_port(&Socket(ctx.sock))
}

#[cgroup_sock_addr(connect4)]
pub fn agent_connect4(ctx: SockAddrContext) -> i32 {
    names::connect4(&Address(ctx.sock_addr))
}

#[cgroup_sock_addr(connect6)]
pub fn agent_connect6(ctx: SockAddrContext) -> i32 {
    names::connect6(&Address(ctx.sock_addr))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn agent_sendmsg4(ctx: SockAddrContext) -> i32 {
    names::datagram4(&Address(ctx.sock_addr))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn agent_sendmsg6(ctx: SockAddrContext) -> i32 {
    names::datagram6(&Address(ctx.sock_addr))
}

#[cgroup_sock_addr(recvmsg4)]
pub fn agent_recvmsg4(ctx: SockAddrContext) -> i32 {
    names::sender4(&Address(ctx.sock_addr));
    1
}

#[cgroup_sock_addr(recvmsg6)]
pub fn agent_recvmsg6(ctx: SockAddrContext) -> i32 {
    names::sender6(&Address(ctx.sock_addr));
    1
}

#[cgroup_sock_addr(getpeername4)]
pub fn agent_peer4(ctx: SockAddrContext) -> i32 {
    names::peer4(&Address(ctx.sock_addr));
    1
}

#[cgroup_sock_addr(getpeername6)]
pub fn agent_peer6(ctx: SockAddrContext) -> i32 {
    names::peer6(&Address(ctx.sock_addr));
    1
}

#[sock_ops]
pub fn agent_flow(ctx: SockOpsContext) -> u32 {
    redirect::agent_flow(&Operation(ctx.ops));
    1
}

#[sock_ops]
pub fn accepted(ctx: SockOpsContext) -> u32 {
    redirect::accepted(&Operation(ctx.ops));
    1
}

#[cgroup_skb(egress)]
pub fn agent_egress(ctx: SkBuffContext) -> i32 {
    guard::packet(&Packet(ctx.skb.skb))
}

#[cgroup_sockopt(setsockopt)]
pub fn agent_option(ctx: SockoptContext) -> i32 {
    guard::option(&SockOption(ctx.sockopt))
}

#[cgroup_sock_addr(connect4)]
pub fn sentinel_conn4(ctx: SockAddrContext) -> i32 {
    sentinel::address4(&Address(ctx.sock_addr))
}

#[cgroup_sock_addr(connect6)]
pub fn sentinel_conn6(ctx: SockAddrContext) -> i32 {
    sentinel::address6(&Address(ctx.sock_addr))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sentinel_send4(ctx: SockAddrContext) -> i32 {
    sentinel::address4(&Address(ctx.sock_addr))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sentinel_send6(ctx: SockAddrContext) -> i32 {
    sentinel::address6(&Address(ctx.sock_addr))
}

#[cgroup_skb(ingress)]
pub fn agent_ingress(ctx: SkBuffContext) -> i32 {
    inbound::packet(&Packet(ctx.skb.skb))
}

// The next four are for unix sockets. The library that loads the others knows no such hook, and would refuse an object that
// names one: they stand in the section of a hook with the same context, and are loaded for the right one by number.
#[cgroup_sock_addr(connect4)]
pub fn agent_unixconn(ctx: SockAddrContext) -> i32 {
    local::by_name(&Address(ctx.sock_addr))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn agent_unixsend(ctx: SockAddrContext) -> i32 {
    local::by_name(&Address(ctx.sock_addr))
}

#[cgroup_sock_addr(connect4)]
pub fn sentinel_uconn(ctx: SockAddrContext) -> i32 {
    sentinel::local(&Address(ctx.sock_addr))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sentinel_usend(ctx: SockAddrContext) -> i32 {
    sentinel::local(&Address(ctx.sock_addr))
}

/// None of the helpers used here is reserved for GPL programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
