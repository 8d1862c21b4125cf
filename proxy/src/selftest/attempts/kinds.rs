//! Other kinds of socket: raw, ping, packet, and every family the kernel has.
//!
//! Most need a right that an agent does not have; they are tried with every right as well, where only kernel programs stand
//! in the way. Known limit: families that this kernel was built without answer so, and say nothing about other kernels.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::libc;

use super::{Answer, MARK, Scene, device, name, throw};
use crate::intercept::raw::{self, Outgoing};
use crate::selftest::{FAR_MAC, FAR4, FAR6, NEAR_MAC};

const UDPLITE: i32 = 136;
const SCTP: i32 = 132;
const DCCP: i32 = 33;
const HDRINCL: i32 = 255;
/// An experimental protocol number.
const UNASSIGNED: i32 = 253;
const AF_SMC: i32 = 43;
const AF_XDP: i32 = 44;
const AF_MAX: i32 = 46;
/// Families that an agent may use: unix, IPv4, IPv6, netlink.
const ALLOWED: [i32; 4] = [1, 2, 10, 16];
/// Echo request without a checksum: the kernel fills it in for ping sockets.
const ECHO4: [u8; 12] = [8, 0, 0xf7, 0xff, 0, 0, 0, 0, b'c', b'h', b'a', b'p'];
const ECHO6: [u8; 12] = [128, 0, 0, 0, 0, 0, 0, 0, b'c', b'h', b'a', b'p'];

/// An address without a port: raw sockets want none.
fn bare(address: IpAddr) -> Vec<u8> {
    name(SocketAddr::new(address, 0))
}

fn say(socket: &OwnedFd, payload: &[u8], address: &[u8]) -> Answer {
    raw::send(socket, Outgoing { payload, address, ..Outgoing::default() }).map(|_| "sent")
}

pub(in super::super) fn ping(_scene: &Scene) -> Answer {
    say(&raw::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)?, &ECHO4, &bare(FAR4))
}

pub(in super::super) fn ping6(_scene: &Scene) -> Answer {
    say(&raw::socket(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6)?, &ECHO6, &bare(FAR6))
}

pub(in super::super) fn ping_connected(_scene: &Scene) -> Answer {
    let socket = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)?;
    raw::connect(&socket, &bare(FAR4))?;
    say(&socket, &ECHO4, &[])
}

pub(in super::super) fn raw_icmp(_scene: &Scene) -> Answer {
    say(&raw::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?, &ECHO4, &bare(FAR4))
}

pub(in super::super) fn raw_connected(_scene: &Scene) -> Answer {
    let socket = raw::socket(libc::AF_INET, libc::SOCK_RAW, UNASSIGNED)?;
    raw::connect(&socket, &bare(FAR4))?;
    throw(&socket, &[])
}

pub(in super::super) fn raw_six(_scene: &Scene) -> Answer {
    throw(&raw::socket(libc::AF_INET6, libc::SOCK_RAW, UNASSIGNED)?, &bare(FAR6))
}

/// A whole IPv4 packet of our own.
pub(in super::super) fn raw_header(_scene: &Scene) -> Answer {
    let packet = ipv4_packet();
    say(&raw::socket(libc::AF_INET, libc::SOCK_RAW, HDRINCL)?, &packet, &bare(FAR4))
}

pub(in super::super) fn udp_lite(scene: &Scene) -> Answer {
    throw(&raw::socket(libc::AF_INET, libc::SOCK_DGRAM, UDPLITE)?, &scene.at(FAR4))
}

pub(in super::super) fn sctp(scene: &Scene) -> Answer {
    let socket = raw::socket(libc::AF_INET, libc::SOCK_STREAM, SCTP)?;
    super::dial(&socket, &scene.at(FAR4))
}

pub(in super::super) fn dccp(scene: &Scene) -> Answer {
    const DCCP_KIND: i32 = 6;
    super::dial(&raw::socket(libc::AF_INET, DCCP_KIND, DCCP)?, &scene.at(FAR4))
}

pub(in super::super) fn smc(scene: &Scene) -> Answer {
    super::dial(&raw::socket(AF_SMC, libc::SOCK_STREAM, 0)?, &scene.at(FAR4))
}

/// `struct sockaddr_ll` of the far end of the cable.
fn link_address() -> io::Result<Vec<u8>> {
    let mut bytes = 17_u16.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&0x0800_u16.to_be_bytes());
    bytes.extend_from_slice(&device()?.to_ne_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 6]);
    bytes.extend_from_slice(&FAR_MAC);
    bytes.extend_from_slice(&[0, 0]);
    Ok(bytes)
}

pub(in super::super) fn packet_frame(_scene: &Scene) -> Answer {
    let socket = raw::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    let mut frame = FAR_MAC.to_vec();
    frame.extend_from_slice(&NEAR_MAC);
    frame.extend_from_slice(&[8, 0]);
    frame.extend_from_slice(&ipv4_packet());
    say(&socket, &frame, &link_address()?)
}

pub(in super::super) fn packet_datagram(_scene: &Scene) -> Answer {
    let socket = raw::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
    say(&socket, &ipv4_packet(), &link_address()?)
}

pub(in super::super) fn express(_scene: &Scene) -> Answer {
    raw::socket(AF_XDP, libc::SOCK_RAW, 0).map(|_| "made")
}

pub(in super::super) fn hypervisor(_scene: &Scene) -> Answer {
    let socket = raw::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
    let mut address = 40_u16.to_ne_bytes().to_vec();
    address.extend_from_slice(&[0, 0]);
    // Port 4007 of the host, which has number 2.
    address.extend_from_slice(&4007_u32.to_ne_bytes());
    address.extend_from_slice(&2_u32.to_ne_bytes());
    address.extend_from_slice(&[0; 4]);
    super::started(raw::connect(&socket, &address))?;
    Ok("connecting")
}

pub(in super::super) fn crypto(_scene: &Scene) -> Answer {
    raw::socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0).map(|_| "made")
}

/// Every family but the four that an agent may use.
pub(in super::super) fn families(_scene: &Scene) -> Answer {
    let kinds = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET];
    let foreign = (0..AF_MAX).filter(|family| !ALLOWED.contains(family));
    let made =
        foreign.filter(|family| kinds.iter().any(|kind| raw::socket(*family, *kind, 0).is_ok())).count();
    if made == 0 { Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)) } else { Ok("made some") }
}

/// Whatever the kernel lets one change about routes.
pub(in super::super) fn routes(_scene: &Scene) -> Answer {
    use crate::selftest::netlink::Netlink;
    let to = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 0));
    let via = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    Netlink::open()?.route(crate::selftest::DEVICE, (to, 24), via).map(|()| "changed")
}

/// From the near end to the far one, protocol 253, with the mark; the kernel fills in nothing.
fn ipv4_packet() -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 38, 0, 1, 0, 0, 64, 253, 0, 0, 192, 0, 2, 1];
    if let IpAddr::V4(far) = FAR4 {
        packet.extend_from_slice(&far.octets());
    }
    let mut sum = 0_u32;
    for pair in packet.chunks_exact(2) {
        sum += pair.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let check = u16::try_from(sum).map_or(0, |sum| !sum).to_be_bytes();
    for (slot, byte) in packet.iter_mut().skip(10).zip(check) {
        *slot = byte;
    }
    packet.extend_from_slice(MARK);
    packet
}
