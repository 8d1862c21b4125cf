//! Where public resolvers answer.
//!
//! A question to one goes past the daemon's own resolver, whatever it is wrapped in. Names of them are refused where names are
//! asked for; this list is for programs that carry the address with them, as browsers and libraries do.
//! Known limits: a resolver that is not listed, at a port other than 853, cannot be told from any other server; neither can one behind
//! a content network that answers for any name at any of its addresses.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use super::inner;

/// One address or network a line.
const LISTED: &str = include_str!("resolvers.txt");
/// DNS over TLS (RFC 7858); DNS over QUIC (RFC 9250) has the same number and is no TCP.
const TLS_PORT: u16 = 853;

/// A network, IPv4 in its mapped form.
#[derive(Debug, Clone, Copy)]
struct Network {
    bits: u128,
    mask: u128,
}

static NETWORKS: LazyLock<Vec<Network>> = LazyLock::new(|| LISTED.lines().filter_map(parse).collect());

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
    let is_one = |ip: IpAddr| {
        let bits = mapped(ip);
        NETWORKS.iter().any(|network| bits & network.mask == network.bits)
    };
    is_one(ip) || inner(ip).is_some_and(|ip| is_one(ip.into()))
}

fn mapped(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// A line of the list; `None` if it is a remark or empty.
fn parse(line: &str) -> Option<Network> {
    let (address, length) =
        line.split_once('/').map_or((line, None), |(address, length)| (address, Some(length)));
    let ip: IpAddr = address.parse().ok()?;
    let width: u32 = if ip.is_ipv4() { 32 } else { 128 };
    let host_bits = width.checked_sub(length.map_or(Some(width), |length| length.parse().ok())?)?;
    let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
    Some(Network { bits: mapped(ip) & mask, mask })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_list_is_a_remark_or_a_network_as_networks_are_written() {
        for line in LISTED.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let network = parse(line).unwrap_or_else(|| panic!("{line} is no network"));
            let written: IpAddr = line.split('/').next().unwrap().parse().unwrap();
            assert_eq!(network.bits, mapped(written), "{line} has bits beside its network");
            assert!(network.mask >= u128::MAX << 100, "{line} is too wide for a resolver");
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
