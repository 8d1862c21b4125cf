//! Telling systemd (or whoever set `NOTIFY_SOCKET`) how the daemon is: sd_notify(3), by its documented protocol.
//!
//! A failure is logged and otherwise without consequence: it must never stop the daemon.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How often the watchdog is fed when systemd asks for none: the tick only costs a wake-up then.
const NO_WATCHDOG: Duration = Duration::from_secs(30);

/// The notification socket, if there is one.
#[derive(Debug)]
pub(super) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub(super) fn from_environment() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| match open(name.as_bytes()) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "cannot use NOTIFY_SOCKET");
                None
            }
        });
        let watchdog =
            std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok()).map(Duration::from_micros);
        Self { socket, watchdog }
    }

    pub(super) fn ready(&self) {
        self.send("READY=1\nSTATUS=guarding agents\n");
    }

    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=letting sessions finish\n");
    }

    /// Fed from the accept loop, so that a loop that hangs is noticed.
    pub(super) fn alive(&self) {
        if self.watchdog.is_some() {
            self.send("WATCHDOG=1\n");
        }
    }

    /// How often to call [`Notifier::alive`]: half the watchdog's time, as sd_watchdog_enabled(3) advises.
    pub(super) fn interval(&self) -> Duration {
        self.watchdog.map_or(NO_WATCHDOG, |time| time / 2).max(Duration::from_millis(10))
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}

fn open(name: &[u8]) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    Ok((UnixDatagram::unbound()?, address))
}
