//! A small, real OpenID provider on a loopback port: discovery, keys, and tokens by client credentials.
//!
//! Speaks HTTPS with a certificate of the test's own [`Ca`]. Tests mint tokens with any claims and keys, rotate
//! keys, and make the provider misbehave in named ways. It stops when its value is dropped.
//! Limits: one audience per token, no refresh, no users; not for anything but tests and the demo.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chaperone::clock::Clock;
use chaperone::shutdown::{Phase, Shutdown};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::ca::{Ca, Validity};

/// A running provider.
#[derive(Debug)]
pub struct Provider {
    shared: Arc<Shared>,
    ca_pem: String,
    shutdown: Shutdown,
}

/// How the provider behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    Correct,
    /// Closes every connection at once.
    Down,
    /// The discovery document names another issuer.
    OtherIssuer,
    /// Every document is a redirect to itself.
    Redirect,
    /// The key set is larger than anybody should read.
    Flood,
    /// Accepts connections and says nothing.
    Silent,
}

/// What becomes of the old key at a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldKey {
    /// Still published, as issuers do until its last token has run out.
    Kept,
    /// Withdrawn at once.
    Withdrawn,
}

/// A signing key with its id.
#[derive(Debug)]
pub struct SigningKey {
    kid: String,
    key: EcdsaKeyPair,
}

#[derive(Debug)]
struct Shared {
    issuer: String,
    state: Mutex<State>,
    key_requests: AtomicU64,
    clock: Clock,
}

#[derive(Debug)]
struct State {
    /// The last one signs.
    keys: Vec<Arc<SigningKey>>,
    clients: HashMap<String, Client>,
    behaviour: Behaviour,
    lifetime: Duration,
}

#[derive(Debug, Clone)]
struct Client {
    secret: String,
    subject: String,
    groups: Vec<String>,
}

impl SigningKey {
    /// A new ES256 key.
    ///
    /// # Errors
    /// If the machine has no randomness.
    pub fn new(kid: &str) -> anyhow::Result<Self> {
        let key =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).context("cannot generate a key")?;
        Ok(Self { kid: kid.to_owned(), key })
    }

    /// A token with these claims, signed by this key.
    ///
    /// # Errors
    /// If signing fails.
    pub fn mint(&self, claims: &Value) -> anyhow::Result<String> {
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.kid }).to_string();
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).context("cannot sign")?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn jwk(&self) -> Value {
        // An uncompressed point: a tag byte and two coordinates of 32.
        let coordinates = self.key.public_key().as_ref().get(1..).unwrap_or_default();
        let (x, y) = coordinates.split_at_checked(32).unwrap_or_default();
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }
}

impl Provider {
    /// Starts a provider on a free port of 127.0.0.1, with a certificate of `ca` for `localhost`.
    ///
    /// # Errors
    /// If the port or the certificate cannot be had.
    pub async fn start(ca: &Ca) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let acceptor =
            TlsAcceptor::from(ca.server(&["localhost", "127.0.0.1"], Validity::Current)?.server_config()?);
        let shared = Arc::new(Shared {
            issuer: format!("https://localhost:{}", listener.local_addr()?.port()),
            state: Mutex::new(State {
                keys: vec![Arc::new(SigningKey::new("key-1")?)],
                clients: HashMap::new(),
                behaviour: Behaviour::Correct,
                lifetime: Duration::from_secs(300),
            }),
            key_requests: AtomicU64::new(0),
            clock: Clock::system(),
        });
        let shutdown = Shutdown::default();
        shutdown.spawn("provider", serve(listener, acceptor, Arc::clone(&shared), shutdown.clone()));
        Ok(Self { shared, ca_pem: ca.pem(), shutdown })
    }

    /// The issuer's URL, `https://localhost:PORT`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.shared.issuer
    }

    /// Registers a client for the client credentials grant.
    pub fn register(&self, id: &str, secret: &str, subject: &str, groups: &[&str]) {
        let client = Client {
            secret: secret.to_owned(),
            subject: subject.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        self.shared.with(|state| state.clients.insert(id.to_owned(), client));
    }

    /// Sets the lifetime of tokens from now on.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.shared.with(|state| state.lifetime = lifetime);
    }

    /// Sets how it behaves from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.with(|state| state.behaviour = behaviour);
    }

    /// Makes a new key the signing one.
    ///
    /// # Errors
    /// If the machine has no randomness.
    pub fn rotate(&self, old: OldKey) -> anyhow::Result<()> {
        self.shared.with(|state| {
            let key = Arc::new(SigningKey::new(&format!("key-{:x}", self.shared.clock.now().0))?);
            match old {
                OldKey::Kept => {}
                OldKey::Withdrawn => state.keys.clear(),
            }
            state.keys.push(key);
            Ok(())
        })
    }

    /// The claims of an ordinary token.
    #[must_use]
    pub fn claims(&self, subject: &str, audience: &str, groups: &[&str]) -> Value {
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        self.shared.claims(subject, audience, &groups)
    }

    /// A token with these claims, signed by the current key.
    ///
    /// # Errors
    /// If signing fails.
    pub fn mint(&self, claims: &Value) -> anyhow::Result<String> {
        self.shared.signer()?.mint(claims)
    }

    /// How often the keys were asked for.
    #[must_use]
    pub fn key_requests(&self) -> u64 {
        self.shared.key_requests.load(Ordering::SeqCst)
    }

    /// A token by the client credentials grant, over HTTPS as any client would.
    ///
    /// # Errors
    /// If the provider refuses or cannot be reached.
    pub async fn client_credentials(&self, id: &str, secret: &str, audience: &str) -> anyhow::Result<String> {
        client_credentials(
            self.issuer(),
            &self.ca_pem,
            &[("client_id", id), ("client_secret", secret), ("audience", audience)],
        )
        .await
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.shutdown.advance(Phase::Forced);
    }
}

