//! Messages that Chaperone itself sends to the agent.
//!
//! Errors and notices are encoded by `pgwire`; the rest is a few fixed forms. Zero bytes in texts are dropped, since strings
//! end with them.

use pgwire::messages::Message;
use pgwire::messages::response::{ErrorResponse, NoticeResponse};

/// How bad a notice is; the words are PostgreSQL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The request failed; the session goes on.
    Error,
    /// The session ends.
    Fatal,
    /// For information.
    Notice,
}

/// An error or notice to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Severity.
    pub severity: Severity,
    /// SQLSTATE.
    pub sqlstate: &'static str,
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// A whole frame from its body.
pub(super) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(body.len().saturating_add(5));
    frame.push(kind);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// The frame of an error or notice. Zero bytes in its texts are dropped, since the protocol ends strings with them.
#[must_use]
pub fn notice(notice: &Notice) -> Vec<u8> {
    let word = match notice.severity {
        Severity::Error => "ERROR",
        Severity::Fatal => "FATAL",
        Severity::Notice => "NOTICE",
    };
    let clean = |text: &str| text.replace('\0', "");
    let mut fields = vec![
        (b'S', word.to_owned()),
        (b'V', word.to_owned()),
        (b'C', notice.sqlstate.to_owned()),
        (b'M', clean(&notice.message)),
    ];
    if let Some(hint) = &notice.hint {
        fields.push((b'H', clean(hint)));
    }
    let mut out = bytes::BytesMut::new();
    let encoded = match notice.severity {
        Severity::Error | Severity::Fatal => ErrorResponse::new(fields).encode(&mut out),
        Severity::Notice => NoticeResponse::new(fields).encode(&mut out),
    };
    if let Err(error) = encoded {
        tracing::error!(%error, "cannot encode a notice");
    }
    out.to_vec()
}

/// An authentication request: 0 is `AuthenticationOk`, 10 to 12 are SASL's steps.
#[must_use]
pub fn authentication(kind: u32, data: &[u8]) -> Vec<u8> {
    frame(b'R', &[kind.to_be_bytes().as_slice(), data].concat())
}

/// `NegotiateProtocolVersion`: the minor version granted and the options not understood.
#[must_use]
pub fn negotiate(minor: u16, options: &[&str]) -> Vec<u8> {
    let mut body = (0x0003_0000_u32 | u32::from(minor)).to_be_bytes().to_vec();
    body.extend_from_slice(&u32::try_from(options.len()).unwrap_or(0).to_be_bytes());
    for option in options {
        body.extend_from_slice(option.as_bytes());
        body.push(0);
    }
    frame(b'v', &body)
}

/// `ReadyForQuery`, outside a transaction.
#[must_use]
pub fn ready() -> Vec<u8> {
    frame(b'Z', b"I")
}

/// `ParameterStatus`.
#[must_use]
pub fn parameter_status(name: &str, value: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for text in [name, value] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    frame(b'S', &body)
}

/// `BackendKeyData`.
#[must_use]
pub fn backend_key(pid: u32, secret: &[u8]) -> Vec<u8> {
    let mut body = pid.to_be_bytes().to_vec();
    body.extend_from_slice(secret);
    frame(b'K', &body)
}
