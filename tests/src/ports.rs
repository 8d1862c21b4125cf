//! Free ports on loopback, for IPv4 and IPv6 at once.
//!
//! Chosen below the ephemeral range, so that no client of another test is given the same number, and from a
//! random start, so that parallel tests rarely meet.
//! Limits: the port is free when found; a caller that loses the race fails to bind and says so.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

use anyhow::{Result, bail};

/// Where the search may look; Linux gives ports from 32768 on to clients.
const LOWEST: u16 = 12_000;
const COUNT: u16 = 18_000;
/// Ports of the daemon's resolver.
const BLOCK: u16 = 8;

/// A port that nobody listens on, neither on 127.0.0.1 nor on ::1.
pub fn free() -> Result<u16> {
    let start = u16::try_from(RandomState::new().hash_one(0) % u64::from(COUNT)).unwrap_or(0);
    let mut offsets = (start..COUNT).chain(0..start);
    let is_free = is_free::<TcpListener>;
    match offsets.find_map(|offset| is_free(LOWEST + offset).then_some(LOWEST + offset)) {
        Some(port) => Ok(port),
        None => bail!("no free port on loopback"),
    }
}

/// The first of as many consecutive UDP ports as a resolver has, that nobody uses.
pub fn free_block() -> Result<u16> {
    let start = u16::try_from(RandomState::new().hash_one(0) % u64::from(COUNT)).unwrap_or(0);
    let offsets = (start..COUNT).chain(0..start);
    let is_free = |first: &u16| (*first..first + BLOCK).all(is_free::<UdpSocket>);
    match offsets.map(|offset| LOWEST + offset).find(is_free) {
        Some(port) => Ok(port),
        None => bail!("no free ports on loopback"),
    }
}

/// What can be bound to a port.
trait Bound {
    fn binds(ip: IpAddr, port: u16) -> bool;
}

impl Bound for TcpListener {
    fn binds(ip: IpAddr, port: u16) -> bool {
        Self::bind((ip, port)).is_ok()
    }
}

impl Bound for UdpSocket {
    fn binds(ip: IpAddr, port: u16) -> bool {
        Self::bind((ip, port)).is_ok()
    }
}

fn is_free<B: Bound>(port: u16) -> bool {
    B::binds(Ipv4Addr::LOCALHOST.into(), port) && B::binds(Ipv6Addr::LOCALHOST.into(), port)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::{free, is_free};

    #[test]
    fn a_taken_port_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free().unwrap())).unwrap();
        assert!(!is_free::<TcpListener>(taken.local_addr().unwrap().port()));
    }
}
