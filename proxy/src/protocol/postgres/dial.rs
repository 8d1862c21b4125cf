//! Reaching the resource: TCP, TLS by the resource's rules, credential.
//!
//! The address is the one the agent dialled, or another of the same name that answers sooner; once one answered, everything of
//! this session goes there. The name that must stand in the certificate comes from the configuration. A
//! credential file that others can read is refused, and so is a connection whose TLS falls short of the rule.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::catalog::Catalog;
use super::login::{self, Login, LoginError, Ready};
use super::wire::CancelKey;
use crate::clock::Clock;
use crate::model::{AddressPattern, Resource, Secret, Session, UpstreamTlsMode};
use crate::net::{BoxedStream, dial};
use crate::tls::{Connector, TlsError};

/// Longest time for the TCP connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time for TLS.
const TLS_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time for a cancel request to be taken.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest password file.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;
/// `SSLRequest`.
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Why a resource could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// No connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The resource does not offer TLS and the rule wants it.
    #[error("the resource at {0} does not offer TLS and its rule demands it")]
    NoTls(SocketAddr),
    /// TLS failed.
    #[error("TLS with the resource at {address} failed: {source}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: TlsError,
    },
    /// The credential could not be read.
    #[error("credential file `{path}` cannot be used: {problem}")]
    Credential {
        /// Which file.
        path: String,
        /// Why.
        problem: String,
    },
    /// The login failed.
    #[error("login at {address} failed: {source}")]
    Login {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: LoginError,
    },
}

/// What is needed to reach one resource at one address, again and again: for the session, its catalog, its cancels.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    resource: Arc<Resource>,
    address: SocketAddr,
    routes: Arc<[SocketAddr]>,
    /// The address that answered first.
    reached: Arc<OnceLock<SocketAddr>>,
    clock: Clock,
}

impl Dialer {
    /// For the resource of a session, at the addresses it may be reached at.
    #[must_use]
    pub(crate) fn new(session: &Session, clock: Clock) -> Self {
        Self {
            resource: Arc::clone(&session.resource),
            address: session.destination,
            routes: Arc::clone(&session.routes),
            reached: Arc::default(),
            clock,
        }
    }

    /// A session on the resource.
    ///
    /// # Errors
    /// See [`DialError`].
    pub(crate) async fn session(
        &self,
        minor: u16,
        parameters: Vec<(String, String)>,
    ) -> Result<(BoxedStream, Ready), DialError> {
        let (mut stream, binding) = self.connect().await?;
        let password = self.password().await?;
        let login = Login {
            minor,
            parameters,
            user: &self.resource.credential.user,
            password: password.as_ref(),
            tls: self.resource.tls.mode,
            binding,
        };
        let ready = login::login(&mut stream, &login).await.map_err(|source| self.login_failed(source))?;
        Ok((stream, ready))
    }

    /// The catalog of `database`, over a connection of its own.
    ///
    /// # Errors
    /// See [`DialError`].
    pub(crate) async fn catalog(&self, database: &str) -> Result<Catalog, DialError> {
        let parameters = [
            ("database", database),
            ("application_name", "chaperone catalog"),
            ("client_encoding", "UTF8"),
            ("search_path", "pg_catalog"),
        ];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let (mut stream, _ready) = self.session(0, parameters).await?;
        login::catalog(&mut stream).await.map_err(|source| self.login_failed(source))
    }

    /// Sends a cancel request and waits until the server closed the connection, as it does when it has acted.
    ///
    /// # Errors
    /// See [`DialError`].
    pub(crate) async fn cancel(&self, key: &CancelKey) -> Result<(), DialError> {
        let (mut stream, _binding) = self.connect().await?;
        let mut body = 80_877_102_u32.to_be_bytes().to_vec();
        body.extend_from_slice(&key.pid.to_be_bytes());
        body.extend_from_slice(&key.secret);
        let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
        let sent = async {
            stream.write_all(&[length.to_be_bytes().as_slice(), &body].concat()).await?;
            stream.flush().await?;
            stream.read(&mut [0_u8; 16]).await
        };
        let result = tokio::time::timeout(CANCEL_TIME_MAX, sent).await;
        let source = match result {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(source)) => source,
            Err(_) => std::io::ErrorKind::TimedOut.into(),
        };
        Err(DialError::Connect { address: self.address, source })
    }

    fn login_failed(&self, source: LoginError) -> DialError {
        DialError::Login { address: self.address, source }
    }

    async fn connect(&self) -> Result<(BoxedStream, Option<Vec<u8>>), DialError> {
        let failed = |source| DialError::Connect { address: self.address, source };
        // A cancel or a catalog of another server of the same name would be about something else.
        let stream = match self.reached.get() {
            Some(reached) => dial(&[*reached], CONNECT_TIME_MAX).await.map_err(failed)?,
            None => dial(&self.routes, CONNECT_TIME_MAX).await.map_err(failed)?,
        };
        self.reached.get_or_init(|| stream.peer_addr().unwrap_or(self.address));
        stream.set_nodelay(true).map_err(failed)?;
        if self.resource.tls.mode == UpstreamTlsMode::Disable {
            return Ok((Box::new(stream), None));
        }
        match tokio::time::timeout(TLS_TIME_MAX, self.encrypt(stream)).await {
            Ok(result) => result,
            Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
        }
    }

    async fn encrypt(&self, mut stream: TcpStream) -> Result<(BoxedStream, Option<Vec<u8>>), DialError> {
        let failed = |source| DialError::Connect { address: self.address, source };
        stream.write_all(SSL_REQUEST).await.map_err(failed)?;
        // One byte and no more: anything behind it belongs to TLS.
        if stream.read_u8().await.map_err(failed)? != b'S' {
            return Err(DialError::NoTls(self.address));
        }
        let tls = |source| DialError::Tls { address: self.address, source };
        let certificate = self.resource.credential.client_certificate.as_ref();
        let connector = Connector::for_resource(&self.resource.tls, certificate, &self.clock).map_err(tls)?;
        let connected = connector.connect(stream, &self.server_name()).await.map_err(tls)?;
        Ok((Box::new(connected.stream), connected.binding))
    }

    /// The name that the certificate must carry.
    fn server_name(&self) -> String {
        if let Some(name) = &self.resource.tls.server_name {
            return name.clone();
        }
        let named = self.resource.addresses.iter().find_map(|pattern| match pattern {
            AddressPattern::Name { host, port } if *port == self.address.port() => Some(host.clone()),
            AddressPattern::Name { .. } | AddressPattern::Network { .. } => None,
        });
        let literal = self.resource.addresses.iter().any(|pattern| pattern.contains(self.address));
        match named {
            Some(name) if !literal => name,
            Some(_) | None => self.address.ip().to_string(),
        }
    }

    async fn password(&self) -> Result<Option<Secret>, DialError> {
        match &self.resource.credential.password_file {
            Some(path) => read_secret(path).await.map(Some),
            None => Ok(None),
        }
    }
}

async fn read_secret(path: &Path) -> Result<Secret, DialError> {
    let refuse = |problem: String| DialError::Credential { path: path.display().to_string(), problem };
    let metadata = tokio::fs::metadata(path).await.map_err(|error| refuse(error.to_string()))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(refuse("others than its owner can read it".to_owned()));
    }
    if !metadata.is_file() || metadata.len() > PASSWORD_BYTES_MAX {
        return Err(refuse("it is not a small file".to_owned()));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(|error| refuse(error.to_string()))?;
    let secret = Secret::new(text);
    Ok(Secret::new(secret.expose().trim_end_matches(['\r', '\n']).to_owned()))
}
