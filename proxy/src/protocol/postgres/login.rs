//! Logging in to the resource with its own credential, and asking its catalog.
//!
//! Never relays authentication messages between agent and server. The server's words on a failed login stay in the log: the
//! agent is told only that the resource refused. Unsupported: GSSAPI, SSPI, OAuth.

use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::catalog::{Catalog, CatalogError, QUERIES, Row};
use super::wire::{self, CancelKey, ErrorFields, WireError, next_frame};
use crate::model::{Secret, UpstreamTlsMode};
use crate::net::BoxedStream;

/// Longest message accepted before the session runs; catalogs come as many short rows.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// Longest time for a whole login.
pub(crate) const LOGIN_TIME_MAX: Duration = Duration::from_secs(15);
/// Longest time for reading the catalog.
const CATALOG_TIME_MAX: Duration = Duration::from_secs(20);
/// Parameters a server reports at start; PostgreSQL 18 reports 15.
const PARAMETERS_MAX: usize = 256;

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// The connection broke.
    #[error("the resource's connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// It took too long.
    #[error("the resource did not answer in time")]
    TimedOut,
    /// The server broke the protocol.
    #[error("the resource broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// The server sent something out of place.
    #[error("the resource broke the protocol: {0}")]
    Order(&'static str),
    /// The server answered with an error.
    #[error("the resource refused: SQLSTATE {sqlstate}")]
    Refused {
        /// Its code.
        sqlstate: String,
    },
    /// It wants an authentication that is not there.
    #[error("the resource wants authentication of kind {0}, which is not supported")]
    Method(u32),
    /// It wants a password and none is configured.
    #[error("the resource wants a password and none is configured")]
    NoPassword,
    /// It wants the password in the clear on a connection without TLS.
    #[error("the resource wants the password in the clear and the connection is not encrypted")]
    ClearPassword,
    /// The server did not prove that it knows the password.
    #[error("the resource's SCRAM answer does not hold")]
    Scram,
    /// The catalog could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// What a login needs.
#[derive(Debug)]
pub(crate) struct Login<'a> {
    /// Minor protocol version; 0 unless the client asked for more.
    pub(crate) minor: u16,
    /// Start-up parameters, without `user`.
    pub(crate) parameters: Vec<(String, String)>,
    /// Account.
    pub(crate) user: &'a str,
    /// Password.
    pub(crate) password: Option<&'a Secret>,
    /// TLS mode in force.
    pub(crate) tls: UpstreamTlsMode,
    /// End-point hash of the server's certificate, for `-PLUS`.
    pub(crate) binding: Option<Vec<u8>>,
}

/// A session that is ready for requests.
#[derive(Debug)]
pub(crate) struct Ready {
    /// What the server reported of itself.
    pub(crate) parameters: Vec<(String, String)>,
    /// The server's cancel key.
    pub(crate) key: Option<CancelKey>,
    /// Minor protocol version that the server granted.
    pub(crate) minor: u16,
}

/// Logs in.
///
/// # Errors
/// See [`LoginError`].
pub(crate) async fn login(stream: &mut BoxedStream, login: &Login<'_>) -> Result<Ready, LoginError> {
    tokio::time::timeout(LOGIN_TIME_MAX, run(stream, login)).await.unwrap_or(Err(LoginError::TimedOut))
}

async fn run(stream: &mut BoxedStream, login: &Login<'_>) -> Result<Ready, LoginError> {
    stream.write_all(&startup(login)).await?;
    stream.flush().await?;
    let mut reader = Frames { stream, buffer: BytesMut::new() };
    let mut ready = Ready { parameters: Vec::new(), key: None, minor: login.minor };
    let mut proven = login.password.is_none();
    loop {
        let frame = reader.next().await?;
        match frame.first() {
            Some(b'R') => match authentication(&frame)? {
                (0, _) => proven = true,
                (kind, rest) => authenticate(&mut reader, login, kind, rest).await?,
            },
            Some(b'S') => {
                let (name, value) = wire::read_setting(&frame)?;
                if ready.parameters.len() >= PARAMETERS_MAX {
                    return Err(LoginError::Order("it reports too many parameters"));
                }
                ready.parameters.push((name.to_owned(), value.to_owned()));
            }
            Some(b'K') => ready.key = Some(wire::read_backend_key(&frame)?),
            Some(b'v') => ready.minor = wire::read_negotiated_minor(&frame)?.min(login.minor),
            Some(b'N') => {}
            Some(b'Z') if proven => return Ok(ready),
            Some(b'E') => return Err(refused(&frame)),
            _ => return Err(LoginError::Order("a message that has no place in a login")),
        }
    }
}

