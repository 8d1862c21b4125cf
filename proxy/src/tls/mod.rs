//! TLS on both sides: a local authority and server end towards agents, a verifying client end towards resources.
//!
//! Trust is never weakened silently: the strictness towards a resource is the operator's written mode, and every
//! failed check is an error that names the server and the fault. Handshakes have a time limit on both sides.
//! INVARIANT: the authority's key signs leaves and nothing else, and never leaves this room.
//! Known limits: TLS 1.2 and 1.3 only; no revocation lists; names are checked against the certificate's
//! alternative names only, never its common name (stricter than libpq).

mod authority;
mod binding;
mod client;
mod error;
mod roots;
mod server;
#[cfg(test)]
mod tests;
mod verifier;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

use crate::clock::Clock;

pub use authority::{Authority, Leaf, LeafNames};
pub use binding::server_end_point;
pub use client::{Connector, Upstream};
pub use error::{CertificateFault, TlsError};
pub use server::accept;

/// Where the local authority keeps its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directory for `ca.pem` and `ca.key` (0700); made when missing.
    pub dir: PathBuf,
}

/// Long enough for a far server and a slow client; short enough that silent peers cannot pile up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Lets certificate checks and tickets use the clock that was passed in.
#[derive(Debug)]
struct ClockTime(Clock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(&self.0))
    }
}

fn unix_time(clock: &Clock) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(clock.now().0))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
