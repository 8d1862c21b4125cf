//! The witness: a packet capture at the far end of the cable, in a namespace that no agent can see.
//!
//! It sees frames, not promises: whatever the kernel put on the wire, by whatever path. Address resolution and neighbour
//! discovery are left out, because the kernel speaks them for itself; joining groups is not, because what is joined is
//! chosen by the caller. INVARIANT: it runs outside every agent's cgroup and namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use nix::libc;

use crate::intercept::raw;

const EVERYTHING: u16 = 3;
const OUTGOING: u8 = 4;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
/// Router and neighbour discovery.
const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
/// Longest frame looked at; the start says enough.
const FRAME_BYTES: usize = 2048;

const TCP_RESET: u8 = 4;

/// How a reset is described: the kernel's own answer to a stranger, not an agent's.
pub(super) const RESET: &str = "tcp reset";

/// The capture.
#[derive(Debug)]
pub(super) struct Witness(OwnedFd);

impl Witness {
    /// Listens on every interface of this thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        raw::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(EVERYTHING.to_be())).map(Self)
    }

    /// Takes what came in since the last time, one line for each frame that counts.
    pub(super) fn take(&self) -> Vec<String> {
        let mut seen = Vec::new();
        let mut frame = [0_u8; FRAME_BYTES];
        while let Ok(received) = raw::receive(&self.0, &mut frame) {
            // Byte 10 of a packet address tells frames that the far side itself sent.
            if received.address.get(10) == Some(&OUTGOING) {
                continue;
            }
            seen.extend(frame.get(..received.length).and_then(describe));
        }
        seen
    }
}

/// What a frame is, unless it is the kernel's own address resolution.
fn describe(frame: &[u8]) -> Option<String> {
    let kind = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let packet = frame.get(14..)?;
    let length = packet.len();
    match kind {
        ARP => None,
        IPV4 => {
            let four = |at: usize| -> Option<[u8; 4]> { packet.get(at..at + 4)?.try_into().ok() };
            let (from, to) = (IpAddr::from(Ipv4Addr::from(four(12)?)), Ipv4Addr::from(four(16)?));
            let inner = packet.get(usize::from(packet.first()? & 15) * 4..);
            Some(format!("{from} to {to}, {}, {length} bytes", protocol(*packet.get(9)?, inner)))
        }
        IPV6 => {
            let six = |at: usize| -> Option<[u8; 16]> { packet.get(at..at + 16)?.try_into().ok() };
            let (from, to) = (Ipv6Addr::from(six(8)?), Ipv6Addr::from(six(24)?));
            let next = *packet.get(6)?;
            let inner = packet.get(40).copied().unwrap_or(0);
            if next == ICMPV6 && DISCOVERY.contains(&inner) {
                return None;
            }
            Some(format!("{from} to {to}, {}, {length} bytes", protocol(next, packet.get(40..))))
        }
        other => Some(format!("frame of type {other:#06x}, {length} bytes")),
    }
}

fn protocol(number: u8, inner: Option<&[u8]>) -> String {
    let flags = inner.and_then(|segment| segment.get(13)).copied().unwrap_or(0);
    match number {
        6 if flags & TCP_RESET != 0 => RESET.to_owned(),
        0 => "hop options".to_owned(),
        1 => "icmp".to_owned(),
        2 => "igmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        43 => "routing header".to_owned(),
        ICMPV6 => "icmpv6".to_owned(),
        other => format!("protocol {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::describe;

    fn frame(kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
        [&[0; 12], kind.as_slice(), packet].concat()
    }

    #[test]
    fn address_resolution_does_not_count_and_everything_else_does() {
        assert_eq!(describe(&frame([8, 6], &[0; 28])), None);
        let mut packet = [0_u8; 48];
        packet[6] = 58;
        packet[40] = 135;
        assert_eq!(describe(&frame([0x86, 0xdd], &packet)), None);
        packet[40] = 143;
        assert!(describe(&frame([0x86, 0xdd], &packet)).is_some_and(|line| line.contains("icmpv6")));
        assert!(describe(&frame([8, 0], &[0; 20])).is_some());
        assert!(describe(&frame([0x88, 0xb5], b"x")).is_some());
    }
}
