//! Programs on the kernel's security hooks: what an agent does where no cgroup hook looks.
//!
//! They run for every process of the machine and pass whoever is no agent after one comparison. An agent may make sockets of
//! four families, use sockets that its own account made, reach unix sockets as the operator says, and neither look into
//! processes outside nor signal them nor manage kernel programs. Minimum kernel 6.1 with `bpf` among its security modules; optional.
//! INVARIANT: these only ever refuse; whatever cannot be read of the kernel's structures counts as an outsider's.
//! Known limits: a file of another kind than a socket may be handed in (a tunnel device, a ring of `io_uring`); a socket that was
//! inherited can be spliced from, and before 6.5 to; a move to another cgroup has no hook. Before 6.1.54 a kernel with full preemption
//! may skip a program for a thread that interrupts another one in it.
//!
//! Verdicts: 0 allows, a negative error number denies.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic addition, see `maps`")]

mod agent;
mod kernel;
mod local;
mod maps;
mod rules;

use core::ffi::c_void;

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;

#[lsm(hook = "socket_create")]
pub fn secure_family(ctx: LsmContext) -> i32 {
    let (family, by_kernel): (u32, i32) = (ctx.arg(0), ctx.arg(3));
    if by_kernel != 0 { rules::ALLOW } else { rules::family(family) }
}

#[lsm(hook = "socket_bind")]
pub fn secure_bind(ctx: LsmContext) -> i32 {
    used(&ctx)
}

#[lsm(hook = "socket_connect")]
pub fn secure_connect(ctx: LsmContext) -> i32 {
    used(&ctx)
}

#[lsm(hook = "socket_listen")]
pub fn secure_listen(ctx: LsmContext) -> i32 {
    used(&ctx)
}

#[lsm(hook = "socket_accept")]
pub fn secure_accept(ctx: LsmContext) -> i32 {
    used(&ctx)
}

#[lsm(hook = "socket_sendmsg")]
pub fn secure_send(ctx: LsmContext) -> i32 {
    used(&ctx)
}

#[lsm(hook = "socket_recvmsg")]
pub fn secure_hear(ctx: LsmContext) -> i32 {
    used(&ctx)
}

#[lsm(hook = "socket_setsockopt")]
pub fn secure_option(ctx: LsmContext) -> i32 {
    used(&ctx)
}

#[lsm(hook = "socket_getsockopt")]
pub fn secure_ask(ctx: LsmContext) -> i32 {
    used(&ctx)
}

/// All these hooks have the socket first.
#[inline(always)]
fn used(ctx: &LsmContext) -> i32 {
    let socket: *const c_void = ctx.arg(0);
    rules::socket(socket as u64)
}

#[lsm(hook = "file_receive")]
pub fn secure_file(ctx: LsmContext) -> i32 {
    let file: *const c_void = ctx.arg(0);
    rules::file(file as u64)
}

#[lsm(hook = "unix_stream_connect")]
pub fn secure_stream(ctx: LsmContext) -> i32 {
    let other: *const c_void = ctx.arg(1);
    local::peer(other as u64)
}

#[lsm(hook = "unix_may_send")]
pub fn secure_dgram(ctx: LsmContext) -> i32 {
    let other: *const c_void = ctx.arg(1);
    local::peer(kernel::sock(other as u64))
}

#[lsm(hook = "ptrace_access_check")]
pub fn secure_trace(ctx: LsmContext) -> i32 {
    let (task, mode): (*const c_void, u32) = (ctx.arg(0), ctx.arg(1));
    rules::process(task as u64, mode)
}

#[lsm(hook = "bpf")]
pub fn secure_bpf(ctx: LsmContext) -> i32 {
    let request: *const c_void = ctx.arg(1);
    rules::programs(ctx.arg(0), request as u64)
}

#[lsm(hook = "bpf_map")]
pub fn secure_table(_ctx: LsmContext) -> i32 {
    rules::table()
}

#[lsm(hook = "task_kill")]
pub fn secure_kill(ctx: LsmContext) -> i32 {
    let (task, signal): (*const c_void, i32) = (ctx.arg(0), ctx.arg(2));
    rules::signal(task as u64, signal)
}

/// "LSM programs must have a GPL compatible license", says the kernel, and the helper that reads its structures wants one too.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
