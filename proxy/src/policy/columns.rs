//! Classes of sensitive columns, from `columns.toml`.
//!
//! ```toml
//! [[column]]
//! resource = "orders-db"                 # a name, or a pattern with `*`
//! column   = "public.customers.email"    # quote a part that contains a dot: public."a.b".email
//! class    = "pii.email"
//!
//! [class."pii.email"]
//! mask = "keep-last:4"                   # default strategy; without it, redact
//! ```
//! Unknown keys, a class that is described but used by no column, and two entries that give one column two classes
//! are errors. An entry that names a resource exactly goes before one with a pattern.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::error::Finding;
use super::names;
use super::source::SourceFile;
use crate::model::{ColumnName, MaskStrategy};

/// Which columns are sensitive, and how each class is masked by default.
#[derive(Debug, Default)]
pub struct Columns {
    columns: HashMap<ColumnName, Vec<Entry>>,
    masks: BTreeMap<String, MaskStrategy>,
    classes: BTreeSet<String>,
}

#[derive(Debug)]
struct Entry {
    resource: String,
    class: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawColumn {
    resource: Spanned<String>,
    column: Spanned<String>,
    class: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClass {
    mask: Spanned<String>,
}

/// A column list is written by people; a scanner's output of this size would slow each load.
const COLUMNS_MAX: usize = 100_000;

impl Columns {
    /// The class of a column of a resource, if it is listed.
    #[must_use]
    pub fn class(&self, resource: &str, column: &ColumnName) -> Option<&str> {
        let entries = self.columns.get(column)?;
        let exact = entries.iter().find(|entry| entry.resource == resource);
        let any = || entries.iter().find(|entry| matches_glob(&entry.resource, resource));
        exact.or_else(any).map(|entry| entry.class.as_str())
    }

    /// Every listed column of a resource with its class, in order of name.
    #[must_use]
    pub fn of_resource(&self, resource: &str) -> Vec<(ColumnName, String)> {
        let mut found: Vec<(ColumnName, String)> = self
            .columns
            .keys()
            .filter_map(|column| self.class(resource, column).map(|class| (column.clone(), class.to_owned())))
            .collect();
        found.sort();
        found
    }

    /// Every entry as written (resource or pattern, column, class), in order of resource and name.
    #[must_use]
    pub fn listed(&self) -> Vec<(&str, &ColumnName, &str)> {
        let mut all: Vec<_> = self
            .columns
            .iter()
            .flat_map(|(column, entries)| {
                entries.iter().map(move |entry| (entry.resource.as_str(), column, entry.class.as_str()))
            })
            .collect();
        all.sort_unstable();
        all
    }

    /// How a class is masked when the policy that forbids reading it does not say.
    #[must_use]
    pub fn strategy(&self, class: &str) -> MaskStrategy {
        self.masks.get(class).copied().unwrap_or(MaskStrategy::Redact)
    }

    /// Every class in use.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.classes.iter().map(String::as_str)
    }

    /// Schemas that are listed for relations of this name, in any resource.
    pub(super) fn relations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.columns.keys().map(|column| (column.schema.as_str(), column.table.as_str()))
    }

    /// Reads the file; on failure says everything that is wrong with it.
    pub(super) fn parse(file: &SourceFile) -> Result<Self, Vec<Finding>> {
        let (root, errors) = DeTable::parse_recoverable(&file.text);
        let mut findings: Vec<Finding> = errors.iter().map(|error| toml_finding(file, error)).collect();
        if !findings.is_empty() {
            return Err(findings);
        }
        let mut columns = Self::default();
        for (key, value) in root.into_inner() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("column", DeValue::Array(entries)) => columns.read_columns(file, entries, &mut findings),
                ("class", DeValue::Table(table)) => columns.read_classes(file, table, &mut findings),
                ("column" | "class", _) => {
                    findings.push(file.finding(
                        span(&value.span()),
                        "write `[[column]]` and `[class.\"name\"]` as tables".to_owned(),
                    ));
                }
                (other, _) => {
                    findings.push(file.finding(span(&key.span()), format!("unknown key `{other}`")));
                }
            }
        }
        for entries in columns.columns.values() {
            columns.classes.extend(entries.iter().map(|entry| entry.class.clone()));
        }
        for class in columns.masks.keys().filter(|class| !columns.classes.contains(*class)) {
            let message = format!("class `{class}` is described but no column has it");
            findings.push(Finding::whole(&file.name, message));
        }
        findings.sort_by_key(|finding| finding.span);
        if findings.is_empty() { Ok(columns) } else { Err(findings) }
    }

    fn read_columns(
        &mut self,
        file: &SourceFile,
        entries: &[Spanned<DeValue<'_>>],
        findings: &mut Vec<Finding>,
    ) {
        if entries.len() > COLUMNS_MAX {
            findings.push(Finding::whole(&file.name, format!("more than {COLUMNS_MAX} columns")));
            return;
        }
        for entry in entries {
            match RawColumn::deserialize(ValueDeserializer::from(entry.clone())) {
                Ok(raw) => self.add(file, raw, findings),
                Err(error) => findings.push(entry_finding(file, &entry.span(), &error)),
            }
        }
    }

    fn add(&mut self, file: &SourceFile, raw: RawColumn, findings: &mut Vec<Finding>) {
        let mut refuse =
            |at: std::ops::Range<usize>, message: String| findings.push(file.finding(span(&at), message));
        let Some(column) = names::column_of(raw.column.get_ref()) else {
            let message = format!("`{}` is not a column; write schema.table.column", raw.column.get_ref());
            refuse(raw.column.span(), message);
            return;
        };
        if raw.resource.get_ref().is_empty() {
            refuse(raw.resource.span(), "the resource is empty; write a name or `*`".to_owned());
            return;
        }
        if raw.class.get_ref().is_empty() {
            refuse(raw.class.span(), "the class is empty".to_owned());
            return;
        }
        let (resource, at, class) = (raw.resource.into_inner(), raw.class.span(), raw.class.into_inner());
        let entries = self.columns.entry(column).or_default();
        // Two patterns may both match some resource; then neither is the stricter, so they must agree.
        let rival = entries.iter().find(|entry| {
            entry.class != class
                && (entry.resource == resource || (is_glob(&entry.resource) && is_glob(&resource)))
        });
        if let Some(rival) = rival {
            let message =
                format!("this column already has class `{}` (resource `{}`)", rival.class, rival.resource);
            refuse(at, message);
            return;
        }
        entries.push(Entry { resource, class });
    }

    fn read_classes(&mut self, file: &SourceFile, table: &DeTable<'_>, findings: &mut Vec<Finding>) {
        for (name, value) in table {
            match RawClass::deserialize(ValueDeserializer::from(value.clone())) {
                Ok(raw) => match raw.mask.get_ref().parse::<MaskStrategy>() {
                    Ok(strategy) => {
                        self.masks.insert(name.get_ref().to_string(), strategy);
                    }
                    Err(error) => findings.push(file.finding(span(&raw.mask.span()), error.to_string())),
                },
                Err(error) => findings.push(entry_finding(file, &name.span(), &error)),
            }
        }
    }
}

