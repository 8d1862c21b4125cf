//! Free ports on loopback, for IPv4 and IPv6 at once.
//!
//! Chosen below the ephemeral range, so that no client of another test is given the same number, and from a
//! random start, so that parallel tests rarely meet. Single ports and blocks come from ranges of their own: a daemon has one of each,
//! and refuses a block that its own port is in.
//! One process is given no number twice: whoever asked first may not have bound it yet.
//! Limits: two processes can be given the same one; a caller that loses the race fails to bind and says so.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

/// Where the search may look; Linux gives ports from 32768 on to clients.
const LOWEST: u16 = 12_000;
const COUNT: u16 = 15_000;
/// Ports of the daemon's resolver.
const BLOCK: u16 = 8;
/// Where the blocks are.
const LOWEST_BLOCK: u16 = LOWEST + COUNT;
const BLOCKS: u16 = 600;

/// A port that nobody listens on, neither on 127.0.0.1 nor on ::1.
pub fn free() -> Result<u16> {
    let is_new = |port: &u16| is_free::<TcpListener>(*port) && is_first(*port);
    match from_anywhere(COUNT).map(|offset| LOWEST + offset).find(is_new) {
        Some(port) => Ok(port),
        None => bail!("no free port on loopback"),
    }
}

/// The first of as many consecutive UDP ports as a resolver has, that nobody uses.
pub fn free_block() -> Result<u16> {
    let is_new = |first: &u16| (*first..first + BLOCK).all(is_free::<UdpSocket>) && is_first(*first);
    match from_anywhere(BLOCKS).map(|block| LOWEST_BLOCK + block * BLOCK).find(is_new) {
        Some(first) => Ok(first),
        None => bail!("no free ports on loopback"),
    }
}

/// Whether nobody in this process was given the number before.
fn is_first(number: u16) -> bool {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(number)
}

/// Every number below `count`, from a random one on.
fn from_anywhere(count: u16) -> impl Iterator<Item = u16> {
    let start = u16::try_from(RandomState::new().hash_one(0) % u64::from(count)).unwrap_or(0);
    (start..count).chain(0..start)
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

    use super::{BLOCK, LOWEST, LOWEST_BLOCK, free, free_block, is_free};

    #[test]
    fn a_taken_port_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free().unwrap())).unwrap();
        assert!(!is_free::<TcpListener>(taken.local_addr().unwrap().port()));
    }

    #[test]
    fn a_port_is_never_in_a_block_nor_among_those_that_clients_are_given() {
        let (port, block) = (free().unwrap(), free_block().unwrap());
        assert!((LOWEST..LOWEST_BLOCK).contains(&port), "{port}");
        assert!(block >= LOWEST_BLOCK && block + BLOCK <= 32_768, "{block}");
    }
}
