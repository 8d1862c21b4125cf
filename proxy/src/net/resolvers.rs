//! Where public resolvers answer.
//!
//! A question to one goes past the daemon's own resolver, whatever it is wrapped in. Names of them are refused where names are
//! asked for; this list is for programs that carry the address with them, as browsers and libraries do.
//! Known limits: a resolver that is not listed, at a port other than 853, cannot be told from any other server; neither can one behind
//! a content network that answers for any name at any of its addresses.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use super::inner;
use crate::model::{network, same_network};

/// One address or network a line.
const LISTED: &str = include_str!("resolvers.txt");
/// DNS over TLS (RFC 7858); DNS over QUIC (RFC 9250) has the same number and is no TCP.
const TLS_PORT: u16 = 853;

static NETWORKS: LazyLock<Vec<(IpAddr, u8)>> = LazyLock::new(|| LISTED.lines().filter_map(network).collect());

/// Whether whoever connects there means to ask for names: the port of DNS over TLS anywhere, or any port of a public resolver,
/// however its address is written.
#[must_use]
pub fn is_resolver(destination: SocketAddr) -> bool {
    let ip = destination.ip();
    destination.port() == TLS_PORT || is_listed(ip)
}

/// Whether the address, or one written inside it, is a listed public resolver's.
#[must_use]
pub fn is_listed(ip: IpAddr) -> bool {
    let is_one = |ip: IpAddr| NETWORKS.iter().any(|(network, bits)| same_network(*network, ip, *bits));
    is_one(ip) || inner(ip).is_some_and(|ip| is_one(ip.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_list_is_a_remark_or_a_network_as_networks_are_written() {
        for line in LISTED.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (address, bits) = network(line).unwrap_or_else(|| panic!("{line} is no network"));
            let beside = match address {
                IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
                IpAddr::V6(v6) => v6.to_bits(),
            };
            assert_eq!(beside.checked_shl(bits.into()).unwrap_or(0), 0, "{line} has bits beside its network");
            assert!(address.is_ipv4() || bits >= 28, "{line} is too wide for a resolver");
        }
    }

    #[test]
    fn public_resolvers_are_recognised_however_they_are_written_and_on_every_port() {
        for text in [
            "1.1.1.1:443",
            "8.8.8.8:53",
            "[::ffff:8.8.8.8]:443",
            "[64:ff9b::808:808]:443",
            "[2606:4700:4700::1111]:443",
            "[2001:4860:4860::8888]:80",
            "45.90.28.77:443",
            "192.0.2.1:853",
            "[2001:db8::1]:853",
        ] {
            assert!(is_resolver(text.parse().unwrap()), "{text}");
        }
        for text in ["1.1.1.4:443", "8.8.8.9:443", "192.0.2.1:443", "[2606:4700::1111]:443", "45.90.29.1:443"]
        {
            assert!(!is_resolver(text.parse().unwrap()), "{text}");
        }
    }
}
