//! Messages from the server that Chaperone reads or rewrites; all others pass as they came.
//!
//! The server is trusted for its data, not for its bytes: the same reader, the same refusals.

use std::borrow::Cow;

use super::frame::{Reader, WireError};
use super::startup::CancelKey;
use crate::mask::{Keys, Plan, Replacement, replace};

/// One column of a `RowDescription`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// OID of the relation the column comes from; 0 if the server does not say.
    pub table: u32,
    /// Attribute number in that relation; 0 if the server does not say.
    pub attribute: i16,
    /// OID of its type; of the base type for a domain.
    pub type_oid: u32,
    /// 0 text, 1 binary.
    pub format: i16,
}

/// The columns of a `RowDescription` frame.
///
/// # Errors
/// When the frame is not of that form.
pub fn describe_columns(frame: &[u8]) -> Result<Vec<Column>, WireError> {
    let mut reader = Reader::of_frame(frame)?;
    let count = reader.u16()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        reader.cstring()?;
        let table = reader.u32()?;
        let attribute = reader.i16()?;
        let type_oid = reader.u32()?;
        reader.i16()?;
        reader.i32()?;
        let format = reader.i16()?;
        columns.push(Column { table, attribute, type_oid, format });
    }
    reader.finish()?;
    Ok(columns)
}

/// Rewrites one `DataRow` frame by `plan` onto the end of `out`; returns how many values were replaced.
///
/// # Errors
/// When the frame is not of that form; `out` is then left as it was.
pub fn rewrite_row(frame: &[u8], plan: &Plan, keys: &Keys, out: &mut impl RowSink) -> Result<u64, WireError> {
    let start = out.length();
    let result = rewrite_cells(frame, plan, keys, out);
    match result {
        Ok(masked) => {
            let total = out.length().saturating_sub(start).saturating_sub(1);
            let total =
                u32::try_from(total).ok().ok_or(WireError::Length { kind: b'D', length: u32::MAX })?;
            out.patch(start.saturating_add(1), total.to_be_bytes());
            Ok(masked)
        }
        Err(error) => {
            out.cut(start);
            Err(error)
        }
    }
}

fn rewrite_cells(frame: &[u8], plan: &Plan, keys: &Keys, out: &mut impl RowSink) -> Result<u64, WireError> {
    let mut reader = Reader::of_frame(frame)?;
    let count = reader.u16()?;
    out.put(&[b'D', 0, 0, 0, 0]);
    out.put(&count.to_be_bytes());
    let mut masked = 0_u64;
    for index in 0..usize::from(count) {
        let length = reader.i32()?;
        if length == -1 {
            out.put(&(-1_i32).to_be_bytes());
            continue;
        }
        let length = usize::try_from(length).ok().ok_or_else(|| reader.wrong("a length is negative"))?;
        let value = reader.bytes(length)?;
        let replacement = plan.cell(index).map(|cell| replace(value, cell.strategy, cell.shape, keys));
        masked = masked.saturating_add(u64::from(replacement.is_some()));
        match replacement {
            None => put_value(value, out)?,
            Some(Replacement::Bytes(bytes)) => put_value(&bytes, out)?,
            Some(Replacement::Null) => out.put(&(-1_i32).to_be_bytes()),
        }
    }
    reader.finish()?;
    Ok(masked)
}

fn put_value(value: &[u8], out: &mut impl RowSink) -> Result<(), WireError> {
    let length = i32::try_from(value.len()).ok().ok_or(WireError::Length { kind: b'D', length: u32::MAX })?;
    out.put(&length.to_be_bytes());
    out.put(value);
    Ok(())
}

/// Where rewritten rows go.
pub trait RowSink {
    /// Bytes held.
    fn length(&self) -> usize;
    /// Adds bytes.
    fn put(&mut self, bytes: &[u8]);
    /// Replaces four bytes at `at`.
    fn patch(&mut self, at: usize, bytes: [u8; 4]);
    /// Forgets everything from `at` on.
    fn cut(&mut self, at: usize);
}

impl RowSink for bytes::BytesMut {
    fn length(&self) -> usize {
        self.len()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn patch(&mut self, at: usize, bytes: [u8; 4]) {
        if let Some(place) = self.get_mut(at..at.saturating_add(4)) {
            place.copy_from_slice(&bytes);
        }
    }

    fn cut(&mut self, at: usize) {
        self.truncate(at);
    }
}

/// Which of the two messages with fields a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldNotice {
    /// `ErrorResponse`
    Error,
    /// `NoticeResponse`
    Notice,
}

/// The fields of an `ErrorResponse` or `NoticeResponse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    fields: Vec<(u8, Cow<'a, [u8]>)>,
}

impl<'a> ErrorFields<'a> {
    /// Reads a whole frame.
    ///
    /// # Errors
    /// When the frame is not of that form.
    pub fn read(frame: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::of_frame(frame)?;
        let mut fields = Vec::new();
        loop {
            match reader.byte()? {
                0 => break,
                code => fields.push((code, Cow::Borrowed(reader.cstring()?))),
            }
        }
        reader.finish()?;
        Ok(Self { fields })
    }

    /// The SQLSTATE; `XX000` if there is none.
    #[must_use]
    pub fn sqlstate(&self) -> String {
        self.field(b'C').map_or_else(|| "XX000".to_owned(), |code| String::from_utf8_lossy(code).into_owned())
    }

