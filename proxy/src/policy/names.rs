//! How objects are named in policies: `Resource::"r"`, `Table::"r/schema.table"`, `Column::"r/schema.table.column"`.
//!
//! A part that contains a separator is written in double quotes, as in SQL, so that the relation whose *name* is
//! `public.orders` can never pass for relation `orders` in schema `public`.
//! INVARIANT: two different names never have the same text; `table_parts` inverts `relation`.

use crate::model::{ColumnName, RelationName};

/// `schema.name` or `name`, quoted where needed: the text in `context.tables` and after `resource/`.
pub(super) fn relation(relation: &RelationName) -> String {
    match &relation.schema {
        Some(schema) => format!("{}.{}", part(schema), part(&relation.name)),
        None => part(&relation.name),
    }
}

/// Entity id of a relation within a resource.
pub(super) fn table_id(resource: &str, name: &RelationName) -> String {
    format!("{resource}/{}", relation(name))
}

/// Entity id of a column within a resource.
pub(super) fn column_id(resource: &str, column: &ColumnName) -> String {
    format!("{resource}/{}.{}.{}", part(&column.schema), part(&column.table), part(&column.column))
}

/// Entity id of the relation a column belongs to.
pub(super) fn column_table_id(resource: &str, column: &ColumnName) -> String {
    format!("{resource}/{}.{}", part(&column.schema), part(&column.table))
}

fn part(text: &str) -> String {
    let plain = !text.is_empty() && !text.contains(['.', '/', '"']);
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

/// Splits `a.b."c.d"` into its parts; `None` when quotes are unbalanced or a part is empty and unquoted.
pub(super) fn split(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_part(quoted)?,
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                let (part, after) = rest.split_at_checked(end)?;
                if part.is_empty() || part.contains('"') {
                    return None;
                }
                (part.to_owned(), after)
            }
        };
        parts.push(part);
        if after.is_empty() {
            return Some(parts);
        }
        rest = after.strip_prefix('.')?;
    }
}

fn quoted_part(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        part.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                part.push('"');
                rest = more;
            }
            None => return Some((part, after)),
        }
    }
}

/// The relation that the id of a `Table` names, without its resource.
pub(super) fn table_of_id(id: &str) -> Option<RelationName> {
    let (_, name) = id.split_once('/')?;
    relation_of(name)
}

/// Reads `schema.table` or `table` as policies and case files write it; a part with a dot stands in double quotes.
#[must_use]
pub fn relation_of(text: &str) -> Option<RelationName> {
    let mut parts = split(text)?.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, None) => Some(RelationName { schema: None, name }),
        (Some(schema), Some(name), None) => Some(RelationName { schema: Some(schema), name }),
        _ => None,
    }
}

/// Reads `schema.table.column`; a part with a dot stands in double quotes.
#[must_use]
pub fn column_of(text: &str) -> Option<ColumnName> {
    let mut parts = split(text)?.into_iter();
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(schema), Some(table), Some(column), None) => Some(ColumnName { schema, table, column }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(schema: Option<&str>, name: &str) -> RelationName {
        RelationName { schema: schema.map(str::to_owned), name: name.to_owned() }
    }

    #[test]
    fn a_dot_inside_a_name_cannot_pass_for_a_schema() {
        assert_eq!(table_id("r", &named(Some("public"), "orders")), "r/public.orders");
        assert_eq!(table_id("r", &named(None, "public.orders")), "r/\"public.orders\"");
        assert_eq!(table_id("r", &named(None, "a\"b")), "r/\"a\"\"b\"");
    }

    #[test]
    fn names_are_read_back_as_they_were_written() {
        for name in
            [named(None, "orders"), named(Some("a.b"), "c"), named(Some(""), "x\"y.z"), named(Some("s"), "ü")]
        {
            assert_eq!(relation_of(&relation(&name)), Some(name));
        }
    }

    #[test]
    fn malformed_names_are_refused() {
        for wrong in ["", ".", "a.", ".a", "a..b", "\"a", "\"a\"b", "a\"b", "a.b.c"] {
            assert_eq!(relation_of(wrong), None, "{wrong}");
        }
        assert_eq!(column_of("public.customers"), None);
        assert_eq!(
            column_of("public.customers.email"),
            Some(ColumnName { schema: "public".into(), table: "customers".into(), column: "email".into() })
        );
    }
}
