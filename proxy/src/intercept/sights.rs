//! What the kernel reports of network namespaces that have no proxy.
//!
//! Advisory, like the ring of denials: what is lost here is told again by the next socket, or found by the next look.
//! A record that does not have the shape of a [`Sight`] is skipped with a warning.

use aya::maps::{MapData, RingBuf};
use proxy_common::sight::Sight as Record;
use tokio::io::unix::AsyncFd;

use super::error::InterceptError;
use super::events::Ring;
use super::sys;

/// An agent's process was seen in a namespace without a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// When: nanoseconds since boot, sleep included.
    pub at_ns: u64,
    /// Cookie of the namespace.
    pub netns_cookie: u64,
    /// Process id (thread group).
    pub pid: u32,
    /// The thread: it may be in another namespace than the rest of its process.
    pub tid: u32,
}

/// The stream of sightings.
#[derive(Debug)]
pub struct Sights {
    ring: AsyncFd<Ring>,
}

impl Sights {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, InterceptError> {
        sys::watch(Ring(ring))
            .map(|ring| Self { ring })
            .map_err(|source| InterceptError::Kernel { action: "watch the ring of sightings", source })
    }

    /// The next sighting. Cancel-safe: a record is taken only as it is returned.
    ///
    /// # Errors
    /// When the runtime can no longer watch the ring.
    pub async fn next(&mut self) -> Result<Sight, InterceptError> {
        loop {
            let mut ready = self
                .ring
                .readable_mut()
                .await
                .map_err(|source| InterceptError::Kernel { action: "wait for sightings", source })?;
            while let Some(item) = ready.get_inner_mut().0.next() {
                match parse(&item) {
                    Some(sight) => return Ok(sight),
                    None => tracing::warn!(length = item.len(), "skipped a sighting of unknown shape"),
                }
            }
            ready.clear_ready();
        }
    }
}

/// Reads a record field by field in its `repr(C)` order.
fn parse(bytes: &[u8]) -> Option<Sight> {
    if bytes.len() != size_of::<Record>() {
        return None;
    }
    let (at_ns, rest) = bytes.split_first_chunk::<8>()?;
    let (cookie, rest) = rest.split_first_chunk::<8>()?;
    let (pid, tid) = rest.split_first_chunk::<4>()?;
    Some(Sight {
        at_ns: u64::from_ne_bytes(*at_ns),
        netns_cookie: u64::from_ne_bytes(*cookie),
        pid: u32::from_ne_bytes(*pid),
        tid: u32::from_ne_bytes(tid.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sighting_is_read_in_the_kernels_order_and_another_shape_is_none() {
        let mut bytes = Vec::new();
        bytes.extend(7_u64.to_ne_bytes());
        bytes.extend(9_u64.to_ne_bytes());
        bytes.extend(11_u32.to_ne_bytes());
        bytes.extend(12_u32.to_ne_bytes());
        assert_eq!(parse(&bytes), Some(Sight { at_ns: 7, netns_cookie: 9, pid: 11, tid: 12 }));
        assert_eq!(parse(&bytes[1..]), None);
    }
}
