//! What an agent may not: other families, sockets of others, other people's processes, kernel programs.
//!
//! INVARIANT: every function passes an outsider and refuses an agent whatever it cannot tell to be that agent's own; but for the
//! kernel's sockets, see `kernel`, and unix ones, which `local` judges when they reach somebody.

use proxy_common::event::{DenyEvent, Reason};
use proxy_common::offsets::{PROBE_ANSWER, PROBE_COMMAND};

use crate::agent::{Agent, boot_ns, caller};
use crate::local;
use crate::{kernel, maps};

pub const ALLOW: i32 = 0;
const EPERM: i32 = -1;
const EAFNOSUPPORT: i32 = -97;
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
/// Calls that open and ask, and change nothing (`enum bpf_cmd`).
const BPF_OBJ_GET: i32 = 7;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_PROG_QUERY: i32 = 16;
/// Calls that put programs somewhere, and where their requests (`union bpf_attr`) say what kind they are.
const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_LINK_CREATE: i32 = 28;
const PROG_TYPE: u32 = 0;
const ATTACH_TYPE: u32 = 8;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE_HOOK: u32 = 6;
/// `PTRACE_MODE_ATTACH`: more than a look.
const ATTACH: u32 = 2;

/// A socket is made.
#[inline(always)]
pub fn family(family: u32) -> i32 {
    if is_known(family) {
        return ALLOW;
    }
    let Some(agent) = Agent::now() else { return ALLOW };
    refuse(&agent, Reason::SocketKind, family);
    EAFNOSUPPORT
}

/// A socket is used.
#[inline(always)]
pub fn socket(socket: u64) -> i32 {
    let Some(agent) = Agent::now() else { return ALLOW };
    let sock = kernel::sock(socket);
    // Whom a unix socket reaches is looked at when it does.
    if sock != 0 && kernel::family(sock) == AF_UNIX {
        return if agent.is_quarantined() { quarantined(&agent) } else { ALLOW };
    }
    judge(&agent, sock)
}

/// A unix socket of an agent that is stopped is used, whoever is at its other end. The others are dropped as packets.
#[inline(always)]
pub fn quarantined(agent: &Agent) -> i32 {
    refuse(agent, Reason::Quarantined, AF_UNIX);
    EPERM
}

/// A socket that is none of the unix ones. One of another family may have been made before these programs were there.
#[inline(always)]
fn judge(agent: &Agent, sock: u64) -> i32 {
    let family = kernel::family(sock);
    let own = is_known(family) && kernel::maker(sock, &agent.parent) == Some(agent.account);
    if own || sock != 0 && kernel::is_kernels(sock) {
        return ALLOW;
    }
    refuse(agent, Reason::SocketForeign, family);
    EPERM
}

#[inline(always)]
fn is_known(family: u32) -> bool {
    matches!(family, AF_UNIX | AF_INET | AF_INET6 | AF_NETLINK)
}

/// A file arrives from another process.
#[inline(always)]
pub fn file(file: u64) -> i32 {
    let Some(agent) = Agent::now() else { return ALLOW };
    if !kernel::is_socket(file) {
        return ALLOW;
    }
    let sock = kernel::sock(kernel::socket_of(file));
    if sock != 0 && kernel::family(sock) == AF_UNIX {
        let own = kernel::maker(sock, &agent.parent) == Some(agent.account);
        return if own { ALLOW } else { local::handed(&agent) };
    }
    judge(&agent, sock)
}

/// A process is looked into, or taken hold of.
#[inline(always)]
pub fn process(task: u64, mode: u32) -> i32 {
    let Some(agent) = Agent::now() else { return ALLOW };
    if kernel::account_of_task(task, &agent.parent) == Some(agent.account) {
        return ALLOW;
    }
    // A list of processes looks at each: that is refused and not told.
    if mode & ATTACH != 0 {
        refuse(&agent, Reason::Process, 0);
    }
    EPERM
}

/// A process is sent a signal. Asking whether it is there, by no signal, is free.
#[inline(always)]
pub fn signal(task: u64, signal: i32) -> i32 {
    if signal == 0 {
        return ALLOW;
    }
    let Some(agent) = Agent::now() else { return ALLOW };
    if kernel::account_of_task(task, &agent.parent) == Some(agent.account) {
        return ALLOW;
    }
    refuse(&agent, Reason::Process, 0);
    EPERM
}

/// A table of kernel programs is opened: a ring that is mapped can be read empty before the daemon does.
#[inline(always)]
pub fn table() -> i32 {
    let Some(agent) = Agent::now() else { return ALLOW };
    refuse(&agent, Reason::Programs, 0);
    EPERM
}

/// Kernel programs and their tables are managed. A unit that becomes an agent asks in its own cgroup whether it is guarded, and a
/// container's runtime that is one says from there which devices the container may have.
#[inline(always)]
pub fn programs(command: i32, request: u64) -> i32 {
    // Somebody asks whether the kernel asks us.
    if command == PROBE_COMMAND {
        return PROBE_ANSWER;
    }
    if matches!(command, BPF_OBJ_GET | BPF_OBJ_GET_INFO_BY_FD | BPF_PROG_QUERY) {
        return ALLOW;
    }
    let Some(agent) = Agent::now() else { return ALLOW };
    let about_devices = match command {
        BPF_PROG_LOAD => kernel::request_word(request, PROG_TYPE) == CGROUP_DEVICE_PROGRAM,
        BPF_PROG_ATTACH | BPF_PROG_DETACH | BPF_LINK_CREATE => {
            kernel::request_word(request, ATTACH_TYPE) == CGROUP_DEVICE_HOOK
        }
        _ => false,
    };
    if about_devices {
        return ALLOW;
    }
    refuse(&agent, Reason::Programs, 0);
    EPERM
}

/// A unix socket may not be reached.
#[inline(always)]
pub fn unix(agent: &Agent) -> i32 {
    refuse(agent, Reason::UnixSocket, AF_UNIX);
    EPERM
}

#[inline(always)]
fn refuse(agent: &Agent, reason: Reason, family: u32) {
    let (cgroup_id, pid, uid) = caller();
    let event = DenyEvent {
        at_ns: boot_ns(),
        cgroup_id,
        account: agent.account,
        address: [0; 4],
        pid,
        uid,
        reason: reason as u32,
        protocol: 0,
        port: 0,
        family,
    };
    maps::report(agent.account, &event);
}
