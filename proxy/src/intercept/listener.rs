//! Where redirected connections arrive.
//!
//! Each accepted socket already carries its stamp: the kernel puts it there before `accept` can return. A socket
//! without one did not come from an agent, or lost its identity on the way; it is reset and never handed on.
//! INVARIANT: a [`Connection`] exists only with an [`Origin`] written by the kernel.
//! A connection that an agent made to the proxy's own port arrives like any other, with that destination.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use aya::maps::{MapData, MapError, SkStorage};
use nix::libc;
use proxy_common::flow::{PROXY, Stamp};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;

use super::destination::Origin;
use super::error::InterceptError;

/// Connections the kernel queues while the daemon is busy; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// A redirected connection and what the kernel says about it.
#[derive(Debug)]
pub struct Connection {
    /// The agent's end.
    pub stream: TcpStream,
    /// Who opened it, and to where.
    pub origin: Origin,
}

/// The proxy's port on both loopback addresses of one network namespace.
#[derive(Debug)]
pub struct Listener {
    v4: TcpListener,
    /// Absent on hosts without IPv6, where no agent can get there either.
    v6: Option<TcpListener>,
    sockets: Arc<SkStorage<MapData, Stamp>>,
    /// Cookie of the host's network namespace: connections from others say so.
    host_netns: u64,
}

impl Listener {
    /// To be called after the daemon is in its own cgroup: sockets keep the cgroup they were made in.
    pub(super) fn bind(
        port: u16,
        sockets: SkStorage<MapData, Stamp>,
        host_netns: u64,
    ) -> Result<Self, InterceptError> {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let second = match listen(v6) {
            Ok(listener) => Some(listener),
            Err(problem) if lacks_ipv6(&problem) => {
                tracing::warn!("this host has no IPv6 loopback; agents' IPv6 connections will be refused");
                None
            }
            Err(source) => return Err(InterceptError::Listen { address: v6, source }),
        };
        let first = listen(v4).map_err(|source| InterceptError::Listen { address: v4, source })?;
        Ok(Self::of((first, second), Arc::new(sockets), host_netns))
    }

    /// Over sockets that listen already.
    pub(super) fn of(
        (v4, v6): (TcpListener, Option<TcpListener>),
        sockets: Arc<SkStorage<MapData, Stamp>>,
        host_netns: u64,
    ) -> Self {
        Self { v4, v6, sockets, host_netns }
    }

    /// The next connection of an agent. Cancel-safe: a connection is either returned or still queued.
    ///
    /// # Errors
    /// When the kernel refuses to accept, for want of descriptors say; the caller waits and tries again.
    pub async fn accept(&self) -> Result<Connection, InterceptError> {
        loop {
            // Nothing is lost when either arm is dropped: `accept` takes a connection only as it completes.
            let accepted = tokio::select! {
                accepted = self.v4.accept() => accepted,
                accepted = accept_on(self.v6.as_ref()) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match self.origin(&stream) {
                    Ok(origin) => return Ok(Connection { stream, origin }),
                    Err(problem) => {
                        tracing::warn!(%peer, %problem, "reset a connection without an origin");
                        reset(&stream);
                    }
                },
                Err(problem) if is_of_one_connection(&problem) => {
                    tracing::debug!(%problem, "a connection ended before it was accepted");
                }
                Err(source) => {
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                    let address = self.v4.local_addr().unwrap_or(address);
                    return Err(InterceptError::Listen { address, source });
                }
            }
        }
    }

    fn origin(&self, stream: &TcpStream) -> Result<Origin, MapError> {
        let stamp = self.sockets.get(stream, 0)?;
        if stamp.kind == PROXY {
            Ok(Origin::from_stamp(&stamp, self.host_netns))
        } else {
            Err(MapError::KeyNotFound)
        }
    }
}

async fn accept_on(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    Handle::try_current().map_err(io::Error::other)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted daemon must not wait for the old one's finished connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The peer sees a reset, not an orderly end that could pass for an empty answer.
fn reset(stream: &TcpStream) {
    if let Err(problem) = stream.set_zero_linger() {
        tracing::debug!(%problem, "a connection ends without a reset");
    }
}

pub(super) fn lacks_ipv6(problem: &io::Error) -> bool {
    matches!(problem.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

fn is_of_one_connection(problem: &io::Error) -> bool {
    matches!(problem.raw_os_error(), Some(libc::ECONNABORTED | libc::EPERM | libc::EPROTO | libc::EINTR))
}
