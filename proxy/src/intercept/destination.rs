//! From a kernel stamp to an [`Origin`]: who connected, and where to.
//!
//! Pure conversion; the numbers are the kernel's at the moment of `connect()` and say nothing about now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_common::flow::{Stamp, is_mapped};

/// What the kernel knew when the agent's process called `connect()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The address the process asked for.
    pub destination: SocketAddr,
    /// Cgroup of the process.
    pub cgroup_id: u64,
    /// The cgroup right below the agents' parent that the process is in.
    pub account: u64,
    /// Process id (thread group).
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// When `connect()` was called: nanoseconds since boot, sleep included (`CLOCK_BOOTTIME`). A process with
    /// this pid that started later (`/proc/PID/stat`, field 22, same clock) is another one.
    pub connected_ns: u64,
    /// Cookie of the network namespace the process connected in, if that is not the host's. The destination is to be read there:
    /// loopback is that namespace's own.
    pub netns: Option<u64>,
}

impl Origin {
    pub(super) fn from_stamp(stamp: &Stamp, host_netns: u64) -> Self {
        Self {
            destination: SocketAddr::new(address(stamp.address), stamp.port),
            cgroup_id: stamp.cgroup_id,
            account: stamp.account,
            pid: stamp.pid,
            uid: stamp.uid,
            connected_ns: stamp.connected_ns,
            netns: (stamp.netns_cookie != host_netns).then_some(stamp.netns_cookie),
        }
    }
}

/// IPv4 in its IPv6 form becomes IPv4 again.
pub(super) fn address(words: [u32; 4]) -> IpAddr {
    let [a, b, c, d] = words.map(u32::from_be);
    if is_mapped(words) {
        return IpAddr::V4(Ipv4Addr::from_bits(d));
    }
    let high = u128::from(a) << 96 | u128::from(b) << 64;
    IpAddr::V6(Ipv6Addr::from_bits(high | u128::from(c) << 32 | u128::from(d)))
}

#[cfg(test)]
mod tests {
    use proxy_common::flow::{LOOPBACK4, LOOPBACK6, mapped};

    use super::*;

    #[test]
    fn kernel_words_become_the_address_they_were() {
        assert_eq!(address(mapped(LOOPBACK4)), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(address(LOOPBACK6), IpAddr::V6(Ipv6Addr::LOCALHOST));
        let words = [0x2001_0db8_u32.to_be(), 0, 0, 0x0000_00ab_u32.to_be()];
        assert_eq!(address(words).to_string(), "2001:db8::ab");
    }
}
