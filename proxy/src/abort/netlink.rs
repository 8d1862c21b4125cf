//! One network namespace's sockets, by a netlink socket that was made in it.
//!
//! The namespace is the one of the thread that made the socket, the rights are those of the process that sends: who may enter
//! a namespace and who may end sockets there (`NET_ADMIN`) need not be the same process.
//! Refuses: a socket that speaks of anything else than other sockets. The kernel answers before a request's call returns, so
//! nothing here waits.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, getsockopt, recv, send, socket,
};
use nix::{getsockopt_impl, libc, sockopt_impl};

use super::wire::{self, Batch, TABLES, Table};
use super::{AbortError, Count};

/// The kernel's datagrams hold at most 32 KiB.
const ANSWER_BYTES_MAX: usize = 65_536;
/// Datagrams of one list: at hundreds of sockets each, far more than ports and memory allow.
const ANSWERS_MAX: usize = 65_536;

sockopt_impl!(
    /// The family of a socket.
    Domain,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_DOMAIN,
    usize
);
sockopt_impl!(
    /// The protocol of a socket.
    Protocol,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_PROTOCOL,
    usize
);

/// The sockets of one network namespace.
#[derive(Debug)]
pub(super) struct Sockets(OwnedFd);

impl Sockets {
    /// Those of this thread's namespace.
    pub(super) fn here() -> Result<Self, AbortError> {
        let made = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkSockDiag,
        );
        made.map(Self).map_err(failed("open a socket to list sockets"))
    }

    /// Those of the namespace that a socket from elsewhere was made in. It must be one like ours: the same message means "take
    /// an address away" to another part of the kernel.
    pub(super) fn of(handed: OwnedFd) -> Result<Self, AbortError> {
        let is = |told: nix::Result<usize>, number: i32| told.ok() == usize::try_from(number).ok();
        let fits = is(getsockopt(&handed, Domain), libc::AF_NETLINK)
            && is(getsockopt(&handed, Protocol), libc::NETLINK_SOCK_DIAG);
        if fits { Ok(Self(handed)) } else { Err(AbortError::Unreadable) }
    }

    /// Whether this kernel tells of sockets and ends them. Ends nothing, and takes no rights.
    pub(super) fn probe(&self) -> Result<(), AbortError> {
        for table in TABLES {
            self.list(table, |_| {})?;
            match self.ask(table, &wire::end_nothing(table))? {
                0 | libc::ENOENT | libc::EPERM => {}
                libc::EOPNOTSUPP => return Err(AbortError::Absent { what: "end sockets" }),
                code => return Err(kernel("ask whether sockets can be ended", code)),
            }
        }
        Ok(())
    }

    /// Ends the sockets that were made in these cgroups.
    pub(super) fn end(&self, cgroups: &BTreeSet<u64>) -> Result<Count, AbortError> {
        let mut count = Count::default();
        for table in TABLES {
            let (mut theirs, mut marked, mut unmarked) = (Vec::new(), false, 0_usize);
            self.list(table, |batch| {
                marked = marked || !batch.sockets.is_empty();
                unmarked = unmarked.saturating_add(batch.unmarked);
                theirs.extend(batch.sockets.into_iter().filter(|socket| cgroups.contains(&socket.cgroup)));
            })?;
            // Sockets that wait for their end have none; where no socket at all has one, the kernel is too old.
            count.unmarked |= !marked && unmarked > 0;
            for socket in theirs {
                match self.ask(table, &wire::end(&socket))? {
                    0 => count.ended = count.ended.saturating_add(1),
                    // It ended by itself.
                    libc::ENOENT | libc::ESTALE => {}
                    libc::EOPNOTSUPP => return Err(AbortError::Absent { what: "end sockets" }),
                    code => return Err(kernel("end a socket", code)),
                }
            }
        }
        Ok(count)
    }

    fn list(&self, table: Table, mut each: impl FnMut(Batch)) -> Result<(), AbortError> {
        self.send(&wire::list(table))?;
        for _ in 0..ANSWERS_MAX {
            let batch = self.receive(table)?;
            let end = batch.end;
            each(batch);
            match end {
                None => {}
                Some(0) => return Ok(()),
                Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL) => {
                    return Err(AbortError::Absent { what: "list sockets" });
                }
                Some(code) => return Err(kernel("list sockets", code)),
            }
        }
        Err(AbortError::Unreadable)
    }

    /// Sends a request that is answered by one error number.
    fn ask(&self, table: Table, request: &[u8]) -> Result<i32, AbortError> {
        self.send(request)?;
        self.receive(table)?.end.ok_or(AbortError::Unreadable)
    }

    fn send(&self, request: &[u8]) -> Result<(), AbortError> {
        send(self.0.as_raw_fd(), request, MsgFlags::empty())
            .map(drop)
            .map_err(failed("ask the kernel about sockets"))
    }

    fn receive(&self, table: Table) -> Result<Batch, AbortError> {
        let mut bytes = vec![0; ANSWER_BYTES_MAX];
        let length = recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty())
            .map_err(failed("hear from the kernel about sockets"))?;
        let told = bytes.get(..length).filter(|told| !told.is_empty()).ok_or(AbortError::Unreadable)?;
        wire::read(table, told).map_err(|wire::Unreadable| AbortError::Unreadable)
    }
}

impl AsFd for Sockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn failed(action: &'static str) -> impl Fn(Errno) -> AbortError {
    move |source| AbortError::Kernel { action, source: source.into() }
}

fn kernel(action: &'static str, code: i32) -> AbortError {
    AbortError::Kernel { action, source: io::Error::from_raw_os_error(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_tells_of_sockets_and_ends_none_of_a_cgroup_that_is_not_there() {
        let sockets = Sockets::here().unwrap();
        sockets.probe().unwrap();
        assert_eq!(sockets.end(&BTreeSet::from([u64::MAX])).unwrap(), Count::default());
    }

    #[test]
    fn a_socket_that_speaks_of_something_else_is_refused() {
        let other = |protocol| {
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap()
        };
        assert!(Sockets::of(other(SockProtocol::NetlinkSockDiag)).is_ok());
        assert!(matches!(Sockets::of(other(SockProtocol::NetlinkRoute)), Err(AbortError::Unreadable)));
        let udp = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
        assert!(matches!(Sockets::of(udp), Err(AbortError::Unreadable)));
    }
}
