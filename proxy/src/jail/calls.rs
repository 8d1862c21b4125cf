//! The system call filters of the jail.
//!
//! Refused are calls that reach around the guard, into other processes, into mounts and namespaces, or into the kernel's own
//! configuration; socket families that the guard cannot see; and two terminal controls that type for somebody else.
//! Limits and priorities of other processes stay as they are; an agent changes those of the calling thread alone.
//! Limits: a filter sees numbers, not what pointers point to; 32-bit system calls end the process; what `io_uring` does is not
//! seen, which is why it is refused unless the configuration allows it.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::Uring;
use super::error::JailError;

/// Bit that marks a system call of the x32 ABI, which the filter's architecture check does not tell apart.
const X32: i64 = 0x4000_0000;
/// Numbers that x32 has of its own: `ptrace`, `process_vm_readv`, `process_vm_writev`, `kexec_load`, `ioctl`.
const X32_OWN: [i64; 4] = [521, 539, 540, 528];
const X32_IOCTL: i64 = 514;
/// Linux 6.15; the C library's bindings do not name it everywhere.
const OPEN_TREE_ATTR: i64 = 467;
/// Names and numbers of calls, by one spelling.
macro_rules! calls {
    ($($name:ident)*) => { [$((stringify!($name), libc::$name)),*] };
}
/// Calls that reach around the guard, into other processes, or into the kernel's own configuration. The keys are among them: one
/// that is not there makes the kernel start a program of its own, outside every agent's cgroup.
const REFUSED: [(&str, i64); 34] = calls! {
    SYS_bpf
    SYS_add_key
    SYS_request_key
    SYS_keyctl
    SYS_perf_event_open
    SYS_ptrace
    SYS_process_vm_readv
    SYS_process_vm_writev
    SYS_process_madvise
    SYS_process_mrelease
    SYS_migrate_pages
    SYS_pidfd_getfd
    SYS_kcmp
    SYS_setns
    SYS_mount
    SYS_umount2
    SYS_move_mount
    SYS_fsopen
    SYS_fsconfig
    SYS_fsmount
    SYS_fspick
    SYS_open_tree
    SYS_mount_setattr
    SYS_pivot_root
    SYS_chroot
    SYS_open_by_handle_at
    SYS_kexec_load
    SYS_kexec_file_load
    SYS_init_module
    SYS_finit_module
    SYS_delete_module
    SYS_userfaultfd
    SYS_quotactl
    SYS_reboot
};
/// Its ring could be handed on as a descriptor, so using one is refused as well as making one.
const URING: [(&str, i64); 3] = calls! { SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register };
/// Socket families an agent may use; the kernel's guard sees the internet ones.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// Netlink protocols that programs need: addresses and routes, `ss`, and events of devices. Between processes the kernel then
/// passes on nothing: that takes `NETLINK_USERSOCK`, or a right over the network that no agent has.
const NETLINKS: [libc::c_int; 3] =
    [libc::NETLINK_ROUTE, libc::NETLINK_SOCK_DIAG, libc::NETLINK_KOBJECT_UEVENT];
/// Calls that schedule the process or thread in the first argument, which is zero for the caller. Where threads run
/// (`sched_setaffinity`) is left out: runtimes pin threads of their own by number, and it stops nobody.
const SCHEDULING: [i64; 3] =
    [libc::SYS_sched_setscheduler, libc::SYS_sched_setparam, libc::SYS_sched_setattr];
/// Calls that rank what the first argument says: one process, whose number is in the second, or more.
const RANKING: [(i64, libc::c_int); 2] = [(libc::SYS_setpriority, 0), (libc::SYS_ioprio_set, 1)];
/// Namespaces that an agent may not make: in a user namespace it would have every capability over the others.
const NAMESPACES: [libc::c_int; 8] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
    // As a flag of `clone` this bit belongs to the number of the exit signal, where no signal needs it.
    CLONE_NEWTIME,
];
const CLONE_NEWTIME: libc::c_int = 0x80;
/// Typing into a terminal, and pasting a console's selection into it: a shared terminal would run it as its owner.
const TYPING: [u64; 2] = [libc::TIOCSTI, TIOCLINUX];
const TIOCLINUX: u64 = 0x541C;

type Rules = Vec<(i64, Vec<SeccompRule>)>;

/// Four filters, because each has one answer: EPERM, ENOSYS, EAFNOSUPPORT, EPROTONOSUPPORT.
pub(super) fn filters(uring: Uring) -> Result<Vec<BpfProgram>, JailError> {
    build(uring).map_err(|source| JailError::privileges("build the system call filter", source))
}

