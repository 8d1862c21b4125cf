//! Tells the kernel that a destination was out of reach, so that the agent's next `connect` fails with the true error.
//!
//! Only errors that say so are told: an agent must not mistake our own trouble for its destination's.
//! INVARIANT: a note ends by itself, and concerns one account.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::maps::{HashMap, MapData};
use nix::libc;
use parking_lot::Mutex;
use proxy_common::unreachable::{DestinationKey, Unreachable as Note};

use super::error::InterceptError;
use super::maps::{Tables, UNREACHABLE};

/// How long a destination counts as out of reach: long enough for a client that tries again at once, short enough not to hide
/// that it is back.
const NOTED_FOR: Duration = Duration::from_secs(2);

/// The table of what was out of reach.
pub struct Unreachable(Mutex<HashMap<MapData, DestinationKey, Note>>);

/// aya's tables show nothing of use.
impl std::fmt::Debug for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unreachable")
    }
}

impl Unreachable {
    pub(super) fn open(tables: &Tables) -> Result<Self, InterceptError> {
        tables.unreachable().map(|table| Self(Mutex::new(table)))
    }

    /// Notes that an account's connection to `destination` failed with `error`, `now_ns` after boot. False if the error is not one
    /// that says that a destination is out of reach.
    ///
    /// # Errors
    /// When the kernel refuses; the next connection is then reset like this one.
    pub fn note(
        &self,
        account: u64,
        destination: SocketAddr,
        error: i32,
        now_ns: u64,
    ) -> Result<bool, InterceptError> {
        let Some(errno) = told(error) else { return Ok(false) };
        let lasts = u64::try_from(NOTED_FOR.as_nanos()).unwrap_or(0);
        let key = DestinationKey {
            account,
            address: words(destination.ip()),
            port: destination.port().into(),
            reserved: 0,
        };
        let note = Note { until_ns: now_ns.saturating_add(lasts), errno, reserved: 0 };
        let written = self.0.lock().insert(key, note, 0);
        written
            .map(|()| true)
            .map_err(|source| InterceptError::Map { map: UNREACHABLE, source: Box::new(source) })
    }
}

fn told(error: i32) -> Option<u32> {
    match error {
        libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ETIMEDOUT => {
            u32::try_from(error).ok()
        }
        _ => None,
    }
}

/// An address as the kernel programs know it.
fn words(address: IpAddr) -> [u32; 4] {
    let six = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let bits = six.to_bits();
    // Cut to 32 bits each.
    [96, 64, 32, 0].map(|shift| u32::try_from(bits >> shift & u128::from(u32::MAX)).unwrap_or(0).to_be())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intercept::destination::address;

    #[test]
    fn an_address_becomes_the_words_it_came_from() {
        for text in ["192.0.2.1", "2001:db8::ab", "::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(words(ip)), ip);
        }
    }

    #[test]
    fn only_errors_of_the_destination_are_told() {
        assert_eq!(told(libc::ECONNREFUSED), Some(111));
        for own in [libc::EACCES, libc::EMFILE, libc::EADDRNOTAVAIL, 0, -1] {
            assert_eq!(told(own), None);
        }
    }
}
