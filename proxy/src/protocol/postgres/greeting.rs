//! The agent's side of a session's start: encryption, start-up message, authentication without a secret.
//!
//! Negotiation is a loop, because clients may ask for GSSAPI and TLS in either order. Bytes that a client sent after its
//! TLS request are given to TLS and to nothing else; a TLS request inside TLS is refused. Everything has one deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::scram::{Exchange, MESSAGE_BYTES_MAX, ScramError};
use super::wire::{self, CancelKey, Opening, Startup, WireError, next_frame, read_opening};
use crate::net::{BoxedStream, Prefixed};
use crate::tls::{Authority, LeafNames, TlsError};

/// Longest time from the first byte to the end of authentication: people do not type here.
pub(crate) const GREETING_TIME_MAX: Duration = Duration::from_secs(30);
/// ALPN of PostgreSQL (IANA registry).
const ALPN: &[u8] = b"postgresql";
/// Rounds of negotiation: GSSAPI, TLS, start-up, and one to spare.
const ROUNDS_MAX: usize = 4;

/// Why a greeting failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetingError {
    /// The connection broke.
    #[error("the agent's connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// It took too long.
    #[error("the agent did not finish its greeting in time")]
    TimedOut,
    /// The agent broke the protocol.
    #[error("the agent broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// The agent asked for TLS inside TLS, or too often.
    #[error("the agent broke the protocol: {0}")]
    Order(&'static str),
    /// TLS failed.
    #[error("TLS with the agent failed: {0}")]
    Tls(#[from] TlsError),
    /// SCRAM failed.
    #[error("SCRAM with the agent failed: {0}")]
    Scram(#[from] ScramError),
    /// The system has no randomness.
    #[error("the system has no randomness: {0}")]
    Random(#[from] getrandom::Error),
}

/// What a connection turned out to be.
pub(crate) enum Greeted {
    /// A session wants to start.
    Start(Client, Startup),
    /// A cancel request.
    Cancel(CancelKey, BoxedStream),
    /// The client went away without a word.
    Gone,
}

impl std::fmt::Debug for Greeted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start(_, startup) => f.debug_tuple("Start").field(startup).finish(),
            Self::Cancel(key, _) => f.debug_tuple("Cancel").field(key).finish(),
            Self::Gone => f.write_str("Gone"),
        }
    }
}

/// The agent's end of a session.
pub(crate) struct Client {
    /// Plain or TLS.
    pub(crate) stream: BoxedStream,
    /// Bytes read and not yet used.
    pub(crate) buffer: BytesMut,
    /// Whether it is encrypted.
    pub(crate) tls: bool,
    binding: Option<Vec<u8>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// Reads a connection's opening, with TLS if the client wants it.
///
/// # Errors
/// See [`GreetingError`].
pub(crate) async fn open(
    stream: BoxedStream,
    authority: &Authority,
    names: &LeafNames,
) -> Result<Greeted, GreetingError> {
    let mut client = Client { stream, buffer: BytesMut::new(), tls: false, binding: None };
    for _ in 0..ROUNDS_MAX {
        let opening = match client.opening().await {
            Ok(opening) => opening,
            Err(error) => return Err(client.refuse(error).await),
        };
        match opening {
            None => return Ok(Greeted::Gone),
            Some(Opening::More) => {}
            Some(Opening::DirectTls | Opening::Ssl { .. }) if client.tls => {
                return Err(client.refuse(GreetingError::Order("it asked for TLS inside TLS")).await);
            }
            Some(Opening::DirectTls) => client = client.encrypt(authority, names, Some(ALPN)).await?,
            Some(Opening::Ssl { used }) => {
                client.buffer.advance(used);
                client.stream.write_all(b"S").await?;
                client.stream.flush().await?;
                client = client.encrypt(authority, names, None).await?;
            }
            Some(Opening::Gssenc { used }) => {
                client.buffer.advance(used);
                client.stream.write_all(b"N").await?;
                client.stream.flush().await?;
            }
            Some(Opening::Cancel(key)) => return Ok(Greeted::Cancel(key, client.stream)),
            Some(Opening::Startup(startup, used)) => {
                client.buffer.advance(used);
                return Ok(Greeted::Start(client, startup));
            }
        }
    }
    Err(client.refuse(GreetingError::Order("it kept on negotiating")).await)
}

impl Client {
    /// Tells the client what was wrong with its opening, if it can still be told.
    async fn refuse(&mut self, error: GreetingError) -> GreetingError {
        // A cancel request has no answer, not even to a broken one: clients wait for the end and take data for an error.
        let silent = matches!(error, GreetingError::Wire(WireError::CancelKey));
        if !silent
            && matches!(error, GreetingError::Wire(_) | GreetingError::Order(_))
            && let Err(gone) = self.send(&wire::notice(&super::notices::opening(&error))).await
        {
            tracing::debug!(%gone, "the client could not be told");
        }
        error
    }

