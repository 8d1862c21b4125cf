//! What an agent may not: other families, sockets of others, other people's processes, kernel programs.
//!
//! INVARIANT: every function passes an outsider and refuses an agent whatever it cannot tell to be that agent's own.

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
/// `PTRACE_MODE_ATTACH`: more than a look.
const ATTACH: u32 = 2;

/// A socket is made.
#[inline(always)]
pub fn family(family: u32) -> i32 {
    if matches!(family, AF_UNIX | AF_INET | AF_INET6 | AF_NETLINK) {
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
    let family = kernel::family(sock);
    // Whom a unix socket reaches is looked at when it does.
    if family == AF_UNIX || kernel::maker(sock, &agent.parent) == Some(agent.account) {
        return ALLOW;
    }
    refuse(&agent, Reason::SocketForeign, family);
    EPERM
}

/// A file arrives from another process.
#[inline(always)]
pub fn file(file: u64) -> i32 {
    let Some(agent) = Agent::now() else { return ALLOW };
    let socket = kernel::socket_of(file);
    if socket == 0 {
        return ALLOW;
    }
    let sock = kernel::sock(socket);
    if kernel::maker(sock, &agent.parent) == Some(agent.account) {
        return ALLOW;
    }
    let family = kernel::family(sock);
    if family == AF_UNIX {
        return local::handed(&agent);
    }
    refuse(&agent, Reason::SocketForeign, family);
    EPERM
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

/// Kernel programs and their tables are managed. A unit that becomes an agent asks in its own cgroup whether it is guarded.
#[inline(always)]
pub fn programs(command: i32) -> i32 {
    // Somebody asks whether the kernel asks us.
    if command == PROBE_COMMAND {
        return PROBE_ANSWER;
    }
    if matches!(command, BPF_OBJ_GET | BPF_OBJ_GET_INFO_BY_FD | BPF_PROG_QUERY) {
        return ALLOW;
    }
    let Some(agent) = Agent::now() else { return ALLOW };
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
