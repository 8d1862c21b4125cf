//! Socket options and control messages that steer packets, or that make the kernel send some of its own.
//!
//! Source routes replace the destination after every other check. Joining a group makes the kernel announce it on the wire,
//! and the group's number is the caller's choice: a few bytes for each announcement, to whoever listens on the network.
//! Known limit: one value of each option.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::libc;

use super::{Answer, MARK, Scene, datagram, device, dial, name, speak, started, stream, throw, throw_with};
use crate::intercept::raw::{self, Outgoing};
use crate::selftest::{FAR4, FAR6, SINK_PORT};

const IP: i32 = libc::IPPROTO_IP;
const IP6: i32 = libc::IPPROTO_IPV6;
const IP_OPTIONS: i32 = 4;
const IP_RETOPTS: i32 = 7;
const IP_PKTINFO: i32 = 8;
const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_ADD_SOURCE_MEMBERSHIP: i32 = 39;
const IP_MSFILTER: i32 = 41;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
const IPV6_ADD_MEMBERSHIP: i32 = 20;
const IPV6_JOIN_ANYCAST: i32 = 27;
const IPV6_FLOWLABEL_MGR: i32 = 32;
const IPV6_PKTINFO: i32 = 50;
const IPV6_HOPOPTS: i32 = 54;
const IPV6_RTHDR: i32 = 57;
const IPV6_DSTOPTS: i32 = 59;
const IPV6_2292RTHDR: i32 = 5;
const TCP_REPAIR: i32 = 19;
const TCP_ULP: i32 = 31;
const SO_BINDTOIFINDEX: i32 = 62;

/// Loose source route by way of the far side.
fn source_route() -> Vec<u8> {
    let mut option = vec![0x83, 7, 4];
    if let IpAddr::V4(far) = FAR4 {
        option.extend_from_slice(&far.octets());
    }
    option.push(0);
    option
}

/// Mobility's routing header: the kinds that a control message may carry.
fn home_address() -> Vec<u8> {
    let mut header = vec![0, 2, 2, 1, 0, 0, 0, 0];
    if let IpAddr::V6(far) = FAR6 {
        header.extend_from_slice(&far.octets());
    }
    header
}

/// Segment routing header whose next stop is the far side.
fn segments() -> Vec<u8> {
    let mut header = vec![0, 2, 4, 0, 0, 0, 0, 0];
    if let IpAddr::V6(far) = FAR6 {
        header.extend_from_slice(&far.octets());
    }
    header
}

fn here4() -> Vec<u8> {
    name(SocketAddr::from((Ipv4Addr::LOCALHOST, SINK_PORT)))
}

fn here6() -> Vec<u8> {
    name(SocketAddr::from((Ipv6Addr::LOCALHOST, SINK_PORT)))
}

pub(in super::super) fn route_tcp(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    raw::set_option(&socket, IP, IP_OPTIONS, &source_route())?;
    dial(&socket, &scene.at(FAR4))
}

pub(in super::super) fn route_fast_open(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    raw::set_option(&socket, IP, IP_OPTIONS, &source_route())?;
    let address = scene.at(FAR4);
    let message =
        Outgoing { payload: MARK, address: &address, flags: libc::MSG_FASTOPEN, ..Outgoing::default() };
    started(raw::send(&socket, message).map(drop))?;
    speak(&socket)
}

pub(in super::super) fn route_udp(_scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET)?;
    raw::set_option(&socket, IP, IP_OPTIONS, &source_route())?;
    throw(&socket, &here4())
}

pub(in super::super) fn route_message(_scene: &Scene) -> Answer {
    throw_with(&datagram(libc::AF_INET)?, &here4(), &raw::control(IP, IP_RETOPTS, &source_route()))
}

pub(in super::super) fn segments_udp(_scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET6)?;
    raw::set_option(&socket, IP6, IPV6_RTHDR, &segments())?;
    throw(&socket, &here6())
}

pub(in super::super) fn segments_tcp(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET6)?;
    raw::set_option(&socket, IP6, IPV6_RTHDR, &segments())?;
    dial(&socket, &scene.at(FAR6))
}

pub(in super::super) fn segments_fast_open(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET6)?;
    raw::set_option(&socket, IP6, IPV6_RTHDR, &segments())?;
    let address = scene.at(FAR6);
    let message =
        Outgoing { payload: MARK, address: &address, flags: libc::MSG_FASTOPEN, ..Outgoing::default() };
    started(raw::send(&socket, message).map(drop))?;
    speak(&socket)
}

