//! Where one message ends and the next begins.
//!
//! A frame is a type byte, a big-endian length that counts itself, and a body. A length below four, above the limit of its
//! type, or an unknown type is an error at the header, before any body is awaited.

/// Why bytes are not the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The length field is impossible.
    #[error("message of type {kind:#04x} says it is {length} bytes long")]
    Length {
        /// Type byte.
        kind: u8,
        /// What the length field says.
        length: u32,
    },
    /// The length field is over the limit for its type.
    #[error("message of type {kind:#04x} is {length} bytes long, over the limit of {limit}")]
    TooLong {
        /// Type byte.
        kind: u8,
        /// What the length field says.
        length: u32,
        /// The limit.
        limit: u32,
    },
    /// A message type that has no place here.
    #[error("message type {0:#04x} is not known here")]
    UnknownType(u8),
    /// A field runs past the end of its message, or bytes are left over.
    #[error("message of type {kind:#04x} does not have the form of its type: {problem}")]
    Malformed {
        /// Type byte.
        kind: u8,
        /// What is wrong.
        problem: &'static str,
    },
    /// A cancel request whose key no server issues.
    #[error("cancel request has a key of an impossible length")]
    CancelKey,
    /// Start-up bytes that are no start-up message.
    #[error("start-up message is not acceptable: {0}")]
    Startup(&'static str),
}

/// What is wrong with text in another encoding. The frame around it is sound.
const NOT_UTF8: &str = "a string is not UTF-8";

impl WireError {
    /// True if the message is sound but for text that is not UTF-8: it can be refused without ending the session.
    #[must_use]
    pub fn is_encoding(&self) -> bool {
        matches!(self, Self::Malformed { problem: NOT_UTF8, .. })
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Type byte.
    pub kind: u8,
    /// Bytes of the whole frame: type, length field and body.
    pub total: usize,
}

/// Which types may come and how long each may be (value of the length field).
pub trait Limits {
    /// The limit for `kind`, or `None` if it may not come at all.
    fn limit(&self, kind: u8) -> Option<u32>;
}

impl<F: Fn(u8) -> Option<u32>> Limits for F {
    fn limit(&self, kind: u8) -> Option<u32> {
        self(kind)
    }
}

/// Bytes of type and length field.
const HEADER_BYTES: usize = 5;

/// Reads the header of the frame that `buffer` starts with; `None` until five bytes are there.
///
/// # Errors
/// When type or length cannot be.
pub fn next_frame(buffer: &[u8], limits: &impl Limits) -> Result<Option<FrameHeader>, WireError> {
    let Some((header, _)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
        // The type alone may already be wrong; say so before waiting for more.
        return match buffer.first() {
            Some(kind) if limits.limit(*kind).is_none() => Err(WireError::UnknownType(*kind)),
            Some(_) | None => Ok(None),
        };
    };
    let [kind, a, b, c, d] = *header;
    let length = u32::from_be_bytes([a, b, c, d]);
    let limit = limits.limit(kind).ok_or(WireError::UnknownType(kind))?;
    if length < 4 {
        return Err(WireError::Length { kind, length });
    }
    if length > limit {
        return Err(WireError::TooLong { kind, length, limit });
    }
    let total = usize::try_from(length).ok().and_then(|length| length.checked_add(1));
    total.map_or(Err(WireError::Length { kind, length }), |total| Ok(Some(FrameHeader { kind, total })))
}

/// Reads fields off one message body, front to back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over the body of `frame`, a whole frame with its header.
    pub(super) fn of_frame(frame: &'a [u8]) -> Result<Self, WireError> {
        match frame.split_first_chunk::<HEADER_BYTES>() {
            Some((header, rest)) => Ok(Self { kind: header.first().copied().unwrap_or(0), rest }),
            None => Err(WireError::Malformed {
                kind: frame.first().copied().unwrap_or(0),
                problem: "it is cut short",
            }),
        }
    }

    /// A reader over bare bytes.
    pub(super) fn of_body(kind: u8, rest: &'a [u8]) -> Self {
        Self { kind, rest }
    }

    pub(super) fn wrong(&self, problem: &'static str) -> WireError {
        WireError::Malformed { kind: self.kind, problem }
    }

    pub(super) fn byte(&mut self) -> Result<u8, WireError> {
        let (byte, rest) = self.rest.split_first().ok_or_else(|| self.wrong("a byte is missing"))?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (bytes, rest) =
            self.rest.split_first_chunk::<N>().ok_or_else(|| self.wrong("a number is cut short"))?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, WireError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, WireError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (bytes, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| self.wrong("a value is cut short"))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Bytes up to a zero byte, which is consumed.
    pub(super) fn cstring(&mut self) -> Result<&'a [u8], WireError> {
        let end =
            self.rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.wrong("a string has no end"))?;
        let (text, rest) =
            self.rest.split_at_checked(end).ok_or_else(|| self.wrong("a string has no end"))?;
        self.rest = rest.split_first().map_or(rest, |(_, rest)| rest);
        Ok(text)
    }

    /// A UTF-8 string up to a zero byte.
    pub(super) fn text(&mut self) -> Result<&'a str, WireError> {
        let bytes = self.cstring()?;
        std::str::from_utf8(bytes).ok().ok_or_else(|| self.wrong(NOT_UTF8))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Accepts the message only if nothing is left.
    pub(super) fn finish(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong("bytes are left over")) }
    }
}