    /// The next opening, or `None` if the client left before sending a byte.
    async fn opening(&mut self) -> Result<Option<Opening>, GreetingError> {
        loop {
            match read_opening(&self.buffer)? {
                Opening::More => {}
                found => return Ok(Some(found)),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    async fn encrypt(
        self,
        authority: &Authority,
        names: &LeafNames,
        alpn: Option<&[u8]>,
    ) -> Result<Self, GreetingError> {
        let config = authority.server_config(names, alpn)?;
        let binding = authority.leaf_end_point_hash(names)?;
        let early = Prefixed::new(self.buffer, self.stream);
        let stream = crate::tls::accept(early, config).await?;
        Ok(Self { stream: Box::new(stream), buffer: BytesMut::new(), tls: true, binding: Some(binding) })
    }

    /// Sends bytes and waits until they are out.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), GreetingError> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// Lets the agent prove that it knows the placeholder.
    ///
    /// # Errors
    /// See [`GreetingError`].
    pub(crate) async fn scram(&mut self) -> Result<(), GreetingError> {
        let offered = self.binding.is_some();
        let mechanisms: &[u8] =
            if offered { b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0" } else { b"SCRAM-SHA-256\0\0" };
        self.send(&wire::authentication(10, mechanisms)).await?;
        let first = self.password_message().await?;
        let (mechanism, message) = initial_response(&first)?;
        let binding = match mechanism {
            "SCRAM-SHA-256" => None,
            "SCRAM-SHA-256-PLUS" if offered => self.binding.clone(),
            _ => return Err(ScramError::Malformed.into()),
        };
        let mut random = [0_u8; 34];
        getrandom::fill(&mut random)?;
        let exchange = Exchange::start(message, binding.as_deref(), offered, &random)?;
        self.send(&wire::authentication(11, exchange.server_first().as_bytes())).await?;
        let last = self.password_message().await?;
        let last = std::str::from_utf8(&last).ok().ok_or(ScramError::Malformed)?;
        let answer = exchange.finish(last)?;
        self.send(&wire::authentication(12, answer.as_bytes())).await
    }

    async fn password_message(&mut self) -> Result<BytesMut, GreetingError> {
        let limit = u32::try_from(MESSAGE_BYTES_MAX).ok();
        loop {
            if let Some(header) = next_frame(&self.buffer, &|kind| limit.filter(|_| kind == b'p'))?
                && self.buffer.len() >= header.total
            {
                let mut frame = self.buffer.split_to(header.total);
                frame.advance(5);
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// Mechanism and data of a `SASLInitialResponse` body.
fn initial_response(body: &[u8]) -> Result<(&str, &str), ScramError> {
    let end = body.iter().position(|byte| *byte == 0).ok_or(ScramError::Malformed)?;
    let (name, rest) = body.split_at_checked(end).ok_or(ScramError::Malformed)?;
    let data = rest.get(5..).ok_or(ScramError::Malformed)?;
    let text = |bytes| std::str::from_utf8(bytes).ok().ok_or(ScramError::Malformed);
    Ok((text(name)?, text(data)?))
}

/// Keeps the whole greeting under its deadline.
///
/// # Errors
/// `TimedOut`, or what the greeting answers.
pub(crate) async fn within<T>(
    greeting: impl Future<Output = Result<T, GreetingError>> + Send,
) -> Result<T, GreetingError> {
    tokio::time::timeout(GREETING_TIME_MAX, greeting).await.unwrap_or(Err(GreetingError::TimedOut))
}

/// The authority and the names it signs for, as one session needs them.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    /// The local CA.
    pub(crate) authority: Arc<Authority>,
    /// Names of the leaf.
    pub(crate) names: LeafNames,
}
