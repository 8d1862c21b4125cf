//! Where connections come from: the host's own port, and the ports in other network namespaces.
//!
//! One path for all of them. Neither side starves the other; dropping closes every port.

use crate::intercept::{Connection, Elsewhere, InterceptError, Listener, Namespaces};

/// All ports of the proxy.
#[derive(Debug)]
pub(super) struct Arrivals {
    here: Listener,
    namespaces: Namespaces,
    elsewhere: Elsewhere,
}

impl Arrivals {
    pub(super) fn new(here: Listener, namespaces: Namespaces, elsewhere: Elsewhere) -> Self {
        Self { here, namespaces, elsewhere }
    }

    /// The next connection of an agent. Cancel-safe: a connection is either returned or still queued.
    pub(super) async fn accept(&mut self) -> Result<Connection, InterceptError> {
        tokio::select! {
            accepted = self.here.accept() => accepted,
            connection = self.elsewhere.next() => Ok(connection),
        }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.namespaces.close();
    }
}