impl Shared {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // A panic while holding the lock leaves plain data behind; using it is fine.
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn signer(&self) -> anyhow::Result<Arc<SigningKey>> {
        self.with(|state| state.keys.last().cloned()).context("the provider has no key")
    }

    fn claims(&self, subject: &str, audience: &str, groups: &[String]) -> Value {
        let now = self.clock.now().0 / 1000;
        let lifetime = self.with(|state| state.lifetime).as_secs();
        json!({
            "iss": self.issuer, "sub": subject, "aud": audience, "groups": groups,
            "iat": now, "nbf": now, "exp": now.saturating_add(lifetime),
        })
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>, shutdown: Shutdown) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        shutdown.spawn("provider connection", async move {
            match shared.with(|state| state.behaviour) {
                Behaviour::Down => return,
                Behaviour::Silent => return std::future::pending().await,
                Behaviour::Correct | Behaviour::OtherIssuer | Behaviour::Redirect | Behaviour::Flood => {}
            }
            let Ok(stream) = acceptor.accept(socket).await else { return };
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(&shared, request).await) }
            });
            // A client that hangs up early is no concern of the provider's.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let behaviour = shared.with(|state| state.behaviour);
    let path = request.uri().path().to_owned();
    if behaviour == Behaviour::Redirect {
        let mut response = reply(StatusCode::FOUND, String::new());
        if let Ok(location) = format!("{}{path}", shared.issuer).parse() {
            response.headers_mut().insert(hyper::header::LOCATION, location);
        }
        return response;
    }
    match (request.method(), path.as_str()) {
        (&Method::GET, "/.well-known/openid-configuration") => {
            reply(StatusCode::OK, discovery(shared, behaviour).to_string())
        }
        (&Method::GET, "/jwks") => {
            shared.key_requests.fetch_add(1, Ordering::SeqCst);
            let keys: Vec<Value> = shared.with(|state| state.keys.iter().map(|key| key.jwk()).collect());
            let padding = if behaviour == Behaviour::Flood { "x".repeat(FLOOD_BYTES) } else { String::new() };
            let document = json!({ "keys": keys, "padding": padding });
            reply(StatusCode::OK, document.to_string())
        }
        (&Method::POST, "/token") => {
            let (status, body) = token(shared, request).await;
            reply(status, body.to_string())
        }
        _ => reply(StatusCode::NOT_FOUND, "{}".to_owned()),
    }
}

