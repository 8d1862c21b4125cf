//! The few netlink messages that lay a cable between two network namespaces.
//!
//! Written by hand because the self-test must run where there is no `ip`, from an initramfs for one. A socket speaks for the
//! namespace of the thread that made it. Refuses: every message is acknowledged, and a refusal is the kernel's own error.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use nix::net::if_::if_nametoindex;

use crate::intercept::raw;

const ACKNOWLEDGED: u16 = 1 | 4;
const NEW: u16 = ACKNOWLEDGED | 0x400;
const IFF_UP: u32 = 1;
const NODAD: u8 = 2;
const PERMANENT: u16 = 0x80;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

/// One end of a cable.
#[derive(Debug, Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    pub(super) mac: Mac,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        raw::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE).map(Self)
    }

    /// A pair of virtual interfaces, the far one in another namespace.
    pub(super) fn cable(&self, near: End<'_>, far: End<'_>, namespace: &impl AsFd) -> io::Result<()> {
        let peer = Body::link(0, 0)
            .with(3, far.name.as_bytes())
            .with(1, &far.mac)
            .with(28, &namespace.as_fd().as_raw_fd().to_ne_bytes());
        let veth = Body::default().with(1, b"veth").with(2, &Body::default().with(1, &peer.0).0);
        let body = Body::link(0, 0).with(3, near.name.as_bytes()).with(1, &near.mac).with(18, &veth.0);
        self.ask(16, NEW | 0x200, &body)
    }

    /// Switches an interface on.
    pub(super) fn up(&self, name: &str) -> io::Result<()> {
        self.ask(16, ACKNOWLEDGED, &Body::link(index(name)?, IFF_UP))
    }

    /// Gives an interface an address at once, without asking the neighbours.
    pub(super) fn address(&self, name: &str, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut body = Body(vec![family(address), prefix, NODAD, 0]);
        body.0.extend_from_slice(&index(name)?.to_ne_bytes());
        self.ask(20, NEW, &body.with(2, &octets(address)).with(1, &octets(address)))
    }

    /// Sends everything (`prefix` 0), or one network, through a gateway.
    pub(super) fn route(&self, name: &str, to: (IpAddr, u8), gateway: IpAddr) -> io::Result<()> {
        let (to, prefix) = to;
        // Main table, made by an administrator, everywhere, unicast.
        let mut body = Body(vec![family(to), prefix, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
        if prefix > 0 {
            body = body.with(1, &octets(to));
        }
        self.ask(24, NEW | 0x100, &body.with(4, &index(name)?.to_ne_bytes()).with(5, &octets(gateway)))
    }

    /// Says who a neighbour is, so that nobody has to ask.
    pub(super) fn neighbour(&self, name: &str, address: IpAddr, mac: Mac) -> io::Result<()> {
        let mut body = Body(vec![family(address), 0, 0, 0]);
        body.0.extend_from_slice(&index(name)?.to_ne_bytes());
        body.0.extend_from_slice(&PERMANENT.to_ne_bytes());
        body.0.extend_from_slice(&[0, 0]);
        self.ask(28, NEW, &body.with(1, &octets(address)).with(2, &mac))
    }

    fn ask(&self, kind: u16, flags: u16, body: &Body) -> io::Result<()> {
        let length = u32::try_from(16 + body.0.len()).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(&body.0);
        raw::send(&self.0, raw::Outgoing { payload: &message, ..raw::Outgoing::default() })?;
        // The kernel answers before `send` returns.
        let mut answer = [0_u8; 4096];
        raw::receive(&self.0, &mut answer)?;
        let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d, ..] = answer;
        match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        }
    }
}

/// What follows a message's header.
#[derive(Debug, Default)]
struct Body(Vec<u8>);

impl Body {
    fn link(index: u32, flags: u32) -> Self {
        let words = [0, index, flags, flags];
        Self(words.into_iter().flat_map(u32::to_ne_bytes).collect())
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// Number of an interface of this thread's namespace.
pub(super) fn index(name: &str) -> io::Result<u32> {
    if_nametoindex(name).map_err(io::Error::from)
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::Body;

    #[test]
    fn attributes_are_padded_and_say_their_own_length() {
        let body = Body::default().with(3, b"abcde").with(1, b"");
        assert_eq!(body.0, [9, 0, 3, 0, b'a', b'b', b'c', b'd', b'e', 0, 0, 0, 4, 0, 1, 0]);
    }
}
