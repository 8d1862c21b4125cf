//! Streams: every way to open a connection. All of them must end at the proxy, with the destination that was asked for.
//!
//! Refused connections are fine where the jail forbids the call itself, as it does with `io_uring`.
//! Known limit: no SMC, DCCP or SCTP here; those are other kinds of socket.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use nix::libc;

use super::{Answer, MARK, Scene, dial, name, speak, started, stream};
use crate::intercept::raw::{self, Outgoing, Submission};
use crate::selftest::{FAR4, FAR6, MAPPED, METADATA, PROXY_PORT, SINK_PORT};

const IPPROTO_MPTCP: i32 = 262;
const TCP_FASTOPEN_CONNECT: i32 = 30;
const IP_FREEBIND: i32 = 15;
const IPV6_FREEBIND: i32 = 78;
/// Nobody's, in the network of the cable.
const FOREIGN6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77));
const IP_UNICAST_IF: i32 = 50;
const IPV6_UNICAST_IF: i32 = 76;
const RING_CONNECT: u8 = 16;
const RING_ASYNC: u8 = 1 << 4;
const RING_POLLED: u32 = 1 << 1;

pub(in super::super) fn four(scene: &Scene) -> Answer {
    dial(&stream(libc::AF_INET)?, &scene.at(FAR4))
}

pub(in super::super) fn six(scene: &Scene) -> Answer {
    dial(&stream(libc::AF_INET6)?, &scene.at(FAR6))
}

pub(in super::super) fn mapped(scene: &Scene) -> Answer {
    dial(&stream(libc::AF_INET6)?, &scene.at(MAPPED))
}

pub(in super::super) fn multipath(scene: &Scene) -> Answer {
    dial(&raw::socket(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP)?, &scene.at(FAR4))
}

fn fast_open(family: i32, address: &[u8]) -> Answer {
    let socket = stream(family)?;
    let message = Outgoing { payload: MARK, address, flags: libc::MSG_FASTOPEN, ..Outgoing::default() };
    started(raw::send(&socket, message).map(drop))?;
    speak(&socket)
}

pub(in super::super) fn fast_open4(scene: &Scene) -> Answer {
    fast_open(libc::AF_INET, &scene.at(FAR4))
}

pub(in super::super) fn fast_open6(scene: &Scene) -> Answer {
    fast_open(libc::AF_INET6, &scene.at(FAR6))
}

pub(in super::super) fn fast_open_later(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    raw::set_option(&socket, libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &1_i32.to_ne_bytes())?;
    dial(&socket, &scene.at(FAR4))
}

fn ring(scene: &Scene, flags: u8, setup: u32) -> Answer {
    let socket = stream(libc::AF_INET)?;
    let address = scene.at(FAR4);
    let offset = u64::try_from(address.len()).map_err(io::Error::other)?;
    let connect = Submission {
        code: RING_CONNECT,
        flags,
        target: socket.as_raw_fd(),
        bytes: &address,
        length: 0,
        offset,
    };
    started(raw::ring(&connect, setup).map(drop))?;
    speak(&socket)
}

pub(in super::super) fn ring_connect(scene: &Scene) -> Answer {
    ring(scene, 0, 0)
}

pub(in super::super) fn ring_worker(scene: &Scene) -> Answer {
    ring(scene, RING_ASYNC, 0)
}

pub(in super::super) fn ring_polled(scene: &Scene) -> Answer {
    ring(scene, 0, RING_POLLED)
}

pub(in super::super) fn ring_socket(scene: &Scene) -> Answer {
    let kind = u64::from(libc::SOCK_STREAM.unsigned_abs() | libc::SOCK_NONBLOCK.unsigned_abs());
    dial(&raw::ring_socket(libc::AF_INET, kind, 0)?, &scene.at(FAR4))
}

/// Connects, disconnects with a family of zero, and connects elsewhere.
pub(in super::super) fn again(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    let proxy = name(SocketAddr::from((Ipv4Addr::LOCALHOST, SINK_PORT)));
    let _first = dial(&socket, &proxy);
    let _parted = raw::connect(&socket, &[0; 16]);
    dial(&socket, &scene.at(FAR4))
}

pub(in super::super) fn threaded(scene: &Scene) -> Answer {
    let address = scene.at(FAR4);
    let thread = std::thread::spawn(move || dial(&stream(libc::AF_INET)?, &address));
    thread.join().unwrap_or_else(|_panic| Err(io::Error::other("the thread died")))
}

