//! The only reader of the operating system's clocks. Everything else is given a [`Clock`].
//!
//! INVARIANT: no other file calls `SystemTime::now` or `Instant::now`; clippy enforces it.
//! Tests set the wall clock by hand; monotonic time in tests comes from tokio's paused clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::model::UnixMillis;

/// A source of time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Fixed(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until [`Clock::set`] moves it.
    #[must_use]
    pub fn fixed(at: UnixMillis) -> Self {
        Self(Source::Fixed(Arc::new(AtomicU64::new(at.0))))
    }

    /// Moves a fixed clock; does nothing to the machine's.
    pub fn set(&self, at: UnixMillis) {
        match &self.0 {
            Source::System => {}
            Source::Fixed(now) => now.store(at.0, Ordering::SeqCst),
        }
    }

    /// Wall-clock time. A clock before 1970 reads as 1970.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    pub fn now(&self) -> UnixMillis {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Source::Fixed(now) => UnixMillis(now.load(Ordering::SeqCst)),
        }
    }

    /// Nanoseconds since boot, sleep included: the clock that the kernel programs read. A fixed clock gives its own time.
    #[must_use]
    pub fn boot_ns(&self) -> u64 {
        match &self.0 {
            Source::System => clock_gettime(ClockId::CLOCK_BOOTTIME)
                .map_or(0, |time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)),
            Source::Fixed(now) => now.load(Ordering::SeqCst).saturating_mul(1_000_000),
        }
    }

    /// Monotonic time, for measuring durations.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    pub fn instant(&self) -> Instant {
        Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_clock_moves_only_when_set() {
        let clock = Clock::fixed(UnixMillis(5));
        assert_eq!(clock.now(), UnixMillis(5));
        clock.clone().set(UnixMillis(9));
        assert_eq!(clock.now(), UnixMillis(9));
    }
}
