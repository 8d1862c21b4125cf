//! TLS towards a resource, with the meaning of libpq's `sslmode`.
//!
//! `require` with a CA file checks the chain, as libpq does when a root file exists; without one it accepts any
//! certificate. `verify-ca` and `verify-full` without a file use the system's store. `disable` has no connector:
//! asking for one is an error, so that plain text is always the caller's written decision.
//! INVARIANT: a stream comes out only after the mode's checks passed. Renegotiation and early data do not exist.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clock::Clock;
use crate::model::{UpstreamTls, UpstreamTlsMode};

use super::error::TlsError;
use super::roots::{Roots, certificates, private_key};
use super::verifier::{Check, Verifier};
use super::{ClockTime, HANDSHAKE_TIMEOUT, binding, provider};

/// Opens TLS towards one resource. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: Option<String>,
}

/// An open TLS stream to a resource.
#[derive(Debug)]
pub struct Upstream<IO> {
    /// The stream.
    pub stream: TlsStream<IO>,
    /// `tls-server-end-point` of the server's certificate; `None` if its signature has no hash of its own.
    pub binding: Option<Vec<u8>>,
}

impl Connector {
    /// A connector by the resource's rules. Reads the CA file and the client certificate (chain, key) now.
    ///
    /// # Errors
    /// [`TlsError::Disabled`] for the mode `disable`; otherwise what could not be read or was not usable.
    pub fn for_resource(
        rules: &UpstreamTls,
        client_certificate: Option<&(PathBuf, PathBuf)>,
        clock: &Clock,
    ) -> Result<Self, TlsError> {
        let check = match (rules.mode, rules.ca_file.as_deref()) {
            (UpstreamTlsMode::Disable, _) => return Err(TlsError::Disabled),
            (UpstreamTlsMode::Require, None) => Check::Any,
            (UpstreamTlsMode::Require, file @ Some(_)) | (UpstreamTlsMode::VerifyCa, file) => {
                Check::Chain(Roots::load(file)?)
            }
            (UpstreamTlsMode::VerifyFull, file) => Check::ChainAndName(Roots::load(file)?),
        };
        let provider = provider();
        let verifier = Verifier { check, provider: Arc::clone(&provider) };
        let builder = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock.clone())))
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Config { source })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match client_certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(certificates(chain)?, private_key(key)?)
                .map_err(|source| TlsError::Config { source })?,
        };
        // Each dial proves the server anew; a resumed session would show no certificate of this connection.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config: Arc::new(config), name: rules.server_name.clone() })
    }

    /// The same connector, offering one application protocol (`postgresql`).
    #[must_use]
    pub fn with_alpn(mut self, protocol: &[u8]) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![protocol.to_vec()];
        self.config = Arc::new(config);
        self
    }

    /// Opens TLS over `io`. `dialled` is the name or address that was dialled; the rules' own name comes first.
    ///
    /// # Errors
    /// [`TlsError::Certificate`] if the certificate was refused; [`TlsError::Timeout`], [`TlsError::Handshake`]
    /// or [`TlsError::Name`] otherwise. Cancel-safe: dropping the future closes `io`.
    pub async fn connect<IO>(&self, io: IO, dialled: &str) -> Result<Upstream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let name = self.name.as_deref().unwrap_or(dialled);
        let server = ServerName::try_from(name.to_owned()).map_err(|source| {
            tracing::debug!(%source, "server name refused");
            TlsError::Name { name: name.to_owned() }
        })?;
        let handshake = TlsConnector::from(Arc::clone(&self.config)).connect(server, io);
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(done) => done.map_err(|source| TlsError::from_client(name, source))?,
            Err(_elapsed) => {
                return Err(TlsError::Timeout { peer: format!("`{name}`"), after: HANDSHAKE_TIMEOUT });
            }
        };
        let (_, connection) = stream.get_ref();
        let binding = connection
            .peer_certificates()
            .and_then(<[_]>::first)
            .and_then(|certificate| binding::server_end_point(certificate.as_ref()));
        Ok(Upstream { stream, binding })
    }
}
