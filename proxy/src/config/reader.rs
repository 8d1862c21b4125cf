//! Reads TOML tables key by key, so that one wrong key does not hide the next.
//!
//! Derived deserialisation stops at the first error; this does not. A key that nobody asked for is reported by
//! [`Section::finish`], which every section must reach.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problems;

/// A value and the line it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) line: usize,
}

impl<T> At<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> At<U> {
        At { value: change(self.value), line: self.line }
    }
}

/// One table of the file; keys are taken out as they are read.
#[derive(Debug)]
pub(super) struct Section<'i> {
    keys: BTreeMap<String, (usize, Spanned<DeValue<'i>>)>,
    /// How messages name it: `[[agent]]`.
    name: String,
    /// Line it starts on.
    pub(super) line: usize,
}

impl<'i> Section<'i> {
    /// The file itself. Syntax errors are reported here.
    pub(super) fn root(text: &'i str, problems: &mut Problems) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map_or(0, |span| problems.line(span.start));
            problems.add(line, error.message());
        }
        Self::new(root.into_inner(), "the file".to_owned(), 1, problems)
    }

    fn new(table: DeTable<'i>, name: String, line: usize, problems: &Problems) -> Self {
        let keys = table
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), (problems.line(key.span().start), value)))
            .collect();
        Self { keys, name, line }
    }

    fn take(&mut self, key: &str) -> Option<(usize, DeValue<'i>)> {
        self.keys.remove(key).map(|(line, value)| (line, value.into_inner()))
    }

    fn wrong(&self, key: &str, line: usize, wanted: &str, problems: &mut Problems) {
        problems.add(line, format!("`{key}` in {} must be {wanted}", self.name));
    }

    pub(super) fn text(&mut self, key: &str, problems: &mut Problems) -> Option<At<String>> {
        match self.take(key)? {
            (line, DeValue::String(value)) if !value.trim().is_empty() => {
                Some(At { value: value.into_owned(), line })
            }
            (line, _) => {
                self.wrong(key, line, "a text that is not empty", problems);
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn required(&mut self, key: &str, problems: &mut Problems) -> Option<At<String>> {
        if self.keys.contains_key(key) {
            return self.text(key, problems);
        }
        problems.add(self.line, format!("{} has no `{key}`", self.name));
        None
    }

    /// A text or a whole number, as text.
    pub(super) fn text_or_number(&mut self, key: &str, problems: &mut Problems) -> Option<At<String>> {
        match self.keys.get(key).map(|(_, value)| value.get_ref()) {
            Some(DeValue::Integer(_)) => {
                self.number(key, problems).map(|number| number.map(|number| number.to_string()))
            }
            Some(_) | None => self.required(key, problems),
        }
    }

    pub(super) fn number(&mut self, key: &str, problems: &mut Problems) -> Option<At<u64>> {
        let (line, value) = self.take(key)?;
        let number =
            value.as_integer().and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
        if number.is_none() {
            self.wrong(key, line, "a whole number", problems);
        }
        number.map(|value| At { value, line })
    }

    pub(super) fn flag(&mut self, key: &str, problems: &mut Problems) -> Option<At<bool>> {
        let (line, value) = self.take(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            self.wrong(key, line, "true or false", problems);
        }
        flag.map(|value| At { value, line })
    }

    pub(super) fn texts(&mut self, key: &str, problems: &mut Problems) -> Option<Vec<At<String>>> {
        let (line, value) = self.take(key)?;
        let DeValue::Array(items) = value else {
            self.wrong(key, line, "a list of texts", problems);
            return None;
        };
        let mut texts = Vec::new();
        for item in items {
            let line = problems.line(item.span().start);
            match item.into_inner() {
                DeValue::String(text) if !text.trim().is_empty() => {
                    texts.push(At { value: text.into_owned(), line });
                }
                _ => self.wrong(key, line, "a list of texts that are not empty", problems),
            }
        }
        Some(texts)
    }

    /// A table of texts, `{ env = "prod" }`.
    pub(super) fn pairs(&mut self, key: &str, problems: &mut Problems) -> Vec<(String, At<String>)> {
        let Some(mut section) = self.section(key, problems) else { return Vec::new() };
        let keys: Vec<String> = section.keys.keys().cloned().collect();
        keys.into_iter().filter_map(|key| section.text(&key, problems).map(|value| (key, value))).collect()
    }

    /// A duration such as `20ms`, `50s`, `10m` or `1h`, within bounds.
    pub(super) fn duration(
        &mut self,
        key: &str,
        bounds: (Duration, Duration),
        problems: &mut Problems,
    ) -> Option<Duration> {
        let text = self.text(key, problems)?;
        let parsed = parse_duration(&text.value).filter(|value| (bounds.0..=bounds.1).contains(value));
        if parsed.is_none() {
            let wanted =
                format!("a duration such as 20ms, 50s, 10m or 1h, from {:?} to {:?}", bounds.0, bounds.1);
            self.wrong(key, text.line, &wanted, problems);
        }
        parsed
    }

    pub(super) fn section(&mut self, key: &str, problems: &mut Problems) -> Option<Section<'i>> {
        match self.take(key)? {
            (line, DeValue::Table(table)) => Some(Self::new(table, format!("[{key}]"), line, problems)),
            (line, _) => {
                self.wrong(key, line, "a table", problems);
                None
            }
        }
    }

    pub(super) fn sections(&mut self, key: &str, problems: &mut Problems) -> Vec<Section<'i>> {
        let Some((line, value)) = self.take(key) else { return Vec::new() };
        let mut sections = Vec::new();
        match value {
            DeValue::Array(items) => {
                for item in items {
                    let line = problems.line(item.span().start);
                    match item.into_inner() {
                        DeValue::Table(table) => {
                            sections.push(Self::new(table, format!("[[{key}]]"), line, problems));
                        }
                        _ => self.wrong(key, line, &format!("written as [[{key}]]"), problems),
                    }
                }
            }
            _ => self.wrong(key, line, &format!("written as [[{key}]]"), problems),
        }
        sections
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        for (key, (line, _)) in self.keys {
            problems.add(line, format!("unknown key `{key}` in {}", self.name));
        }
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    // `ms` before `m` and `s`: the first suffix that fits is the unit.
    let (digits, unit_ms) = [("ms", 1_u64), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]
        .into_iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|digits| (digits, unit)))?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count = digits.parse::<u64>().ok().filter(|_| plain)?;
    count.checked_mul(unit_ms).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_unit_and_no_sign() {
        assert_eq!(parse_duration("20ms"), Some(Duration::from_millis(20)));
        assert_eq!(parse_duration("2h"), Some(Duration::from_hours(2)));
        for wrong in ["", "5", "+5s", "-1s", "1.5s", "5 s", "s", "99999999999999999999h"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