fn span(range: &std::ops::Range<usize>) -> (usize, usize) {
    (range.start, range.end.saturating_sub(range.start))
}

fn toml_finding(file: &SourceFile, error: &toml::de::Error) -> Finding {
    let at = error.span().map_or((0, 0), |range| span(&range));
    file.finding(at, error.message().to_owned())
}

fn entry_finding(file: &SourceFile, entry: &std::ops::Range<usize>, error: &toml::de::Error) -> Finding {
    let at = error.span().unwrap_or_else(|| entry.clone());
    file.finding(span(&at), error.message().to_owned())
}

fn is_glob(text: &str) -> bool {
    text.contains('*')
}

/// `*` stands for any run of characters.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn parse(text: &str) -> Result<Columns, Vec<Finding>> {
        Columns::parse(&SourceFile { name: "columns.toml".into(), text: Arc::from(text) })
    }

    fn email() -> ColumnName {
        names::column_of("public.customers.email").unwrap()
    }

    const EMAIL: &str =
        "[[column]]\nresource = \"orders-*\"\ncolumn = \"public.customers.email\"\nclass = \"pii.email\"\n";

    #[test]
    fn a_pattern_covers_its_resources_and_an_exact_name_goes_first() {
        let text = format!(
            "{EMAIL}[[column]]\nresource = \"orders-test\"\ncolumn = \"public.customers.email\"\nclass = \"fake\"\n"
        );
        let columns = parse(&text).unwrap();
        assert_eq!(columns.class("orders-db", &email()), Some("pii.email"));
        assert_eq!(columns.class("orders-test", &email()), Some("fake"));
        assert_eq!(columns.class("other", &email()), None);
        assert_eq!(columns.of_resource("orders-test"), vec![(email(), "fake".to_owned())]);
    }

    #[test]
    fn a_class_without_a_mask_is_redacted() {
        let columns = parse(&format!("{EMAIL}[class.\"pii.email\"]\nmask = \"hash\"\n")).unwrap();
        assert_eq!(columns.strategy("pii.email"), MaskStrategy::Hash);
        assert_eq!(columns.strategy("unheard-of"), MaskStrategy::Redact);
    }

    #[test]
    fn every_mistake_is_reported_with_its_line() {
        let findings = parse(
            "[[column]]\nresource = \"a\"\ncolumn = \"customers.email\"\nclass = \"c\"\n\
             [[column]]\nresource = \"a\"\ncolumn = \"p.c.e\"\nclass = \"c\"\nextra = 1\n\
             [class.c]\nmask = \"blur\"\n[other]\n",
        )
        .unwrap_err();
        let lines: Vec<usize> = findings.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [3, 9, 11, 12], "{findings:?}");
    }

    #[test]
    fn two_classes_for_one_column_are_refused() {
        let again = "[[column]]\nresource = \"*\"\ncolumn = \"public.customers.email\"\nclass = \"x\"\n";
        assert_eq!(parse(&format!("{EMAIL}{again}")).unwrap_err().len(), 1);
    }

    #[test]
    fn globs_match_whole_names() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a*b*c", "axxbyyc", true),
            ("ab*ba", "aba", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(matches_glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
