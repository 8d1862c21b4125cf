//! One value in, one replacement out.
//!
//! Pure. Keys come in; nothing is remembered. Known limit: `keep-last` of short alphabets (a card's last four digits) is by
//! design readable.

use aws_lc_rs::hmac;

use crate::model::MaskStrategy;

/// What stands for a redacted text. Fixed, so that neither length nor content shows.
pub const TOKEN: &str = "[masked]";
/// Stars before what `keep-last` leaves. Fixed, so that length does not show.
const STARS: &str = "****";
/// Hex digits of a keyed hash: 64 bits, enough to tell values apart, too few to invite treating them as identifiers.
const HASH_DIGITS: usize = 16;

/// What a cell's declared type can hold as replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Any text.
    Text,
    /// JSON text: the replacement is a JSON string.
    Json,
    /// Binary `jsonb`: a version byte, then JSON text.
    JsonbBinary,
    /// No text fits: only NULL does.
    Opaque,
}

/// A replaced value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replacement {
    /// SQL NULL.
    Null,
    /// These bytes, valid for the cell's type and format.
    Bytes(Vec<u8>),
}

/// Keys for `hash` and `token`; made from fresh random bytes, never stored.
#[derive(Clone)]
pub struct Keys {
    session: hmac::Key,
    daemon: hmac::Key,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Keys from 32 random bytes each: one per session, one per life of the daemon.
    #[must_use]
    pub fn new(session: &[u8; 32], daemon: &[u8; 32]) -> Self {
        Self {
            session: hmac::Key::new(hmac::HMAC_SHA256, session),
            daemon: hmac::Key::new(hmac::HMAC_SHA256, daemon),
        }
    }
}

/// The replacement of `value`.
#[must_use]
pub fn replace(value: &[u8], strategy: MaskStrategy, shape: Shape, keys: &Keys) -> Replacement {
    let text = match strategy {
        MaskStrategy::Null => return Replacement::Null,
        MaskStrategy::Redact => TOKEN.to_owned(),
        MaskStrategy::KeepLast(keep) => keep_last(value, usize::from(keep)),
        MaskStrategy::Hash => keyed("h:", &keys.session, value),
        MaskStrategy::Token => keyed("t:", &keys.daemon, value),
    };
    match shape {
        Shape::Opaque => Replacement::Null,
        Shape::Text => Replacement::Bytes(text.into_bytes()),
        // A document's tail is no tail of a value: JSON is replaced whole.
        Shape::Json => Replacement::Bytes(format!("\"{TOKEN}\"").into_bytes()),
        Shape::JsonbBinary => Replacement::Bytes(format!("\u{1}\"{TOKEN}\"").into_bytes()),
    }
}

fn keep_last(value: &[u8], keep: usize) -> String {
    let Ok(text) = std::str::from_utf8(value) else { return TOKEN.to_owned() };
    let text = text.trim_end();
    let length = text.chars().count();
    // At least as many characters hidden as shown, or the rest is guessed too easily.
    if length < keep.saturating_mul(2) {
        return STARS.to_owned();
    }
    text.chars().skip(length.saturating_sub(keep)).fold(STARS.to_owned(), |mut masked, letter| {
        masked.push(letter);
        masked
    })
}

fn keyed(prefix: &str, key: &hmac::Key, value: &[u8]) -> String {
    let tag = hmac::sign(key, value);
    let mut text = prefix.to_owned();
    for byte in tag.as_ref().iter().take(HASH_DIGITS / 2) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new(&[1; 32], &[2; 32])
    }

    fn text(value: &str, strategy: &str) -> Replacement {
        replace(value.as_bytes(), strategy.parse().unwrap(), Shape::Text, &keys())
    }

    fn bytes(text: &str) -> Replacement {
        Replacement::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn keep_last_shows_the_tail_and_not_the_length() {
        assert_eq!(text("4111111111111111", "keep-last:4"), bytes("****1111"));
        assert_eq!(text("ana@example.com", "keep-last:4"), bytes("****.com"));
    }

    #[test]
    fn keep_last_hides_values_that_are_mostly_tail() {
        assert_eq!(text("1234567", "keep-last:4"), bytes("****"));
        assert_eq!(text("", "keep-last:4"), bytes("****"));
        assert_eq!(replace(&[0xff, 0xfe], MaskStrategy::KeepLast(1), Shape::Text, &keys()), bytes(TOKEN));
    }

    #[test]
    fn types_without_a_safe_text_become_null() {
        for strategy in ["redact", "null", "keep-last:4", "hash", "token"] {
            let strategy = strategy.parse().unwrap();
            assert_eq!(replace(b"1", strategy, Shape::Opaque, &keys()), Replacement::Null);
        }
    }

    #[test]
    fn json_stays_json_whatever_the_strategy() {
        assert_eq!(replace(b"{}", MaskStrategy::KeepLast(4), Shape::Json, &keys()), bytes("\"[masked]\""));
        assert_eq!(
            replace(b"\x01{}", MaskStrategy::Hash, Shape::JsonbBinary, &keys()),
            bytes("\u{1}\"[masked]\"")
        );
    }

    #[test]
    fn hashes_differ_between_sessions_and_tokens_do_not() {
        let other = Keys::new(&[9; 32], &[2; 32]);
        let value = b"123-45-6789";
        let of = |keys: &Keys, strategy| replace(value, strategy, Shape::Text, keys);
        assert_ne!(of(&keys(), MaskStrategy::Hash), of(&other, MaskStrategy::Hash));
        assert_eq!(of(&keys(), MaskStrategy::Token), of(&other, MaskStrategy::Token));
    }
}
