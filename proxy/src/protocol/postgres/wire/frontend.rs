//! Messages from the agent.
//!
//! Borrowed views: a message that is forwarded is forwarded as the bytes that came. Statement text must be UTF-8, because the
//! parser and the server would otherwise read different statements.

use super::frame::{Limits, Reader, WireError};

/// Message types an agent may send after start-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `Q`
    Query,
    /// `P`
    Parse,
    /// `B`
    Bind,
    /// `D`
    Describe,
    /// `E`
    Execute,
    /// `C`
    Close,
    /// `S`
    Sync,
    /// `H`
    Flush,
    /// `F`
    FunctionCall,
    /// `d`
    CopyData,
    /// `c`
    CopyDone,
    /// `f`
    CopyFail,
    /// `X`
    Terminate,
}

impl Kind {
    /// The type of a frame.
    ///
    /// # Errors
    /// When the byte is no frontend message type.
    pub fn of(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            b'Q' => Self::Query,
            b'P' => Self::Parse,
            b'B' => Self::Bind,
            b'D' => Self::Describe,
            b'E' => Self::Execute,
            b'C' => Self::Close,
            b'S' => Self::Sync,
            b'H' => Self::Flush,
            b'F' => Self::FunctionCall,
            b'd' => Self::CopyData,
            b'c' => Self::CopyDone,
            b'f' => Self::CopyFail,
            b'X' => Self::Terminate,
            other => return Err(WireError::UnknownType(other)),
        })
    }

    /// Length limits of messages from the agent.
    #[must_use]
    pub fn limits() -> impl Limits {
        |kind| match kind {
            // 4 MiB: statements over the analyser's 1 MiB are refused with a proper error, not by closing.
            b'Q' | b'P' => Some(4 << 20),
            // 64 MiB: one request's parameters are held in memory while it is judged.
            b'B' | b'F' => Some(64 << 20),
            // 16 MiB: clients send 8 to 64 KiB; larger copies use more messages.
            b'd' => Some(16 << 20),
            // A name or a reason.
            b'D' | b'E' | b'C' | b'f' => Some(64 << 10),
            b'S' | b'H' | b'c' | b'X' => Some(4),
            _ => None,
        }
    }
}

/// The text of a `Query` frame.
///
/// # Errors
/// When the frame is not one UTF-8 string.
pub fn parse_query(frame: &[u8]) -> Result<&str, WireError> {
    let mut reader = Reader::of_frame(frame)?;
    let text = reader.text()?;
    reader.finish()?;
    Ok(text)
}

/// `Parse`: makes a prepared statement.
#[derive(Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Statement name; empty for the unnamed one.
    pub name: &'a str,
    /// Statement text.
    pub statement: &'a str,
    /// Declared parameter types, big-endian OIDs.
    pub types: Vec<u32>,
}

impl<'a> Parse<'a> {
    /// The statement name alone, for a message whose text cannot be read.
    ///
    /// # Errors
    /// When there is no name, or it is not UTF-8.
    pub fn name(frame: &'a [u8]) -> Result<&'a str, WireError> {
        Reader::of_frame(frame)?.text()
    }

    /// Reads a whole frame.
    ///
    /// # Errors
    /// When the frame is not of that form.
    pub fn read(frame: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::of_frame(frame)?;
        let name = reader.text()?;
        let statement = reader.text()?;
        let count = reader.u16()?;
        let types = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { name, statement, types })
    }
}

/// `Bind`: makes a portal from a prepared statement and values.
#[derive(Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Portal name; empty for the unnamed one.
    pub portal: &'a str,
    /// Statement name.
    pub statement: &'a str,
    /// Format of each parameter: none (all text), one for all, or one each; 0 text, 1 binary.
    pub formats: Vec<i16>,
    /// Values; `None` is NULL.
    pub values: Vec<Option<&'a [u8]>>,
}

impl<'a> Bind<'a> {
    /// Reads a whole frame.
    ///
    /// # Errors
    /// When the frame is not of that form.
    pub fn read(frame: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::of_frame(frame)?;
        let portal = reader.text()?;
        let statement = reader.text()?;
        let format_count = reader.u16()?;
        let formats: Vec<i16> = (0..format_count).map(|_| reader.i16()).collect::<Result<_, _>>()?;
        let value_count = reader.u16()?;
        let mut values = Vec::new();
        for _ in 0..value_count {
            values.push(match reader.i32()? {
                -1 => None,
                length => {
                    let length =
                        usize::try_from(length).ok().ok_or_else(|| reader.wrong("a length is negative"))?;
                    Some(reader.bytes(length)?)
                }
            });
        }
        let result_formats = reader.u16()?;
        for _ in 0..result_formats {
            reader.i16()?;
        }
        reader.finish()?;
        Ok(Self { portal, statement, formats, values })
    }

    /// The format of value `index`.
    #[must_use]
    pub fn format(&self, index: usize) -> i16 {
        match self.formats.as_slice() {
            [] => 0,
            [all] => *all,
            each => each.get(index).copied().unwrap_or(0),
        }
    }
}

/// What a `Describe` or `Close` is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Describe<'a> {
    /// A prepared statement.
    Statement(&'a str),
    /// A portal.
    Portal(&'a str),
}

/// `Close` has the form of `Describe`.
pub type Close<'a> = Describe<'a>;

impl<'a> Describe<'a> {
    /// Reads a whole frame.
    ///
    /// # Errors
    /// When the frame is not of that form.
    pub fn read(frame: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::of_frame(frame)?;
        let what = reader.byte()?;
        let name = reader.text()?;
        reader.finish()?;
        match what {
            b'S' => Ok(Self::Statement(name)),
            b'P' => Ok(Self::Portal(name)),
            _ => Err(reader.wrong("it names neither a statement nor a portal")),
        }
    }
}

/// `Execute`: runs a portal, up to a number of rows.
#[derive(Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    /// Portal name.
    pub portal: &'a str,
    /// Most rows to return; 0 means all.
    pub rows_max: i32,
}

impl<'a> Execute<'a> {
    /// Reads a whole frame.
    ///
    /// # Errors
    /// When the frame is not of that form.
    pub fn read(frame: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::of_frame(frame)?;
        let portal = reader.text()?;
        let rows_max = reader.i32()?;
        reader.finish()?;
        Ok(Self { portal, rows_max })
    }
}
