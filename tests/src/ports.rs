//! Free TCP ports on loopback, for IPv4 and IPv6 at once.
//!
//! Chosen below the ephemeral range, so that no client of another test is given the same number, and from a
//! random start, so that parallel tests rarely meet.
//! Limits: the port is free when found; a caller that loses the race fails to bind and says so.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use anyhow::{Result, bail};

/// Where the search may look; Linux gives ports from 32768 on to clients.
const LOWEST: u16 = 12_000;
const COUNT: u16 = 18_000;

/// A port that nobody listens on, neither on 127.0.0.1 nor on ::1.
pub fn free() -> Result<u16> {
    let start = u16::try_from(RandomState::new().hash_one(0) % u64::from(COUNT)).unwrap_or(0);
    let mut offsets = (start..COUNT).chain(0..start);
    match offsets.find_map(|offset| is_free(LOWEST + offset).then_some(LOWEST + offset)) {
        Some(port) => Ok(port),
        None => bail!("no free port on loopback"),
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        && TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::{free, is_free};

    #[test]
    fn a_taken_port_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free().unwrap())).unwrap();
        assert!(!is_free(taken.local_addr().unwrap().port()));
    }
}
