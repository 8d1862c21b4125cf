//! The seam between sessions and protocols: what a protocol is given, and what it owes.
//!
//! A protocol gets a stream and a door and nothing else of the daemon. It owes one [`SessionEnd`].

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::gate::Door;
use crate::model::{Fault, Protocol};
use crate::net::BoxedStream;
use crate::shutdown::Shutdown;

/// One connection, identified and ready to be spoken to.
pub struct Incoming {
    stream: Option<TcpStream>,
    /// The gate, as this session sees it.
    pub door: Door,
    /// Ends with a reason when an operator, a revocation or the daemon's end stops this session.
    pub kill: watch::Receiver<Option<String>>,
    /// The daemon's end.
    pub shutdown: Shutdown,
    unreached: Arc<dyn Unreached>,
}

/// Where it is noted that a destination could not be reached, so that the agent's next `connect` fails with the true error.
pub trait Unreached: fmt::Debug + Send + Sync {
    /// Notes that the account's connection to `destination` failed with `error`, a number of the kernel's.
    fn note(&self, account: u64, destination: SocketAddr, error: i32);
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("door", &self.door).finish_non_exhaustive()
    }
}

impl Incoming {
    /// Puts the pieces together.
    #[must_use]
    pub fn new(
        stream: TcpStream,
        door: Door,
        kill: watch::Receiver<Option<String>>,
        (shutdown, unreached): (Shutdown, Arc<dyn Unreached>),
    ) -> Self {
        Self { stream: Some(stream), door, kill, shutdown, unreached }
    }

    /// Notes that the destination could not be reached. To be called before the agent's connection is reset: it may try again
    /// at once.
    pub fn not_reached(&self, error: &io::Error) {
        let session = self.door.session();
        if let Some(error) = error.raw_os_error() {
            self.unreached.note(session.evidence.account, session.destination, error);
        }
    }

    /// The agent's stream. The second call gets one that is at its end.
    pub fn take_stream(&mut self) -> BoxedStream {
        match self.stream.take() {
            Some(stream) => Box::new(stream),
            None => Box::new(tokio::io::join(tokio::io::empty(), tokio::io::sink())),
        }
    }

    /// The agent's socket itself, for a protocol that carries resets on. `None` if it was taken before.
    pub fn take_socket(&mut self) -> Option<TcpStream> {
        self.stream.take()
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEnd {
    /// Whose fault, if it was one.
    pub fault: Option<Fault>,
    /// One sentence for the record.
    pub why: String,
    /// Bytes from the agent.
    pub bytes_in: u64,
    /// Bytes to the agent.
    pub bytes_out: u64,
}

impl SessionEnd {
    /// An orderly end.
    #[must_use]
    pub fn quiet(why: impl Into<String>) -> Self {
        Self { fault: None, why: why.into(), bytes_in: 0, bytes_out: 0 }
    }

    /// The agent's fault.
    #[must_use]
    pub fn client(why: impl Into<String>) -> Self {
        Self { fault: Some(Fault::Client), ..Self::quiet(why) }
    }

    /// The resource's fault.
    #[must_use]
    pub fn server(why: impl Into<String>) -> Self {
        Self { fault: Some(Fault::Server), ..Self::quiet(why) }
    }

    /// Our own fault.
    #[must_use]
    pub fn ours(why: impl Into<String>) -> Self {
        Self { fault: Some(Fault::Ours), ..Self::quiet(why) }
    }

    /// Refused before it began.
    #[must_use]
    pub fn refused(why: impl Into<String>) -> Self {
        Self::quiet(why)
    }

    /// Whether the agent's side failed.
    #[must_use]
    pub fn is_client(&self) -> bool {
        self.fault == Some(Fault::Client)
    }
}

/// A session being served.
pub type ServeFuture<'a> = Pin<Box<dyn Future<Output = SessionEnd> + Send + 'a>>;

/// A protocol.
pub trait Serve: fmt::Debug + Send + Sync {
    /// Which one.
    fn protocol(&self) -> Protocol;

    /// Serves one connection to its end.
    fn serve(&self, incoming: Incoming) -> ServeFuture<'_>;
}
