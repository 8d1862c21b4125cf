//! Datagrams: every way to send one without a connection that the proxy knows.
//!
//! None may leave, and none may reach a server on loopback. What the kernel answers is told; what counts is the witness.
//! Known limit: fragments and corked datagrams are tried in one form each.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::libc;

use super::{Answer, MARK, Scene, datagram, name, throw, throw_with};
use crate::intercept::raw::{self, Outgoing, Submission};
use crate::selftest::{FAR4, FAR6, MAPPED, SINK_PORT};

const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;
const UDP_CORK: i32 = 1;
const SO_ZEROCOPY: i32 = 60;
const MSG_ZEROCOPY: i32 = 0x400_0000;
const SO_TXTIME: i32 = 61;
const RING_SEND: u8 = 26;

pub(in super::super) fn four(scene: &Scene) -> Answer {
    throw(&datagram(libc::AF_INET)?, &scene.at(FAR4))
}

pub(in super::super) fn six(scene: &Scene) -> Answer {
    throw(&datagram(libc::AF_INET6)?, &scene.at(FAR6))
}

pub(in super::super) fn mapped(scene: &Scene) -> Answer {
    throw(&datagram(libc::AF_INET6)?, &scene.at(MAPPED))
}

/// An IPv4 address on an IPv6 socket.
pub(in super::super) fn four_on_six(scene: &Scene) -> Answer {
    throw(&datagram(libc::AF_INET6)?, &scene.at(FAR4))
}

/// An address without a family.
pub(in super::super) fn familyless(scene: &Scene) -> Answer {
    let mut address = scene.at(FAR4);
    address.iter_mut().take(2).for_each(|byte| *byte = 0);
    throw(&datagram(libc::AF_INET)?, &address)
}

pub(in super::super) fn connected(scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET)?;
    raw::connect(&socket, &scene.at(FAR4))?;
    throw(&socket, &[])
}

pub(in super::super) fn connected6(scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET6)?;
    raw::connect(&socket, &scene.at(FAR6))?;
    throw(&socket, &[])
}

/// Connected to a resolver if that is allowed, then sent elsewhere.
pub(in super::super) fn elsewhere(scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET)?;
    let _first = raw::connect(&socket, &name(SocketAddr::new(FAR4, 53)));
    throw(&socket, &scene.at(FAR4))
}

/// The connected peer and a control message make the kernel ask without a name.
pub(in super::super) fn connected_with(scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET)?;
    raw::connect(&socket, &scene.at(FAR4))?;
    throw_with(&socket, &[], &raw::control(libc::IPPROTO_IP, libc::IP_TTL, &9_i32.to_ne_bytes()))
}

fn to_port(port: u16) -> Answer {
    throw(&datagram(libc::AF_INET)?, &name(SocketAddr::new(FAR4, port)))
}

pub(in super::super) fn dns(_scene: &Scene) -> Answer {
    to_port(53)
}

pub(in super::super) fn quic(_scene: &Scene) -> Answer {
    to_port(443)
}

pub(in super::super) fn ntp(_scene: &Scene) -> Answer {
    to_port(123)
}

pub(in super::super) fn loopback(_scene: &Scene) -> Answer {
    throw(&datagram(libc::AF_INET)?, &name(SocketAddr::from((Ipv4Addr::LOCALHOST, SINK_PORT))))
}

pub(in super::super) fn loopback6(_scene: &Scene) -> Answer {
    throw(&datagram(libc::AF_INET6)?, &name(SocketAddr::from((Ipv6Addr::LOCALHOST, SINK_PORT))))
}

pub(in super::super) fn broadcast(scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET)?;
    raw::set_option(&socket, libc::SOL_SOCKET, libc::SO_BROADCAST, &1_i32.to_ne_bytes())?;
    throw(&socket, &scene.at(IpAddr::V4(Ipv4Addr::BROADCAST)))
}

pub(in super::super) fn multicast4(scene: &Scene) -> Answer {
    throw(&datagram(libc::AF_INET)?, &scene.at(IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3))))
}

pub(in super::super) fn multicast6(scene: &Scene) -> Answer {
    let mut address = scene.at(IpAddr::V6(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 0x123)));
    for (slot, byte) in address.iter_mut().skip(24).zip(super::device()?.to_ne_bytes()) {
        *slot = byte;
    }
    throw(&datagram(libc::AF_INET6)?, &address)
}

pub(in super::super) fn segmented(scene: &Scene) -> Answer {
    let control = raw::control(SOL_UDP, UDP_SEGMENT, &8_u16.to_ne_bytes());
    throw_with(&datagram(libc::AF_INET)?, &scene.at(FAR4), &control)
}

pub(in super::super) fn corked(scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET)?;
    raw::set_option(&socket, SOL_UDP, UDP_CORK, &1_i32.to_ne_bytes())?;
    throw(&socket, &scene.at(FAR4))?;
    raw::set_option(&socket, SOL_UDP, UDP_CORK, &0_i32.to_ne_bytes())?;
    Ok("sent")
}

pub(in super::super) fn uncopied(scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET)?;
    raw::set_option(&socket, libc::SOL_SOCKET, SO_ZEROCOPY, &1_i32.to_ne_bytes())?;
    let address = scene.at(FAR4);
    let message = Outgoing { payload: MARK, address: &address, flags: MSG_ZEROCOPY, ..Outgoing::default() };
    raw::send(&socket, message).map(|_| "sent")
}

pub(in super::super) fn timed(scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET)?;
    // CLOCK_MONOTONIC, no flags.
    raw::set_option(&socket, libc::SOL_SOCKET, SO_TXTIME, &[1, 0, 0, 0, 0, 0, 0, 0])?;
    let control = raw::control(libc::SOL_SOCKET, SO_TXTIME, &1_u64.to_ne_bytes());
    throw_with(&socket, &scene.at(FAR4), &control)
}

/// Larger than the cable carries at once.
pub(in super::super) fn fragmented(scene: &Scene) -> Answer {
    let payload = [b'x'; 4000];
    let address = scene.at(FAR4);
    let message = Outgoing { payload: &payload, address: &address, ..Outgoing::default() };
    raw::send(&datagram(libc::AF_INET)?, message).map(|_| "sent")
}

/// Sent by a ring, on a socket that is connected first.
pub(in super::super) fn ring(scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET)?;
    raw::connect(&socket, &scene.at(FAR4))?;
    let length = u32::try_from(MARK.len()).map_err(io::Error::other)?;
    let send =
        Submission { code: RING_SEND, flags: 0, target: socket.as_raw_fd(), bytes: MARK, length, offset: 0 };
    raw::ring(&send, 0).map(|_| "sent")
}