fn startup(login: &Login<'_>) -> Vec<u8> {
    let mut body = (0x0003_0000_u32 | u32::from(login.minor)).to_be_bytes().to_vec();
    let user = [("user".to_owned(), login.user.to_owned())];
    for (name, value) in user.iter().chain(&login.parameters) {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
    [length.to_be_bytes().as_slice(), &body].concat()
}

fn refused(frame: &[u8]) -> LoginError {
    match ErrorFields::read(frame) {
        Ok(fields) => {
            tracing::warn!(answer = %fields.for_log(), "the resource refused");
            LoginError::Refused { sqlstate: fields.sqlstate() }
        }
        Err(error) => error.into(),
    }
}

/// The kind of an authentication request and its data.
fn authentication(frame: &[u8]) -> Result<(u32, &[u8]), LoginError> {
    let body = frame.get(5..).unwrap_or_default();
    let (kind, rest) =
        body.split_first_chunk::<4>().ok_or(LoginError::Order("an authentication request cut short"))?;
    Ok((u32::from_be_bytes(*kind), rest))
}

/// Answers one authentication request, with all its rounds.
async fn authenticate(
    reader: &mut Frames<'_>,
    login: &Login<'_>,
    kind: u32,
    data: &[u8],
) -> Result<(), LoginError> {
    let password = login.password.ok_or(LoginError::NoPassword);
    match kind {
        3 if login.tls == UpstreamTlsMode::Disable => Err(LoginError::ClearPassword),
        3 => reader.answer(&terminated(password?.expose().as_bytes())).await,
        5 => {
            let salt = data.try_into().ok().ok_or(LoginError::Order("an MD5 salt of another length"))?;
            let hash = md5_hash(login.user.as_bytes(), password?.expose().as_bytes(), salt);
            reader.answer(&terminated(hash.as_bytes())).await
        }
        10 => scram(reader, password?, login.binding.clone(), data).await,
        other => Err(LoginError::Method(other)),
    }
}

async fn scram(
    reader: &mut Frames<'_>,
    password: &Secret,
    binding: Option<Vec<u8>>,
    offered: &[u8],
) -> Result<(), LoginError> {
    let mechanisms: Vec<&[u8]> = offered.split(|byte| *byte == 0).collect();
    let has = |name: &str| mechanisms.contains(&name.as_bytes());
    let (mechanism, binding) = match binding {
        Some(hash) if has(SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash))
        }
        Some(_) if has(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        None if has(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        Some(_) | None => return Err(LoginError::Method(10)),
    };
    let mut client = ScramSha256::new(password.expose().as_bytes(), binding);
    let first = client.message();
    let length = i32::try_from(first.len()).ok().ok_or(LoginError::Scram)?;
    let body = [mechanism.as_bytes(), b"\0", &length.to_be_bytes(), first].concat();
    reader.answer(&body).await?;
    let frame = reader.sasl(11).await?;
    client.update(&frame).ok().ok_or(LoginError::Scram)?;
    let answer = client.message().to_vec();
    reader.answer(&answer).await?;
    let frame = reader.sasl(12).await?;
    client.finish(&frame).ok().ok_or(LoginError::Scram)
}

fn terminated(text: &[u8]) -> Vec<u8> {
    [text, b"\0"].concat()
}

/// Whole frames off a stream, one at a time.
struct Frames<'a> {
    stream: &'a mut BoxedStream,
    buffer: BytesMut,
}

impl Frames<'_> {
    async fn next(&mut self) -> Result<BytesMut, LoginError> {
        loop {
            if let Some(header) = next_frame(&self.buffer, &|_| Some(FRAME_BYTES_MAX))?
                && self.buffer.len() >= header.total
            {
                return Ok(self.buffer.split_to(header.total));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    async fn answer(&mut self, body: &[u8]) -> Result<(), LoginError> {
        let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
        let frame = zeroize::Zeroizing::new([b"p", length.to_be_bytes().as_slice(), body].concat());
        self.stream.write_all(&frame).await?;
        Ok(self.stream.flush().await?)
    }

    /// The data of the SASL step `kind`.
    async fn sasl(&mut self, kind: u32) -> Result<Vec<u8>, LoginError> {
        let frame = self.next().await?;
        if frame.first() == Some(&b'E') {
            return Err(refused(&frame));
        }
        match authentication(&frame)? {
            (found, data) if frame.first() == Some(&b'R') && found == kind => Ok(data.to_vec()),
            _ => Err(LoginError::Order("a SASL step out of place")),
        }
    }

    async fn rows(&mut self, query: &str) -> Result<Vec<Row>, LoginError> {
        let body = terminated(query.as_bytes());
        let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
        self.stream.write_all(&[b"Q", length.to_be_bytes().as_slice(), &body].concat()).await?;
        self.stream.flush().await?;
        let mut rows = Vec::new();
        loop {
            let frame = self.next().await?;
            match frame.first() {
                Some(b'D') => {
                    rows.push(wire::read_text_row(&frame)?);
                    if rows.len() > super::catalog::RELATIONS_MAX.saturating_mul(16) {
                        return Err(CatalogError::TooLarge.into());
                    }
                }
                Some(b'Z') => return Ok(rows),
                Some(b'E') => return Err(refused(&frame)),
                _ => {}
            }
        }
    }
}

/// Reads the catalog over a connection that is logged in, and says goodbye.
///
/// # Errors
/// See [`LoginError`].
pub(crate) async fn catalog(stream: &mut BoxedStream) -> Result<Catalog, LoginError> {
    let read = async {
        let mut frames = Frames { stream, buffer: BytesMut::new() };
        let mut results: [Vec<Row>; QUERIES.len()] = Default::default();
        for (query, result) in QUERIES.iter().zip(&mut results) {
            *result = frames.rows(query).await?;
        }
        frames.stream.write_all(b"X\0\0\0\x04").await?;
        Ok(Catalog::read(results)?)
    };
    tokio::time::timeout(CATALOG_TIME_MAX, read).await.unwrap_or(Err(LoginError::TimedOut))
}
