//! Finds records: a stream over the files with simple filters, in bounded memory.
//!
//! It does not verify (`verify` does) and so it also reads damaged logs, saying how many lines it could not read.
//! Filters look at the JSON, not at typed events, so that records of later versions are found too.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;

use super::segments::{self, Lines, Read};
use super::verify::VerifyError;
use crate::model::{SessionId, TicketId, UnixMillis};

/// What a record must be to be found; everything that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Name of the agent.
    pub agent: Option<String>,
    /// The session, of the record or of its request.
    pub session: Option<SessionId>,
    /// Name of the resource.
    pub resource: Option<String>,
    /// The ticket.
    pub ticket: Option<TicketId>,
    /// Not before.
    pub since: Option<UnixMillis>,
    /// Before.
    pub until: Option<UnixMillis>,
    /// Kind of event, as in the `event` field.
    pub kind: Option<String>,
    /// `allow`, `hold` or `deny`.
    pub decision: Option<String>,
    /// Text anywhere in a value, letters' case aside.
    pub contains: Option<String>,
    /// Sequence number.
    pub sequence: Option<u64>,
}

/// A record that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Position in the log.
    pub sequence: u64,
    /// When it was written.
    pub time: UnixMillis,
    /// Kind of event.
    pub kind: String,
    /// The whole record.
    pub record: Value,
}

/// What a search read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Searched {
    /// Records that matched.
    pub found: u64,
    /// Lines that are no records.
    pub unreadable: u64,
}

/// Calls `each` with every matching record, oldest first, until it breaks.
///
/// # Errors
/// When a file cannot be read.
pub fn search(
    dir: &Path,
    filter: &Filter,
    each: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> Result<Searched, VerifyError> {
    let mut searched = Searched::default();
    let needle = filter.contains.as_ref().map(|text| text.to_lowercase());
    let mut line = Vec::new();
    let segments = segments::list(dir)?;
    for (index, segment) in segments.iter().enumerate() {
        let next = segments.get(index.saturating_add(1));
        if next.is_some_and(|next| filter.sequence.is_some_and(|wanted| wanted >= next.first)) {
            continue;
        }
        let read = |error| VerifyError::file("read", &segment.path)(error);
        let mut lines = Lines::open(&segment.path, 0).map_err(read)?;
        while lines.next(&mut line).map_err(read)? != Read::End {
            let Some(found) = parse(&line) else {
                searched.unreadable = searched.unreadable.saturating_add(1);
                continue;
            };
            if filter.accepts(&found, needle.as_deref()) {
                searched.found = searched.found.saturating_add(1);
                if each(found).is_break() {
                    return Ok(searched);
                }
            }
        }
    }
    Ok(searched)
}

fn parse(line: &[u8]) -> Option<Found> {
    let record: Value = serde_json::from_slice(line).ok()?;
    Some(Found {
        sequence: record.get("seq")?.as_u64()?,
        time: UnixMillis(record.get("time")?.as_u64()?),
        kind: record.get("event")?.as_str()?.to_owned(),
        record,
    })
}

impl Filter {
    fn accepts(&self, found: &Found, needle: Option<&str>) -> bool {
        let record = &found.record;
        let is = |wanted: Option<&str>, value: Option<&Value>| {
            wanted.is_none_or(|wanted| value.and_then(Value::as_str) == Some(wanted))
        };
        let session = record.get("session").or_else(|| record.pointer("/request/session"));
        self.sequence.is_none_or(|wanted| wanted == found.sequence)
            && self.since.is_none_or(|since| found.time >= since)
            && self.until.is_none_or(|until| found.time < until)
            && is(self.kind.as_deref(), record.get("event"))
            && is(self.agent.as_deref(), record.get("agent"))
            && is(self.resource.as_deref(), record.get("resource"))
            && is(self.ticket.as_ref().map(TicketId::as_str), record.get("ticket"))
            && is(self.session.map(|session| session.to_string()).as_deref(), session)
            && is(self.decision.as_deref(), record.pointer("/decision/verdict"))
            && needle.is_none_or(|needle| contains(record, needle))
    }
}

/// Recursion ends with the depth that the JSON reader accepts (128).
fn contains(value: &Value, needle: &str) -> bool {
    match value {
        Value::String(text) => text.to_lowercase().contains(needle),
        Value::Array(values) => values.iter().any(|value| contains(value, needle)),
        Value::Object(fields) => fields.values().any(|value| contains(value, needle)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
