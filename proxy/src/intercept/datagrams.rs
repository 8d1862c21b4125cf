//! Where questions to resolvers arrive, each with the [`Origin`] of the socket that asked.
//!
//! The kernel files whose a source port is with every datagram it lets through, and puts a seal on the datagram (its `SO_MARK`);
//! the daemon looks the sender up there. A datagram without the seal came from somebody else, who has that source port by now or
//! shares it; one without an entry, or with a stale one, did not come from an agent just now. Both are dropped without a word.
//! INVARIANT: a [`Datagram`] exists only with an origin written by the kernel. An answer leaves by the port the question came
//! to: that is how the agent's kernel knows which resolver to show.
//! Known limit: a datagram that waits longer than the kernel keeps a source port for one agent is dropped.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use aya::maps::{HashMap, MapData};
use nix::cmsg_space;
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use proxy_common::flow::{DNS, mapped};
use proxy_common::names::{DatagramFlow, DatagramKey, FLOW_FRESH_NS, SLOTS};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::runtime::Handle;

use super::destination::Origin;
use super::error::InterceptError;
use super::listener::lacks_ipv6;
use super::maps::{self, Tables};
use super::sys::{self, raw};

/// Longest question that is read: larger than any extension makes one; what is longer comes cut, and does not parse.
const BYTES_MAX: usize = 4096;
/// "Tell me the mark of each packet"; since Linux 5.19 (include/uapi/asm-generic/socket.h).
const SO_RCVMARK: i32 = 75;

/// What can go wrong with the resolver's ports.
#[derive(Debug, thiserror::Error)]
pub enum DatagramError {
    /// A port could not be had.
    #[error("could not listen for datagrams on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's table of source ports could not be opened.
    #[error("could not open the table of source ports")]
    Table(#[from] InterceptError),
    /// The kernel gave no datagram.
    #[error("could not receive a datagram")]
    Receive {
        /// What the kernel said.
        source: io::Error,
    },
}

/// A question and who asks.
#[derive(Debug)]
pub struct Datagram {
    /// The question's bytes.
    pub bytes: Vec<u8>,
    /// Where the answer goes.
    pub peer: SocketAddr,
    /// Who asked, and which resolver it believes it asked last.
    pub origin: Origin,
}

/// One of the resolver's ports.
pub struct NamePort {
    socket: UdpSocket,
    netns_cookie: u64,
    host_netns: u64,
    first: u16,
    flows: Flows,
}

/// Whose a source port is, and what is on a datagram that was let through.
#[derive(Debug, Clone)]
pub(super) struct Flows {
    table: Arc<HashMap<MapData, DatagramKey, DatagramFlow>>,
    seal: u32,
}

impl Flows {
    pub(super) fn open(tables: &Tables) -> Result<Self, InterceptError> {
        let failed = |source| InterceptError::Map { map: maps::PARENT, source: Box::new(source) };
        let parent = tables.parent()?.get(&0, 0).map_err(failed)?;
        Ok(Self { table: Arc::new(tables.datagrams()?), seal: parent.seal })
    }
}

/// aya's tables have no `Debug` of their own.
impl std::fmt::Debug for NamePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NamePort").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl NamePort {
    /// To be called after the daemon is in its own cgroup: sockets keep the cgroup they were made in.
    pub(super) fn bind_all(first: u16, tables: &Tables) -> Result<Vec<Self>, DatagramError> {
        let flows = Flows::open(tables)?;
        let slots = u16::try_from(SLOTS).unwrap_or(u16::MAX);
        let mut all = Vec::new();
        for port in first..first.saturating_add(slots) {
            for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                let address = SocketAddr::new(ip, port);
                match bind(address) {
                    Ok((socket, netns_cookie)) => {
                        let flows = flows.clone();
                        all.push(Self { socket, netns_cookie, host_netns: netns_cookie, first, flows });
                    }
                    Err(problem) if problem.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                        tracing::warn!(
                            "questions over UDP are not answered: this kernel does not tell marks (5.19 does)"
                        );
                        return Ok(Vec::new());
                    }
                    // Where there is no IPv6 no agent can ask over it either.
                    Err(problem) if ip.is_ipv6() && lacks_ipv6(&problem) => {}
                    Err(source) => return Err(DatagramError::Listen { address, source }),
                }
            }
        }
        Ok(all)
    }

    /// One that was opened in another network namespace; none where the kernel tells no marks. Needs a tokio runtime.
    pub(super) fn inside(
        socket: std::net::UdpSocket,
        (netns_cookie, host_netns): (u64, u64),
        first: u16,
        flows: &Flows,
    ) -> io::Result<Option<Self>> {
        if !has_marks(tell_marks(&socket))? {
            return Ok(None);
        }
        let socket = UdpSocket::from_std(socket)?;
        Ok(Some(Self { socket, netns_cookie, host_netns, first, flows: flows.clone() }))
    }

    /// The next question of an agent. Cancel-safe: a datagram is either returned or still queued.
    ///
    /// # Errors
    /// When the kernel gives none; the caller waits and tries again.
    pub async fn next(&self) -> Result<Datagram, DatagramError> {
        loop {
            let mut bytes = vec![0_u8; BYTES_MAX];
            let received =
                self.socket.async_io(Interest::READABLE, || receive(&self.socket, &mut bytes)).await;
            let (length, peer, mark) = received.map_err(|source| DatagramError::Receive { source })?;
            bytes.truncate(length);
            match peer.filter(|_| mark == Some(self.flows.seal)).and_then(|peer| self.origin(peer)) {
                Some((peer, origin)) => return Ok(Datagram { bytes, peer, origin }),
                None => tracing::debug!(?peer, "dropped a datagram without an origin"),
            }
        }
    }

    /// Sends an answer to where the question came from.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub async fn answer(&self, bytes: &[u8], peer: SocketAddr) -> io::Result<()> {
        self.socket.send_to(bytes, peer).await.map(drop)
    }

    fn origin(&self, peer: SocketAddr) -> Option<(SocketAddr, Origin)> {
        let key = DatagramKey {
            netns_cookie: self.netns_cookie,
            source: words(peer.ip()),
            port: peer.port(),
            reserved: [0; 3],
        };
        let DatagramFlow { stamp, seen_ns } = self.flows.table.get(&key, 0).ok()?;
        let fresh = sys::boot_ns().ok()?.saturating_sub(seen_ns) < FLOW_FRESH_NS;
        (fresh && stamp.kind == DNS && stamp.proxy_port == self.first)
            .then(|| (peer, Origin::from_stamp(&stamp, self.host_netns)))
    }
}