/// Names of the calls that are refused whole, for launchers that filter by name.
pub(super) fn names(uring: Uring) -> impl Iterator<Item = &'static str> {
    let rings = match uring {
        Uring::Refused => URING.as_slice(),
        Uring::Allowed => &[],
    };
    REFUSED.iter().chain(rings).map(|(name, _)| name.strip_prefix("SYS_").unwrap_or(name))
}

/// Applies them to this thread, for good.
pub(super) fn apply(filters: &[BpfProgram]) -> Result<(), JailError> {
    filters.iter().try_for_each(|filter| {
        seccompiler::apply_filter(filter)
            .map_err(|source| JailError::privileges("apply the system call filter", source))
    })
}

fn build(uring: Uring) -> Result<Vec<BpfProgram>, BackendError> {
    let whole = |number: i64| (number, Vec::new());
    let named = |(_, number): (&str, i64)| whole(number);
    let mut refused: Rules = REFUSED.into_iter().map(named).collect();
    refused.push(whole(OPEN_TREE_ATTR));
    refused.extend(X32_OWN.map(|number| whole(number | X32)));
    match uring {
        Uring::Refused => refused.extend(URING.map(named)),
        Uring::Allowed => {}
    }
    let namespaces = NAMESPACES.into_iter().map(has_flag).collect::<Result<Vec<_>, _>>()?;
    refused.push((libc::SYS_unshare, namespaces.clone()));
    refused.push((libc::SYS_clone, namespaces));
    let typing =
        TYPING.into_iter().map(|what| rule(1, SeccompCmpOp::Eq, what)).collect::<Result<Vec<_>, _>>()?;
    refused.push((libc::SYS_ioctl, typing.clone()));
    refused.push((X32_IOCTL | X32, typing));
    refused.extend(others()?);
    // Without `clone3` the C library falls back to `clone`, whose flags can be seen.
    let unknown = vec![whole(libc::SYS_clone3)];
    let foreign = FAMILIES
        .into_iter()
        .map(|family| condition(0, SeccompCmpOp::Ne, unsigned(family)))
        .collect::<Result<Vec<_>, _>>()?;
    let foreign = SeccompRule::new(foreign)?;
    let sockets = [libc::SYS_socket, libc::SYS_socketpair].map(|number| (number, vec![foreign.clone()]));
    let messages = [libc::SYS_socket, libc::SYS_socketpair];
    let netlink = netlink()?;
    let netlink = messages.map(|number| (number, vec![netlink.clone()]));
    Ok(vec![
        filter(refused, libc::EPERM)?,
        filter(unknown, libc::ENOSYS)?,
        filter(sockets.into(), libc::EAFNOSUPPORT)?,
        filter(netlink.into(), libc::EPROTONOSUPPORT)?,
    ])
}

/// What reaches processes by number that no right and no Landlock domain protects: those of the agent's account outside.
fn others() -> Result<Rules, BackendError> {
    let differs = |argument, value| condition(argument, SeccompCmpOp::Ne, value);
    // Without new limits the call only tells.
    let new = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    let limits = SeccompRule::new(vec![differs(0, 0)?, new])?;
    let mut rules = vec![(libc::SYS_prlimit64, vec![limits])];
    for number in SCHEDULING.into_iter().chain([libc::SYS_move_pages]) {
        rules.push((number, vec![SeccompRule::new(vec![differs(0, 0)?])?]));
    }
    for (number, one) in RANKING {
        let several = SeccompRule::new(vec![differs(0, unsigned(one))?])?;
        rules.push((number, vec![several, SeccompRule::new(vec![differs(1, 0)?])?]));
    }
    Ok(rules)
}

fn netlink() -> Result<SeccompRule, BackendError> {
    let family = condition(0, SeccompCmpOp::Eq, unsigned(libc::AF_NETLINK));
    let other = NETLINKS.into_iter().map(|known| condition(2, SeccompCmpOp::Ne, unsigned(known)));
    SeccompRule::new(std::iter::once(family).chain(other).collect::<Result<_, _>>()?)
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn has_flag(flag: libc::c_int) -> Result<SeccompRule, BackendError> {
    rule(0, SeccompCmpOp::MaskedEq(unsigned(flag)), unsigned(flag))
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![condition(argument, operator, value)?])
}

/// All of these constants are small or bit patterns of 32 bits.
fn unsigned(number: libc::c_int) -> u64 {
    u64::from(number.cast_unsigned())
}

fn filter(rules: Rules, errno: libc::c_int) -> Result<BpfProgram, BackendError> {
    let mut table = BTreeMap::new();
    for (number, rule) in rules {
        table.insert(number | X32, rule.clone());
        table.insert(number, rule);
    }
    let answer = SeccompAction::Errno(errno.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(table, SeccompAction::Allow, answer, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_compiles_with_and_without_io_uring() {
        for uring in [Uring::Refused, Uring::Allowed] {
            assert_eq!(filters(uring).unwrap().len(), 4);
        }
    }
}