pub(in super::super) fn routing_message(_scene: &Scene) -> Answer {
    throw_with(&datagram(libc::AF_INET6)?, &here6(), &raw::control(IP6, IPV6_RTHDR, &home_address()))
}

pub(in super::super) fn old_routing_message(_scene: &Scene) -> Answer {
    throw_with(&datagram(libc::AF_INET6)?, &here6(), &raw::control(IP6, IPV6_2292RTHDR, &home_address()))
}

pub(in super::super) fn hop_options(scene: &Scene) -> Answer {
    let control = raw::control(IP6, IPV6_HOPOPTS, &[0, 0, 1, 4, 0, 0, 0, 0]);
    throw_with(&datagram(libc::AF_INET6)?, &scene.at(FAR6), &control)
}

pub(in super::super) fn destination_options(scene: &Scene) -> Answer {
    let control = raw::control(IP6, IPV6_DSTOPTS, &[0, 0, 1, 4, 0, 0, 0, 0]);
    throw_with(&datagram(libc::AF_INET6)?, &scene.at(FAR6), &control)
}

/// A leased flow label may carry a routing header.
pub(in super::super) fn flow_label(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET6)?;
    let IpAddr::V6(far) = FAR6 else { return Err(io::ErrorKind::Unsupported.into()) };
    let mut request = far.octets().to_vec();
    // Any label, get, exclusive, create, linger and expiry of six seconds. A label of our own choice would still be taken from
    // the attempt before, and refused for that.
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&[0, 1, 1, 0, 6, 0, 6, 0, 0, 0, 0, 0]);
    raw::set_option(&socket, IP6, IPV6_FLOWLABEL_MGR, &request)?;
    dial(&socket, &scene.at(FAR6))
}

pub(in super::super) fn device_name(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    let mut device = crate::selftest::DEVICE.as_bytes().to_vec();
    device.push(0);
    raw::set_option(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &device)?;
    dial(&socket, &scene.at(FAR4))
}

pub(in super::super) fn device_index(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET6)?;
    raw::set_option(&socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &device()?.to_ne_bytes())?;
    dial(&socket, &scene.at(FAR6))
}

/// Bound to an address with a device, which binds the socket to it.
pub(in super::super) fn scope(scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET6)?;
    let mut address = scene.at(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)));
    for (slot, byte) in address.iter_mut().skip(24).zip(device()?.to_ne_bytes()) {
        *slot = byte;
    }
    throw(&socket, &address)
}

pub(in super::super) fn packet_info4(scene: &Scene) -> Answer {
    let mut value = device()?.to_ne_bytes().to_vec();
    value.extend_from_slice(&[0; 8]);
    throw_with(&datagram(libc::AF_INET)?, &scene.at(FAR4), &raw::control(IP, IP_PKTINFO, &value))
}

pub(in super::super) fn packet_info6(scene: &Scene) -> Answer {
    let mut value = vec![0; 16];
    value.extend_from_slice(&device()?.to_ne_bytes());
    throw_with(&datagram(libc::AF_INET6)?, &scene.at(FAR6), &raw::control(IP6, IPV6_PKTINFO, &value))
}

pub(in super::super) fn mark(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    raw::set_option(&socket, libc::SOL_SOCKET, libc::SO_MARK, &7_i32.to_ne_bytes())?;
    dial(&socket, &scene.at(FAR4))
}

pub(in super::super) fn mark_message(scene: &Scene) -> Answer {
    let control = raw::control(libc::SOL_SOCKET, libc::SO_MARK, &7_i32.to_ne_bytes());
    throw_with(&datagram(libc::AF_INET)?, &scene.at(FAR4), &control)
}

/// A socket that is declared connected without a handshake.
pub(in super::super) fn repair(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    raw::set_option(&socket, libc::IPPROTO_TCP, TCP_REPAIR, &1_i32.to_ne_bytes())?;
    raw::connect(&socket, &scene.at(FAR4))?;
    raw::set_option(&socket, libc::IPPROTO_TCP, TCP_REPAIR, &0_i32.to_ne_bytes())?;
    speak(&socket)
}

pub(in super::super) fn upper_layer(_scene: &Scene) -> Answer {
    let socket = stream(libc::AF_INET)?;
    raw::set_option(&socket, libc::IPPROTO_TCP, TCP_ULP, b"smc\0")?;
    Ok("set")
}