fn discovery(shared: &Shared, behaviour: Behaviour) -> Value {
    let issuer = &shared.issuer;
    let named = if behaviour == Behaviour::OtherIssuer { "https://idp.elsewhere" } else { issuer };
    json!({
        "issuer": named,
        "jwks_uri": format!("{issuer}/jwks"),
        "token_endpoint": format!("{issuer}/token"),
        "authorization_endpoint": format!("{issuer}/authorize"),
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// RFC 6749 section 4.4.
async fn token(shared: &Shared, request: Request<Incoming>) -> (StatusCode, Value) {
    let refuse = |status, code: &str| (status, json!({ "error": code }));
    let basic =
        request.headers().get(hyper::header::AUTHORIZATION).and_then(|value| credentials(value.as_bytes()));
    let Ok(body) = Limited::new(request.into_body(), FORM_BYTES_MAX).collect().await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request");
    };
    let form = form(&String::from_utf8_lossy(&body.to_bytes()));
    let field = |name: &str| form.get(name).cloned().unwrap_or_default();
    if field("grant_type") != "client_credentials" {
        return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let (id, secret) = basic.unwrap_or_else(|| (field("client_id"), field("client_secret")));
    let client =
        shared.with(|state| state.clients.get(&id).cloned()).filter(|client| client.secret == secret);
    let Some(client) = client else { return refuse(StatusCode::UNAUTHORIZED, "invalid_client") };
    let audience = Some(field("audience")).filter(|audience| !audience.is_empty());
    let claims =
        shared.claims(&client.subject, audience.as_deref().unwrap_or(&shared.issuer), &client.groups);
    match shared.signer().and_then(|key| key.mint(&claims)) {
        Ok(token) => {
            let lifetime = shared.with(|state| state.lifetime).as_secs();
            (StatusCode::OK, json!({ "access_token": token, "token_type": "Bearer", "expires_in": lifetime }))
        }
        Err(_unsigned) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    }
}

fn credentials(header: &[u8]) -> Option<(String, String)> {
    let encoded = header.strip_prefix(b"Basic ")?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((decode(id), decode(secret)))
}

fn form(text: &str) -> HashMap<String, String> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// `application/x-www-form-urlencoded`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (byte, next) = match (first, escaped) {
            (b'%', Some(byte)) => (byte, after.get(2..).unwrap_or_default()),
            (b'+', _) => (b' ', after),
            (other, _) => (*other, after),
        };
        bytes.push(byte);
        rest = next;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encode(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn reply(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}

/// Asks the token endpoint of `issuer` for a token with the client credentials grant and these further fields.
///
/// # Errors
/// If the issuer cannot be reached, is not certified by `ca_pem`, or refuses.
pub async fn client_credentials(
    issuer: &str,
    ca_pem: &str,
    fields: &[(&str, &str)],
) -> anyhow::Result<String> {
    let authority = issuer.strip_prefix("https://").context("the issuer is not https")?;
    let (host, _) = authority.split_once(':').context("the issuer has no port")?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(authority).await?;
    let stream =
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(host.to_owned())?, socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut body = "grant_type=client_credentials".to_owned();
    for (name, value) in fields {
        body.push_str(&format!("&{}={}", encode(name), encode(value)));
    }
    let request = Request::post("/token")
        .header(hyper::header::HOST, authority)
        .header(hyper::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(hyper::header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))?;
    let work = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), FORM_BYTES_MAX).collect().await;
        let bytes = bytes.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        ensure!(
            status == StatusCode::OK,
            "the provider answered {status}: {}",
            String::from_utf8_lossy(&bytes)
        );
        let answer: Value = serde_json::from_slice(&bytes)?;
        Ok(answer
            .get("access_token")
            .and_then(Value::as_str)
            .context("no access token in the answer")?
            .to_owned())
    };
    tokio::pin!(work);
    // Nothing is lost if the connection ends first: the answer is read to its end after it.
    tokio::select! {
        biased;
        done = &mut work => done,
        driven = connection => { driven?; work.await }
    }
}

/// Larger than any client of ours should read.
const FLOOD_BYTES: usize = 2 * 1024 * 1024;
/// A form or a token answer is well under a kilobyte or two.
const FORM_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_survive_a_round_trip() {
        let text = "a+b %&=é/\"";
        assert_eq!(decode(&encode(text)), text);
        assert_eq!(decode("a+b%2"), "a b%2");
        assert_eq!(form("a=1&b=%20&c").get("b").map(String::as_str), Some(" "));
    }
}
