//! Whether an address is somewhere out there, or in a network that only this host and its neighbours reach.
//!
//! A name that anybody may register can point anywhere. An answer that points inward is a way to make a client talk to the
//! host's own services (rebinding), so inward addresses are believed only where a registered resource has them.
//! IPv4 inside IPv6 (mapped, NAT64, 6to4) is judged as IPv4; Teredo hides its address and counts as inward.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is reachable by everybody.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => is_public4(v4),
        IpAddr::V6(v6) => is_public6(v6),
    }
}

fn is_public4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let inward = match a {
        // This network, private, loopback, multicast and what comes after it.
        0 | 10 | 127 | 224..=255 => true,
        // Shared by carriers.
        100 => (64..128).contains(&b),
        // Link-local, where clouds keep their metadata.
        169 => b == 254,
        172 => (16..32).contains(&b),
        192 => b == 168 || (b == 0 && c == 0),
        // Benchmarks.
        198 => b == 18 || b == 19,
        _ => false,
    };
    !inward
}

fn is_public6(ip: Ipv6Addr) -> bool {
    let [first, second, rest @ ..] = ip.segments();
    let [.., high, low] = rest;
    match (first, second) {
        // Unspecified, loopback, and addresses compatible with IPv4.
        (0, 0) => false,
        (0x64, 0xff9b) => is_public4(v4(high, low)),
        (0x2001, 0) => false,
        (0x2002, high) => {
            let [low, ..] = rest;
            is_public4(v4(high, low))
        }
        // Global unicast is all that is handed out.
        (0x2000..=0x3fff, _) => true,
        _ => false,
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_point_inward_are_told_from_public_ones() {
        let inward = [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
        ];
        for ip in inward {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.1.1.1", "93.184.216.34", "172.32.0.1", "192.0.2.1", "2606:4700::1", "64:ff9b::808:808"]
        {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}
