//! The ways out, each a small function that tries one and says what the kernel answered.
//!
//! They run in a throw-away process that is jailed like an agent, and again in one that is not, which shows that the
//! attempt works when nothing stops it. INVARIANT: every packet here is for the test ranges, whose only road ends at the
//! witness, or for loopback. Nothing waits for longer than a fraction of a second.

pub(super) mod datagram;
pub(super) mod handed;
pub(super) mod kinds;
pub(super) mod options;
pub(super) mod tcp;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::libc;

use super::DEVICE;
use crate::intercept::raw::{self, Outgoing};

/// What travels: enough to tell it from anything else.
pub(super) const MARK: &[u8] = b"chaperone-selftest";
/// How often a connection is looked at before it counts as silent.
const LOOKS: usize = 15;
const PAUSE: Duration = Duration::from_millis(10);

/// What an attempt answers: a word on what worked, or the kernel's refusal.
pub(super) type Answer = io::Result<&'static str>;

/// What the hostile process knows about where it is.
#[derive(Debug)]
pub(super) struct Scene {
    /// The port that belongs to this attempt, so that a redirected connection can be told from others.
    pub(super) port: Cell<u16>,
    /// Descriptors that an outsider passed with the command.
    pub(super) passed: RefCell<Vec<OwnedFd>>,
    /// Numbers of descriptors that were open before this process became an agent: TCP, UDP, raw, TCP again, connected.
    pub(super) early: [i32; 5],
    /// A process outside, and its own connected socket.
    pub(super) outsider: (u32, i32),
    /// A cgroup outside.
    pub(super) elsewhere: PathBuf,
    /// Name of an outsider's abstract socket.
    pub(super) door: String,
}

impl Scene {
    pub(super) fn at(&self, address: std::net::IpAddr) -> Vec<u8> {
        name(SocketAddr::new(address, self.port.get()))
    }

    /// The first descriptor that came with the command.
    pub(super) fn passed(&self) -> io::Result<OwnedFd> {
        self.passed.borrow_mut().pop().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// An address as the kernel wants it.
pub(super) fn name(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    match address {
        SocketAddr::V4(four) => {
            bytes.extend_from_slice(&2_u16.to_ne_bytes());
            bytes.extend_from_slice(&four.port().to_be_bytes());
            bytes.extend_from_slice(&four.ip().octets());
            bytes.extend_from_slice(&[0; 8]);
        }
        SocketAddr::V6(six) => {
            bytes.extend_from_slice(&10_u16.to_ne_bytes());
            bytes.extend_from_slice(&six.port().to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&six.ip().octets());
            bytes.extend_from_slice(&[0; 4]);
        }
    }
    bytes
}

/// A stream socket.
pub(super) fn stream(family: i32) -> io::Result<OwnedFd> {
    raw::socket(family, libc::SOCK_STREAM, 0)
}

/// A datagram socket.
pub(super) fn datagram(family: i32) -> io::Result<OwnedFd> {
    raw::socket(family, libc::SOCK_DGRAM, 0)
}

/// Connects, and sends the mark once that is possible.
pub(super) fn dial(socket: &OwnedFd, address: &[u8]) -> Answer {
    started(raw::connect(socket, address))?;
    speak(socket)
}

/// A connection under way is no failure.
pub(super) fn started(answer: io::Result<()>) -> io::Result<()> {
    match answer {
        Err(problem) if problem.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other,
    }
}

/// Sends the mark as soon as the connection stands, and waits for a word.
pub(super) fn speak(socket: &OwnedFd) -> Answer {
    for _ in 0..LOOKS {
        match raw::send(socket, Outgoing { payload: MARK, flags: libc::MSG_NOSIGNAL, ..Outgoing::default() })
        {
            Ok(_) => return Ok(hear(socket)),
            Err(problem) if is_early(&problem) => std::thread::sleep(PAUSE),
            Err(problem) => return Err(problem),
        }
    }
    Ok("silent")
}

fn hear(socket: &OwnedFd) -> &'static str {
    let mut word = [0_u8; 64];
    for _ in 0..LOOKS {
        match raw::receive(socket, &mut word) {
            Ok(received) if received.length > 0 => return "answered",
            Ok(_) => return "sent, closed",
            Err(problem) if is_early(&problem) => std::thread::sleep(PAUSE),
            Err(_) => return "sent, reset",
        }
    }
    "sent"
}

fn is_early(problem: &io::Error) -> bool {
    matches!(problem.raw_os_error(), Some(libc::EAGAIN | libc::EINPROGRESS | libc::EALREADY | libc::ENOTCONN))
}

/// Sends the mark to an address.
pub(super) fn throw(socket: &OwnedFd, address: &[u8]) -> Answer {
    raw::send(socket, Outgoing { payload: MARK, address, ..Outgoing::default() }).map(|_| "sent")
}

/// Sends the mark with a control message.
pub(super) fn throw_with(socket: &OwnedFd, address: &[u8], control: &[u8]) -> Answer {
    raw::send(socket, Outgoing { payload: MARK, address, control, ..Outgoing::default() }).map(|_| "sent")
}

/// Number of the interface that leads outside.
pub(super) fn device() -> io::Result<u32> {
    super::netlink::index(DEVICE)
}
