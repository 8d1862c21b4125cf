//! Identifiers. Each is its own type, so that none can be passed where another is meant.
//!
//! Session and ticket ids are random; they are names, not capabilities, and grant nothing by being known.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC. The unit of every time in records and tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This time plus `duration`; saturates at the far end of the range.
    #[must_use]
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// One session: one intercepted socket after identification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s-{:016x}", self.0)
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for SessionId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.strip_prefix("s-")
            .filter(|hex| hex.len() == 16)
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a session id"))
    }
}

/// One request: its session and its number within it, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// The session the request belongs to.
    pub session: SessionId,
    /// Position within the session, from 1.
    pub number: u64,
}

/// The record of a held request, as people type it: `T-` and eight letters or digits without look-alikes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TicketId(String);

/// Crockford's base 32 alphabet: no I, L, O, U.
const TICKET_ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const TICKET_LETTERS: usize = 8;

impl TicketId {
    /// The ticket id for 40 random bits (the upper bits of `random` are ignored).
    #[must_use]
    pub fn from_random(random: u64) -> Self {
        let letters = (0..TICKET_LETTERS).map(|place| {
            let index = usize::try_from((random >> (place * 5)) & 31).unwrap_or(0);
            TICKET_ALPHABET.get(index).map_or('0', |byte| char::from(*byte))
        });
        Self(format!("T-{}", letters.collect::<String>()))
    }

    /// The id as people type it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<TicketId> for String {
    fn from(id: TicketId) -> Self {
        id.0
    }
}

impl TryFrom<String> for TicketId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let upper = text.trim().to_ascii_uppercase();
        match upper.strip_prefix("T-") {
            Some(rest)
                if rest.len() == TICKET_LETTERS && rest.bytes().all(|b| TICKET_ALPHABET.contains(&b)) =>
            {
                Ok(Self(upper))
            }
            Some(_) | None => Err(format!("`{text}` is not a ticket id")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticket_ids_survive_a_round_trip_and_refuse_paths() {
        let id = TicketId::from_random(0x12_3456_789a);
        assert_eq!(TicketId::try_from(id.as_str().to_ascii_lowercase()), Ok(id));
        assert!(TicketId::try_from("T-../../ET".to_owned()).is_err());
    }

    #[test]
    fn session_ids_survive_a_round_trip_and_refuse_other_text() {
        let id = SessionId(7);
        assert_eq!(SessionId::try_from(id.to_string()), Ok(id));
        assert!(SessionId::try_from("s-7".to_owned()).is_err());
    }
}