/// A grandchild whose parent is gone.
pub(in super::super) fn orphan(scene: &Scene) -> Answer {
    let own = std::env::current_exe()?;
    let port = scene.port.get().to_string();
    let mut child = Command::new(own)
        .args(["selftest-agent", "--orphan", &port])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    // The child leaves at once; its own child goes on alone, and holds the pipe until it ends.
    let mut rest = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut rest)?;
    }
    if child.wait()?.success() {
        Ok("started")
    } else {
        Err(io::Error::other("the child could not start its own"))
    }
}

pub(in super::super) fn loopback4(_scene: &Scene) -> Answer {
    dial(&stream(libc::AF_INET)?, &name(SocketAddr::from((Ipv4Addr::LOCALHOST, SINK_PORT))))
}

pub(in super::super) fn nowhere4(_scene: &Scene) -> Answer {
    dial(&stream(libc::AF_INET)?, &name(SocketAddr::from((Ipv4Addr::UNSPECIFIED, SINK_PORT))))
}

pub(in super::super) fn loopback6(_scene: &Scene) -> Answer {
    dial(&stream(libc::AF_INET6)?, &name(SocketAddr::from((Ipv6Addr::LOCALHOST, SINK_PORT))))
}

pub(in super::super) fn proxy(_scene: &Scene) -> Answer {
    dial(&stream(libc::AF_INET)?, &name(SocketAddr::from((Ipv4Addr::LOCALHOST, PROXY_PORT))))
}

pub(in super::super) fn metadata(scene: &Scene) -> Answer {
    dial(&stream(libc::AF_INET)?, &scene.at(METADATA))
}

/// Port 853 and 443 are ports like others to the kernel; what is spoken there is the proxy's business.
pub(in super::super) fn over_tls(_scene: &Scene) -> Answer {
    dial(&stream(libc::AF_INET)?, &name(SocketAddr::new(FAR4, 853)))
}

fn from_elsewhere(scene: &Scene, option: i32) -> Answer {
    let socket = stream(libc::AF_INET)?;
    raw::set_option(&socket, libc::IPPROTO_IP, option, &1_i32.to_ne_bytes())?;
    let foreign = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
    raw::bind(&socket, &name(SocketAddr::new(foreign, 0)))?;
    dial(&socket, &scene.at(FAR4))
}

pub(in super::super) fn free_bind(scene: &Scene) -> Answer {
    from_elsewhere(scene, IP_FREEBIND)
}

/// Over IPv6 the kernel asks nobody whose the source is.
pub(in super::super) fn free_bind6(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET6)?;
    raw::set_option(&socket, libc::IPPROTO_IPV6, IPV6_FREEBIND, &1_i32.to_ne_bytes())?;
    raw::bind(&socket, &name(SocketAddr::new(FOREIGN6, 0)))?;
    dial(&socket, &scene.at(FAR6))
}

pub(in super::super) fn transparent(scene: &Scene) -> Answer {
    from_elsewhere(scene, libc::IP_TRANSPARENT)
}

pub(in super::super) fn unicast_if4(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    raw::set_option(&socket, libc::IPPROTO_IP, IP_UNICAST_IF, &super::device()?.to_be_bytes())?;
    dial(&socket, &scene.at(FAR4))
}

pub(in super::super) fn unicast_if6(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET6)?;
    raw::set_option(&socket, libc::IPPROTO_IPV6, IPV6_UNICAST_IF, &super::device()?.to_be_bytes())?;
    dial(&socket, &scene.at(FAR6))
}

/// Listens; the far side dials in meanwhile.
pub(in super::super) fn inbound(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    raw::set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32.to_ne_bytes())?;
    raw::bind(&socket, &scene.at(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))?;
    raw::listen(&socket)?;
    std::thread::sleep(super::PAUSE * 40);
    Ok("listened")
}

/// A stamped socket that turns into a listener.
pub(in super::super) fn stamped_listener(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    // No word is waited for: the far side dials soon.
    let _first = raw::connect(&socket, &name(SocketAddr::from((Ipv4Addr::LOCALHOST, SINK_PORT))));
    std::thread::sleep(super::PAUSE);
    let _parted = raw::connect(&socket, &[0; 16]);
    raw::set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32.to_ne_bytes())?;
    raw::bind(&socket, &scene.at(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))?;
    raw::listen(&socket)?;
    std::thread::sleep(super::PAUSE * 40);
    Ok("listened")
}

/// The proxy's own port, which is free while the proxy is down.
pub(in super::super) fn take_port(_scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    raw::set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, &1_i32.to_ne_bytes())?;
    raw::bind(&socket, &name(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), PROXY_PORT))))?;
    Ok("bound")
}
