//! The server end of TLS towards agents.
//!
//! Takes any byte stream, so that bytes peeked before the handshake can be put back in front of it.
//! Refuses peers that do not finish in time. Knows nothing of protocols: the caller picks the leaf and the ALPN.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::HANDSHAKE_TIMEOUT;
use super::error::TlsError;

/// Accepts TLS over `io`. Cancel-safe: dropping the future closes `io`.
///
/// # Errors
/// [`TlsError::Timeout`] or [`TlsError::Handshake`]; the peer was told by an alert where TLS has one.
pub async fn accept<IO>(io: IO, config: Arc<ServerConfig>) -> Result<TlsStream<IO>, TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let peer = || "the agent".to_owned();
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(io)).await {
        Ok(done) => done.map_err(|source| TlsError::Handshake { peer: peer(), source }),
        Err(_elapsed) => Err(TlsError::Timeout { peer: peer(), after: HANDSHAKE_TIMEOUT }),
    }
}