fn tell_marks(socket: &std::net::UdpSocket) -> io::Result<()> {
    raw::set_option(socket, libc::SOL_SOCKET, SO_RCVMARK, &1_i32.to_ne_bytes())
}

/// Whether the kernel tells marks, as it does from 5.19 on; another failure is one.
fn has_marks(asked: io::Result<()>) -> io::Result<bool> {
    match asked {
        Ok(()) => Ok(true),
        Err(problem) if problem.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        Err(problem) => Err(problem),
    }
}

/// One datagram: its length, its sender if that is an address of IP, and its mark if the kernel told it.
fn receive(socket: &UdpSocket, bytes: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>, Option<u32>)> {
    let mut control = cmsg_space!(u32);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let peer = message.address.as_ref().and_then(|address| {
        let four = address.as_sockaddr_in().map(|four| SocketAddr::from((four.ip(), four.port())));
        four.or_else(|| address.as_sockaddr_in6().map(|six| SocketAddr::from((six.ip(), six.port()))))
    });
    let mark = message.cmsgs()?.find_map(|one| match one {
        ControlMessageOwned::Unknown(one)
            if (one.cmsg_header.cmsg_level, one.cmsg_header.cmsg_type)
                == (libc::SOL_SOCKET, libc::SO_MARK) =>
        {
            one.data_bytes.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes))
        }
        _ => None,
    });
    Ok((message.bytes, peer, mark))
}

fn bind(address: SocketAddr) -> io::Result<(UdpSocket, u64)> {
    Handle::try_current().map_err(io::Error::other)?;
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    tell_marks(&socket)?;
    let cookie = sys::netns_cookie(&socket)?;
    Ok((UdpSocket::from_std(socket)?, cookie))
}

/// An address as the kernel's tables have it.
fn words(ip: IpAddr) -> [u32; 4] {
    let word = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
    match ip.to_canonical() {
        IpAddr::V4(v4) => mapped(word(v4.octets())),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = v6.octets();
            [word([a, b, c, d]), word([e, f, g, h]), word([i, j, k, l]), word([m, n, o, p])]
        }
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::flow::{LOOPBACK4, LOOPBACK6};

    use super::*;

    #[test]
    fn a_kernel_without_marks_is_no_failure_and_any_other_refusal_is() {
        let refused = |code| Err(io::Error::from_raw_os_error(code));
        assert!(has_marks(Ok(())).unwrap() && !has_marks(refused(libc::ENOPROTOOPT)).unwrap());
        assert!(has_marks(refused(libc::EPERM)).is_err());
    }

    #[test]
    fn addresses_become_the_words_the_kernel_files_them_under() {
        assert_eq!(words(IpAddr::V4(Ipv4Addr::LOCALHOST)), mapped(LOOPBACK4));
        assert_eq!(words("::ffff:127.0.0.1".parse().unwrap()), mapped(LOOPBACK4));
        assert_eq!(words(IpAddr::V6(Ipv6Addr::LOCALHOST)), LOOPBACK6);
    }
}