/// Joins a group, waits for the announcement, and leaves again.
fn join(family: i32, level: i32, option: i32, value: &[u8]) -> Answer {
    let socket = datagram(family)?;
    raw::set_option(&socket, level, option, value)?;
    std::thread::sleep(super::PAUSE * 15);
    Ok("joined")
}

/// The group's number is what leaks.
const GROUP4: [u8; 4] = [239, 0xc0, 0xde, 0x01];
const GROUP6: [u8; 16] = [0xff, 0x0e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0xde, 0, 1];

/// `struct sockaddr_storage` of a group.
fn storage(address: IpAddr) -> Vec<u8> {
    let mut bytes = name(SocketAddr::new(address, 0));
    bytes.resize(128, 0);
    bytes
}

/// `struct group_req`, or `group_source_req` with a source.
fn group(address: IpAddr, source: Option<IpAddr>) -> io::Result<Vec<u8>> {
    let mut bytes = device()?.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&storage(address));
    bytes.extend(source.map(storage).unwrap_or_default());
    Ok(bytes)
}

pub(in super::super) fn join4(_scene: &Scene) -> Answer {
    join_on(&datagram(libc::AF_INET)?)
}

/// Joins on a socket that is there.
pub(super) fn join_on(socket: &OwnedFd) -> Answer {
    let mut value = GROUP4.to_vec();
    value.extend_from_slice(&[0; 4]);
    value.extend_from_slice(&device()?.to_ne_bytes());
    raw::set_option(socket, IP, IP_ADD_MEMBERSHIP, &value)?;
    std::thread::sleep(super::PAUSE * 15);
    Ok("joined")
}

pub(in super::super) fn join4_group(_scene: &Scene) -> Answer {
    join(libc::AF_INET, IP, MCAST_JOIN_GROUP, &group(GROUP4.into(), None)?)
}

pub(in super::super) fn join4_source_group(_scene: &Scene) -> Answer {
    join(libc::AF_INET, IP, MCAST_JOIN_SOURCE_GROUP, &group(GROUP4.into(), Some(FAR4))?)
}

/// `struct ip_mreq_source`: group, interface's address, source.
fn with_source() -> Vec<u8> {
    let mut value = GROUP4.to_vec();
    value.extend_from_slice(&[0; 4]);
    if let IpAddr::V4(far) = FAR4 {
        value.extend_from_slice(&far.octets());
    }
    value
}

pub(in super::super) fn join4_source(_scene: &Scene) -> Answer {
    join(libc::AF_INET, IP, IP_ADD_SOURCE_MEMBERSHIP, &with_source())
}

/// Changes which sources are wanted, which is announced as well.
pub(in super::super) fn filter4(_scene: &Scene) -> Answer {
    let socket = datagram(libc::AF_INET)?;
    let mut join = GROUP4.to_vec();
    join.extend_from_slice(&[0; 8]);
    let _joined = raw::set_option(&socket, IP, IP_ADD_MEMBERSHIP, &join);
    // Group, any interface, include, one source.
    let mut value = GROUP4.to_vec();
    value.extend_from_slice(&[0; 4]);
    value.extend_from_slice(&1_u32.to_ne_bytes());
    value.extend_from_slice(&1_u32.to_ne_bytes());
    value.extend_from_slice(&[10, 1, 2, 3]);
    raw::set_option(&socket, IP, IP_MSFILTER, &value)?;
    std::thread::sleep(super::PAUSE * 15);
    Ok("joined")
}

pub(in super::super) fn join6(_scene: &Scene) -> Answer {
    let mut value = GROUP6.to_vec();
    value.extend_from_slice(&device()?.to_ne_bytes());
    join(libc::AF_INET6, IP6, IPV6_ADD_MEMBERSHIP, &value)
}

pub(in super::super) fn join6_group(_scene: &Scene) -> Answer {
    join(libc::AF_INET6, IP6, MCAST_JOIN_GROUP, &group(GROUP6.into(), None)?)
}

pub(in super::super) fn join6_source_group(_scene: &Scene) -> Answer {
    join(libc::AF_INET6, IP6, MCAST_JOIN_SOURCE_GROUP, &group(GROUP6.into(), Some(FAR6))?)
}

pub(in super::super) fn join_anycast(_scene: &Scene) -> Answer {
    let mut value = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99).octets().to_vec();
    value.extend_from_slice(&device()?.to_ne_bytes());
    join(libc::AF_INET6, IP6, IPV6_JOIN_ANYCAST, &value)
}