    /// Severity, code and message in one line for the daemon's own log.
    #[must_use]
    pub fn for_log(&self) -> String {
        let part = |code| self.field(code).map(String::from_utf8_lossy).unwrap_or_default();
        format!("{} {} {}", part(b'S'), part(b'C'), part(b'M'))
    }

    fn field(&self, wanted: u8) -> Option<&[u8]> {
        self.fields.iter().find(|(code, _)| *code == wanted).map(|(_, value)| value.as_ref())
    }

    /// Whether it was raised inside of code: a function, a trigger, a rule.
    #[must_use]
    pub fn has_context(&self) -> bool {
        self.field(b'W').is_some() || self.field(b'q').is_some()
    }

    /// Removes fields that quote rows or code: detail, hint, context and internal query.
    #[must_use]
    pub fn without_quotes(mut self) -> Self {
        self.fields.retain(|(code, _)| !matches!(code, b'D' | b'H' | b'W' | b'q' | b'p'));
        self
    }

    /// Also replaces the message itself.
    #[must_use]
    pub fn with_message(mut self, message: &'static str) -> Self {
        for (code, value) in &mut self.fields {
            if *code == b'M' {
                *value = Cow::Borrowed(message.as_bytes());
            }
        }
        self
    }

    /// The frame for these fields.
    #[must_use]
    pub fn encode(&self, kind: FieldNotice) -> Vec<u8> {
        let mut body = Vec::new();
        for (code, value) in &self.fields {
            body.push(*code);
            body.extend_from_slice(value);
            body.push(0);
        }
        body.push(0);
        super::encode::frame(
            match kind {
                FieldNotice::Error => b'E',
                FieldNotice::Notice => b'N',
            },
            &body,
        )
    }
}

/// Rows in a `CommandComplete` tag: its last word, if that is a number.
#[must_use]
pub fn command_rows(frame: &[u8]) -> u64 {
    let text = Reader::of_frame(frame).and_then(|mut reader| reader.text());
    text.ok().and_then(|tag| tag.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// The transaction status in a `ReadyForQuery` frame: `I`, `T` or `E`.
///
/// # Errors
/// When the frame is not of that form.
pub fn ready_status(frame: &[u8]) -> Result<u8, WireError> {
    let mut reader = Reader::of_frame(frame)?;
    let status = reader.byte()?;
    reader.finish()?;
    if matches!(status, b'I' | b'T' | b'E') { Ok(status) } else { Err(reader.wrong("its status is unknown")) }
}

/// Name and value of a `ParameterStatus` frame.
///
/// # Errors
/// When the frame is not of that form.
pub fn read_setting(frame: &[u8]) -> Result<(&str, &str), WireError> {
    let mut reader = Reader::of_frame(frame)?;
    let name = reader.text()?;
    let value = reader.text()?;
    reader.finish()?;
    Ok((name, value))
}

/// A `NotificationResponse` frame without its payload.
///
/// # Errors
/// When the frame is not of that form.
pub fn without_payload(frame: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut reader = Reader::of_frame(frame)?;
    let pid = reader.u32()?;
    let channel = reader.cstring()?;
    reader.cstring()?;
    reader.finish()?;
    let length = u32::try_from(channel.len().saturating_add(10));
    let length = length.ok().ok_or(WireError::Length { kind: b'A', length: u32::MAX })?;
    Ok([b"A".as_slice(), &length.to_be_bytes(), &pid.to_be_bytes(), channel, b"\0\0"].concat())
}

/// The key of a `BackendKeyData` frame.
///
/// # Errors
/// When the frame is not of that form.
pub fn read_backend_key(frame: &[u8]) -> Result<CancelKey, WireError> {
    let mut reader = Reader::of_frame(frame)?;
    let pid = reader.u32()?;
    let length = frame.len().saturating_sub(9);
    let secret = reader.bytes(length)?.to_vec();
    reader.finish()?;
    if (4..=256).contains(&length) {
        Ok(CancelKey { pid, secret })
    } else {
        Err(reader.wrong("its key has no possible length"))
    }
}

/// The minor version that a `NegotiateProtocolVersion` frame grants. Servers send the whole version (PostgreSQL up to 17) or
/// the minor part alone.
///
/// # Errors
/// When the frame is cut short.
pub fn read_negotiated_minor(frame: &[u8]) -> Result<u16, WireError> {
    let mut reader = Reader::of_frame(frame)?;
    Ok(u16::try_from(reader.u32()? & 0xffff).unwrap_or(0))
}

/// The values of a `DataRow` frame in text format.
///
/// # Errors
/// When the frame is not of that form, or a value is not UTF-8.
pub fn read_text_row(frame: &[u8]) -> Result<Vec<Option<String>>, WireError> {
    let mut reader = Reader::of_frame(frame)?;
    let count = reader.u16()?;
    let mut row = Vec::new();
    for _ in 0..count {
        let length = reader.i32()?;
        row.push(match usize::try_from(length) {
            Err(_) if length == -1 => None,
            Err(_) => return Err(reader.wrong("a length is negative")),
            Ok(length) => {
                let text = std::str::from_utf8(reader.bytes(length)?).ok();
                Some(text.ok_or_else(|| reader.wrong("a value is not UTF-8"))?.to_owned())
            }
        });
    }
    reader.finish()?;
    Ok(row)
}
