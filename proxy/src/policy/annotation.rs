//! Annotations of policies: `@id`, `@description`, `@approvers`, `@quorum`, `@window`, `@mask`.
//!
//! An annotation that is unknown, misspelt or set where it has no meaning is an error: it would be a rule that its
//! author believes in and nobody applies. Defaults: quorum 1, window 10 minutes, any approver, the class's mask.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{HoldTerms, MaskStrategy};

/// What the annotations of one policy say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Annotations {
    pub(super) id: String,
    pub(super) description: Option<String>,
    /// Terms of a hold; only meaningful on a forbid of `runUnattended`.
    pub(super) terms: HoldTerms,
    /// Names of the hold's annotations that were written.
    pub(super) holds: Vec<&'static str>,
    /// Strategy; only meaningful on a forbid of `readClear`.
    pub(super) mask: Option<MaskStrategy>,
}

const QUORUM_DEFAULT: u8 = 1;
/// More people than this cannot be gathered within any window.
const QUORUM_MAX: u8 = 16;
/// Long enough to find a person, short enough that the reason for the request still holds.
const WINDOW_DEFAULT: Duration = Duration::from_mins(10);
const WINDOW_MAX: Duration = Duration::from_hours(24);
/// Ids appear in error messages to agents and in every record.
const ID_CHARS_MAX: usize = 64;

impl Annotations {
    /// Reads the annotations of one policy, or says everything that is wrong with them.
    pub(super) fn parse<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut id = None;
        let mut found = Self {
            id: String::new(),
            description: None,
            terms: default_terms(),
            holds: Vec::new(),
            mask: None,
        };
        for (key, value) in pairs {
            if key == "id" {
                id = Some(value);
                continue;
            }
            if let Err(problem) = found.set(key, value) {
                problems.push(problem);
            }
        }
        match id {
            Some(id) if is_id(id) => id.clone_into(&mut found.id),
            Some(id) => problems.push(format!(
                "`{id}` is not an id; use 1 to {ID_CHARS_MAX} letters, digits, `-`, `_` and `.`"
            )),
            None => problems.push("the policy has no `@id(\"..\")`; records and denials name it".to_owned()),
        }
        if problems.is_empty() { Ok(found) } else { Err(problems) }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "description" => self.description = Some(value.to_owned()),
            "approvers" => {
                self.terms.approvers = approvers(value)?;
                self.holds.push("approvers");
            }
            "quorum" => {
                self.terms.quorum = quorum(value)?;
                self.holds.push("quorum");
            }
            "window" => {
                self.terms.window = window(value)?;
                self.holds.push("window");
            }
            "mask" => self.mask = Some(value.parse::<MaskStrategy>().map_err(|error| error.to_string())?),
            other => {
                return Err(format!(
                    "unknown annotation `@{other}`; known are id, description, approvers, quorum, window and mask"
                ));
            }
        }
        Ok(())
    }
}

pub(super) fn default_terms() -> HoldTerms {
    HoldTerms { approvers: BTreeSet::new(), quorum: QUORUM_DEFAULT, window: WINDOW_DEFAULT }
}

/// The terms that satisfy both: all groups, the larger quorum, the shorter window.
pub(super) fn strictest(left: HoldTerms, right: &HoldTerms) -> HoldTerms {
    HoldTerms {
        approvers: left.approvers.union(&right.approvers).cloned().collect(),
        quorum: left.quorum.max(right.quorum),
        window: left.window.min(right.window),
    }
}

fn is_id(text: &str) -> bool {
    (1..=ID_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn approvers(text: &str) -> Result<BTreeSet<String>, String> {
    let groups: BTreeSet<String> = text.split(',').map(|group| group.trim().to_owned()).collect();
    if groups.iter().any(String::is_empty) {
        return Err(format!("`{text}` is not a list of approver groups; write \"dba\" or \"dba, security\""));
    }
    Ok(groups)
}

fn quorum(text: &str) -> Result<u8, String> {
    text.parse::<u8>()
        .ok()
        .filter(|quorum| (1..=QUORUM_MAX).contains(quorum))
        .ok_or_else(|| format!("`{text}` is not a quorum; write a number from 1 to {QUORUM_MAX}"))
}

/// Reads `90s`, `10m` or `2h`.
pub(super) fn window(text: &str) -> Result<Duration, String> {
    let refuse =
        || format!("`{text}` is not a window; write seconds, minutes or hours as 90s, 10m or 2h, up to 24h");
    let (digits, unit) = [("s", 1_u64), ("m", 60), ("h", 3600)]
        .into_iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|digits| (digits, unit)))
        .ok_or_else(refuse)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse());
    }
    digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(unit))
        .map(Duration::from_secs)
        .filter(|window| !window.is_zero() && *window <= WINDOW_MAX)
        .ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&'static str, &'static str)]) -> Result<Annotations, Vec<String>> {
        Annotations::parse(pairs.iter().copied())
    }

    #[test]
    fn annotations_of_the_handbook_are_read() {
        let read =
            parse(&[("id", "a"), ("approvers", "dba, sec"), ("quorum", "2"), ("window", "90s")]).unwrap();
        assert_eq!(read.terms.approvers, BTreeSet::from(["dba".to_owned(), "sec".to_owned()]));
        assert_eq!((read.terms.quorum, read.terms.window), (2, Duration::from_secs(90)));
        assert_eq!(
            parse(&[("id", "a"), ("mask", "keep-last:4")]).unwrap().mask,
            Some(MaskStrategy::KeepLast(4))
        );
    }

    #[test]
    fn every_wrong_annotation_is_reported() {
        let problems = parse(&[
            ("approver", "dba"),
            ("quorum", "0"),
            ("window", "10"),
            ("mask", "keep-last:40"),
            ("approvers", "a,,b"),
        ])
        .unwrap_err();
        assert_eq!(problems.len(), 6, "{problems:?}");
    }

    #[test]
    fn windows_outside_their_range_are_refused() {
        for wrong in ["", "s", "0s", "25h", "-1m", "+1m", "1d", "99999999999999999999h", "1 m"] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
        assert_eq!(window("24h"), Ok(WINDOW_MAX));
    }

    #[test]
    fn the_strictest_terms_satisfy_both_sides() {
        let terms = |group: &str, quorum, seconds| HoldTerms {
            approvers: BTreeSet::from([group.to_owned()]),
            quorum,
            window: Duration::from_secs(seconds),
        };
        let both = strictest(terms("a", 1, 60), &terms("b", 3, 600));
        assert_eq!(both.approvers.len(), 2);
        assert_eq!((both.quorum, both.window), (3, Duration::from_secs(60)));
    }
}
