//! What the kernel reports: denials one by one, and counters of everything.
//!
//! Advisory: the kernel drops events when the ring is full and counts how many; no verdict ever waits for this.
//! A record that does not have the shape of a [`DenyEvent`] is skipped with a warning.

use std::net::SocketAddr;

use aya::maps::{MapData, PerCpuArray, RingBuf};
use proxy_common::event::{COUNTERS, Counter, DenyEvent as Record, Reason};
use tokio::io::unix::AsyncFd;

use super::destination::address;
use super::error::InterceptError;
use super::maps;
use super::sys;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// One denial by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenyEvent {
    /// Why.
    pub reason: Reason,
    /// When: nanoseconds since boot, sleep included.
    pub at_ns: u64,
    /// Cgroup of the calling process; for packets, of the socket.
    pub cgroup_id: u64,
    /// The cgroup right below the agents' parent that it is charged to, where the kernel can say.
    pub account: Option<u64>,
    /// Process id, where the kernel can say.
    pub pid: Option<u32>,
    /// User id, where the kernel can say.
    pub uid: Option<u32>,
    /// The destination of a connection or datagram.
    pub destination: Option<SocketAddr>,
    /// IP protocol of the socket; for socket options, the level.
    pub protocol: u32,
    /// Port; for socket options, the option's number.
    pub port: u32,
}

/// The stream of denials.
#[derive(Debug)]
pub struct Events {
    ring: AsyncFd<Ring>,
}

/// aya's ring has no `Debug` of its own.
pub(super) struct Ring(pub(super) RingBuf<MapData>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

impl std::os::fd::AsRawFd for Ring {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, InterceptError> {
        sys::watch(Ring(ring))
            .map(|ring| Self { ring })
            .map_err(|source| InterceptError::Kernel { action: "watch the ring of events", source })
    }

    /// The next denial. Cancel-safe: a record is taken only as it is returned.
    ///
    /// # Errors
    /// When the runtime can no longer watch the ring.
    pub async fn next(&mut self) -> Result<DenyEvent, InterceptError> {
        loop {
            let mut ready = self
                .ring
                .readable_mut()
                .await
                .map_err(|source| InterceptError::Kernel { action: "wait for kernel events", source })?;
            while let Some(item) = ready.get_inner_mut().0.next() {
                match parse(&item) {
                    Some(event) => return Ok(event),
                    None => tracing::warn!(length = item.len(), "skipped a kernel event of unknown shape"),
                }
            }
            ready.clear_ready();
        }
    }
}

/// Reads a record field by field in its `repr(C)` order.
fn parse(bytes: &[u8]) -> Option<DenyEvent> {
    if bytes.len() != size_of::<Record>() {
        return None;
    }
    let (wide, rest) = bytes.split_first_chunk::<24>()?;
    let wide = wide.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
    let [at_ns, cgroup_id, account] = *wide.collect::<Vec<u64>>().as_slice() else { return None };
    let words: Vec<u32> = rest.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
    let [a, b, c, d, pid, uid, reason, protocol, port, family] = *words.as_slice() else { return None };
    let destination = match (family, u16::try_from(port)) {
        (AF_INET | AF_INET6, Ok(port)) if [a, b, c, d] != [0; 4] => {
            Some(SocketAddr::new(address([a, b, c, d]), port))
        }
        _ => None,
    };
    Some(DenyEvent {
        reason: Reason::from_code(reason)?,
        at_ns,
        cgroup_id,
        account: (account != 0).then_some(account),
        pid: (pid != 0).then_some(pid),
        uid: (uid != u32::MAX).then_some(uid),
        destination,
        protocol,
        port,
    })
}

/// A snapshot of the kernel's counters, since the tables were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Denials per reason.
    pub denied: Vec<(Reason, u64)>,
    /// Connections sent to the proxy.
    pub redirected: u64,
    /// Connections whose stamp reached the proxy's socket.
    pub delivered: u64,
    /// Stamps that could not be carried; those connections were refused.
    pub flows_lost: u64,
    /// Deny events that found the ring full.
    pub events_lost: u64,
}

impl Counters {
    pub(super) fn read(table: &PerCpuArray<MapData, u64>) -> Result<Self, InterceptError> {
        let mut sums = [0_u64; COUNTERS];
        for (index, sum) in (0_u32..).zip(sums.iter_mut()) {
            let values = table
                .get(&index, 0)
                .map_err(|source| InterceptError::Map { map: maps::COUNTERS, source: Box::new(source) })?;
            *sum = values.iter().fold(0_u64, |total, value| total.wrapping_add(*value));
        }
        let of =
            |index: u32| usize::try_from(index).ok().and_then(|index| sums.get(index)).copied().unwrap_or(0);
        Ok(Self {
            denied: Reason::ALL.into_iter().map(|reason| (reason, of(reason as u32))).collect(),
            redirected: of(Counter::Redirected as u32),
            delivered: of(Counter::Delivered as u32),
            flows_lost: of(Counter::FlowLost as u32),
            events_lost: of(Counter::EventLost as u32),
        })
    }

    /// Denials for one reason.
    #[must_use]
    pub fn denied_for(&self, reason: Reason) -> u64 {
        self.denied.iter().find(|(known, _)| *known == reason).map_or(0, |(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::flow::{LOOPBACK4, mapped};

    use super::*;

    fn bytes(reason: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(7_u64.to_ne_bytes());
        bytes.extend(9_u64.to_ne_bytes());
        bytes.extend(8_u64.to_ne_bytes());
        let [a, b, c, d] = mapped(LOOPBACK4);
        for word in [a, b, c, d, 0, 1000, reason, 17, 53, AF_INET] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn a_record_is_read_in_the_kernels_order() {
        let event = parse(&bytes(Reason::Datagram as u32)).unwrap();
        assert_eq!(event.reason, Reason::Datagram);
        assert_eq!((event.at_ns, event.cgroup_id, event.account), (7, 9, Some(8)));
        assert_eq!((event.pid, event.uid), (None, Some(1000)));
        assert_eq!(event.destination, Some("127.0.0.1:53".parse().unwrap()));
        assert_eq!((event.protocol, event.port), (17, 53));
    }

    #[test]
    fn a_record_of_another_shape_or_reason_is_not_an_event() {
        assert_eq!(parse(&bytes(Reason::Datagram as u32)[1..]), None);
        assert_eq!(parse(&bytes(99)), None);
        assert_eq!(parse(&[]), None);
    }
}
