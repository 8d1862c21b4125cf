//! The first bytes of a connection, before frames have types.
//!
//! Known limit: GSSAPI encryption is always declined; the client then goes on in TLS or plain text.

use super::frame::{Reader, WireError};

/// Request codes that stand where a protocol version would.
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Major version 3.
const MAJOR: u32 = 3;
/// PostgreSQL's own limit for a start-up packet (`MAX_STARTUP_PACKET_LENGTH`).
const STARTUP_BYTES_MAX: usize = 10_000;
/// First byte of a TLS record that carries a ClientHello.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a client opens with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// Not enough bytes yet.
    More,
    /// TLS at once, without asking (PostgreSQL 17 and later clients).
    DirectTls,
    /// `SSLRequest`; `used` bytes are its own.
    Ssl {
        /// Bytes to drop.
        used: usize,
    },
    /// `GSSENCRequest`.
    Gssenc {
        /// Bytes to drop.
        used: usize,
    },
    /// `CancelRequest`.
    Cancel(CancelKey),
    /// `StartupMessage`.
    Startup(Startup, usize),
}

/// What names a running session in a cancel request.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// Process id.
    pub pid: u32,
    /// Secret; 4 bytes in protocol 3.0, up to 256 later.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelKey").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// A start-up message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// Minor protocol version that the client asked for.
    pub minor: u16,
    /// Parameters in the order sent.
    pub parameters: Vec<(String, String)>,
}

impl Startup {
    /// A parameter's value.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads what `buffer` opens with.
///
/// # Errors
/// When it is none of the openings.
pub fn read_opening(buffer: &[u8]) -> Result<Opening, WireError> {
    if buffer.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Opening::DirectTls);
    }
    let Some((length, _)) = buffer.split_first_chunk::<4>() else { return Ok(Opening::More) };
    let total = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if !(8..=STARTUP_BYTES_MAX).contains(&total) {
        return Err(WireError::Startup("its length is out of range"));
    }
    let Some(packet) = buffer.get(4..total) else { return Ok(Opening::More) };
    let mut reader = Reader::of_body(0, packet);
    match reader.u32()? {
        SSL_REQUEST if reader.is_empty() => Ok(Opening::Ssl { used: total }),
        GSSENC_REQUEST if reader.is_empty() => Ok(Opening::Gssenc { used: total }),
        CANCEL_REQUEST => {
            let pid = reader.u32()?;
            let secret = reader.bytes(total.saturating_sub(12))?.to_vec();
            if !(4..=256).contains(&secret.len()) {
                return Err(WireError::CancelKey);
            }
            Ok(Opening::Cancel(CancelKey { pid, secret }))
        }
        version if version >> 16 == MAJOR => {
            let minor = u16::try_from(version & 0xffff).unwrap_or(0);
            Ok(Opening::Startup(Startup { minor, parameters: parameters(reader)? }, total))
        }
        _ => Err(WireError::Startup("its protocol version is not 3")),
    }
}

fn parameters(mut reader: Reader<'_>) -> Result<Vec<(String, String)>, WireError> {
    let mut parameters = Vec::new();
    loop {
        let name = reader.text()?;
        if name.is_empty() {
            break;
        }
        parameters.push((name.to_owned(), reader.text()?.to_owned()));
    }
    // A zero byte inside a value would have ended it early and left bytes here.
    reader.finish().ok().ok_or(WireError::Startup("bytes follow its end"))?;
    Ok(parameters)
}
