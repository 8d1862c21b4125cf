//! A small HTTPS client for issuers: one GET per connection, nothing else.
//!
//! Refuses plain http, redirects, answers over the size limit and slow servers. The server's certificate is
//! checked in full against the configured CA file, or else the system's store.
//! Known limits: HTTP/1.1 only, no proxy, no compression.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, IpAddr, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::clock::Clock;

use super::error::KeysError;

/// Fetches documents from issuers. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    /// A client that trusts the CAs of `ca_file`, or the system's. The error is a sentence for the operator.
    pub(super) fn new(ca_file: Option<&Path>, clock: &Clock) -> Result<Self, String> {
        let roots = match ca_file {
            Some(path) => roots_of_file(path)?,
            None => roots_of_system()?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock.clone())))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    /// The body of `url`, if the answer is 200. Cancel-safe: dropping the future closes the connection.
    pub(super) async fn fetch(&self, url: &Url) -> Result<Bytes, KeysError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        match tokio::time::timeout(FETCH_TIMEOUT, self.exchange(url, &host)).await {
            Ok(done) => done,
            Err(_elapsed) => Err(KeysError::Timeout { host }),
        }
    }

    async fn exchange(&self, url: &Url, host: &str) -> Result<Bytes, KeysError> {
        let unreachable = |problem: String| KeysError::Connect { host: host.to_owned(), problem };
        let (server, dial) = server_of(url)?;
        let port = url.port_or_known_default().unwrap_or(443);
        let socket = TcpStream::connect((dial.as_str(), port))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let stream = TlsConnector::from(Arc::clone(&self.config))
            .connect(server, socket)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let request = request(url)?;
        let work = async {
            let answer =
                sender.send_request(request).await.map_err(|error| unreachable(error.to_string()))?;
            if answer.status() != StatusCode::OK {
                return Err(KeysError::Status { host: host.to_owned(), status: answer.status().as_u16() });
            }
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
            let body =
                body.map_err(|error| KeysError::Body { host: host.to_owned(), problem: error.to_string() })?;
            Ok(body.to_bytes())
        };
        tokio::pin!(work);
        // Dropping `connection` once the work is done closes the socket; the work is never dropped unfinished here.
        tokio::select! {
            biased;
            done = &mut work => done,
            driven = connection => match driven {
                Ok(()) => work.await,
                Err(error) => Err(unreachable(error.to_string())),
            },
        }
    }
}

/// An address an issuer may have: https, a host, and nothing that could smuggle.
pub(super) fn parse_address(text: &str) -> Result<Url, KeysError> {
    let refuse = || KeysError::Address(text.to_owned());
    let url = Url::parse(text).ok().ok_or_else(refuse)?;
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    if url.scheme() == "https" && url.host().is_some() && plain { Ok(url) } else { Err(refuse()) }
}

/// The name to verify and the text to dial.
fn server_of(url: &Url) -> Result<(ServerName<'static>, String), KeysError> {
    let refuse = || KeysError::Address(url.to_string());
    match url.host().ok_or_else(refuse)? {
        Host::Domain(name) => {
            let server = ServerName::try_from(name.to_owned()).ok().ok_or_else(refuse)?;
            Ok((server, name.to_owned()))
        }
        Host::Ipv4(address) => {
            Ok((ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(address))), address.to_string()))
        }
        Host::Ipv6(address) => {
            Ok((ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V6(address))), address.to_string()))
        }
    }
}

fn request(url: &Url) -> Result<Request<Empty<Bytes>>, KeysError> {
    let refuse = || KeysError::Address(url.to_string());
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Err(refuse()),
    };
    Request::get(path)
        .header(HOST, host)
        .header(ACCEPT, HeaderValue::from_static("application/json"))
        .header(USER_AGENT, HeaderValue::from_static(concat!("chaperone/", env!("CARGO_PKG_VERSION"))))
        .header(CONNECTION, HeaderValue::from_static("close"))
        .body(Empty::new())
        .map_err(|error| KeysError::Address(format!("{url}: {error}")))
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found =
        CertificateDer::pem_file_iter(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    for certificate in found.take(CA_CERTIFICATES_MAX) {
        let certificate = certificate.map_err(|error| format!("`{}`: {error}", path.display()))?;
        roots.add(certificate).map_err(|error| format!("`{}`: {error}", path.display()))?;
    }
    if roots.is_empty() { Err(format!("`{}` holds no certificate", path.display())) } else { Ok(roots) }
}

fn roots_of_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (added, _skipped) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 { Err("the system's store of authorities is empty".to_owned()) } else { Ok(roots) }
}

#[derive(Debug)]
struct ClockTime(Clock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().0)))
    }
}

/// 1 MiB: the largest key sets are under 50 KiB.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// For connecting, the handshake, the request and the whole body together.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The system's bundles hold about 150.
const CA_CERTIFICATES_MAX: usize = 1000;
