//! What an address stands for, however it is written: a cloud's metadata service, this machine, or somewhere else.
//!
//! Metadata services hand out credentials to whoever can reach them, and programs on this machine often trust whoever comes
//! from it. Neither may be reached because somebody registered a wide network or repointed a name.
//! Known limits: a cloud that puts its service at an address of its own choice is not known here; IPv6 prefixes that a network
//! translates to IPv4 by itself, beside the well-known ones, cannot be told from others. With `net.ipv4.ip_nonlocal_bind` every
//! address counts as this machine's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use nix::errno::Errno;

/// Addresses of metadata services outside the link-local networks, which count as a whole.
const METADATA: [IpAddr; 6] = [
    // Azure: WireServer, which gives out certificates and extension settings ("What is IP address 168.63.129.16").
    v4(168, 63, 129, 16),
    // Alibaba Cloud: instance metadata of ECS.
    v4(100, 100, 100, 200),
    // Oracle Cloud Infrastructure Classic: instance metadata.
    v4(192, 0, 0, 192),
    // Google Cloud: the metadata server of instances with IPv6 only (Compute Engine, "View and query VM metadata").
    v6([0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254]),
    // Oracle Cloud Infrastructure: instance metadata over IPv6.
    v6([0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]),
    // Scaleway: instance metadata over IPv6.
    v6([0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042]),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(words: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = words;
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

/// Whether the address, or one written inside it, is a metadata service's. The link-local networks count as a whole: EC2, ECS
/// (169.254.170.2), EKS (169.254.170.23), Azure, Google, OpenStack and most others answer at addresses in 169.254.0.0/16.
#[must_use]
pub fn is_metadata(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_one = |address: IpAddr| {
        METADATA.contains(&address)
            || match address {
                IpAddr::V4(v4) => v4.is_link_local(),
                // AWS keeps `fd00:ec2::/32` for services of the instance: ::254 metadata, ::23 EKS Pod Identity, ::253 names.
                IpAddr::V6(v6) => v6.is_unicast_link_local() || matches!(v6.segments(), [0xfd00, 0x0ec2, ..]),
            }
    };
    is_one(address) || inner(address).is_some_and(|inner| is_one(IpAddr::V4(inner)))
}

/// The IPv4 address that an IPv6 address carries to a translator or a tunnel; `None` if it carries none.
#[must_use]
pub fn inner(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        // Mapped; IPv4-compatible (RFC 4291), `::` and `::1` apart; translated (RFC 2765).
        [0, 0, 0, 0, 0, 0xffff] | [0, 0, 0, 0, 0xffff, 0] => Some(join(g, h)),
        [0, 0, 0, 0, 0, 0] if g != 0 => Some(join(g, h)),
        // NAT64: the well-known prefix (RFC 6052) and the local one (RFC 8215), whose translators use its last 32 bits.
        [0x64, 0xff9b, 0, 0, 0, 0] | [0x64, 0xff9b, 1, _, _, _] => Some(join(g, h)),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => Some(join(high, low)),
        // Teredo (RFC 4380): the client's address, inverted.
        [0x2001, 0, ..] => Some(join(!g, !h)),
        // ISATAP (RFC 5214), with either bit for "unique".
        [_, _, _, _, 0 | 0x200, 0x5efe] => Some(join(g, h)),
        _ => None,
    }
}

/// Whether packets to the address stay on this machine: the kernel lets nobody take an address that is another's.
#[must_use]
pub fn is_this_machine(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let within = inner(address).map(IpAddr::V4);
    std::iter::once(address).chain(within).any(|address| {
        address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
    })
}

/// Whether this machine may know a road to the address: false only where its kernel says that there is none. Asks the table of
/// routes; nothing is sent.
#[must_use]
pub fn is_routable(address: IpAddr) -> bool {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // The port is of no account: a datagram socket that connects looks its road up and no more.
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, 9)));
    let code = asked.err().and_then(|problem| problem.raw_os_error());
    !code.map(Errno::from_raw).is_some_and(|code| NO_ROAD.contains(&code))
}

/// What the kernel says where no route leads, only one that refuses (`unreachable`, `prohibit`, `blackhole`), or where it does not
/// have the family or an address of it. Anything else, a lack of descriptors say, is no answer.
const NO_ROAD: [Errno; 6] = [
    Errno::ENETUNREACH,
    Errno::EHOSTUNREACH,
    Errno::EACCES,
    Errno::EINVAL,
    Errno::EAFNOSUPPORT,
    Errno::EADDRNOTAVAIL,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn metadata_services_are_recognised_however_they_are_written() {
        for text in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fe80::a9fe:a9fe",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b::a83f:8110",
            "2002:a9fe:a9fe::1",
            "2001:0:1:2:3:4:5601:5601",
            "2001:db8::5efe:a9fe:a9fe",
            "2001:db8::200:5efe:a9fe:a9fe",
        ] {
            assert!(is_metadata(ip(text)), "{text}");
        }
        for text in
            ["169.253.169.254", "100.100.100.201", "fd00:ec3::254", "64:ff9b::808:808", "::1", "2001:db8::1"]
        {
            assert!(!is_metadata(ip(text)), "{text}");
        }
    }

    #[test]
    fn a_road_is_known_to_this_machine_itself_and_to_no_address_that_means_none() {
        assert!(is_routable(ip("127.0.0.1")));
        // The kernel lets nobody connect to the broadcast address unless it was asked to.
        assert!(!is_routable(ip("255.255.255.255")));
    }

    #[test]
    fn what_stays_on_this_machine_is_recognised() {
        for text in ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
        {
            assert!(is_this_machine(ip(text)), "{text}");
        }
        for text in ["192.0.2.1", "2001:db8::1", "64:ff9b::c000:201"] {
            assert!(!is_this_machine(ip(text)), "{text}");
        }
    }
}
