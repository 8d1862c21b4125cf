//! What clients send by themselves stays readable.

use crate::model::Effect;

use super::super::analyse_text;

fn entries(file: &'static str) -> impl Iterator<Item = &'static str> {
    file.split("\n-- ##\n").skip(1).map(str::trim_end)
}

fn is_denied(sql: &str) -> Option<String> {
    // What `EXECUTE` does is known to the session alone, from the `PREPARE` that is in the corpus, too.
    if sql.starts_with("EXECUTE ") {
        return None;
    }
    let analysis = analyse_text(sql);
    let opaque = analysis.statements.iter().any(|statement| statement.opaque)
        || analysis.operation.effects.contains(&Effect::Execute);
    (analysis.is_unknown() || opaque)
        .then(|| format!("{:?} {:?}\n{sql}", analysis.trouble, analysis.operation))
}

#[test]
fn psql_and_pg_dump_are_neither_unknown_nor_opaque() {
    let denied: Vec<_> =
        entries(include_str!("../corpus/psql_and_pg_dump.sql")).filter_map(is_denied).collect();
    assert!(denied.is_empty(), "{} denied:\n{}", denied.len(), denied.join("\n\n"));
}

#[test]
fn driver_and_framework_statements_are_neither_unknown_nor_opaque() {
    let all: Vec<_> = entries(include_str!("../corpus/drivers.sql")).collect();
    assert!(all.len() > 50, "{}", all.len());
    let denied: Vec<_> = all.into_iter().filter_map(is_denied).collect();
    assert!(denied.is_empty(), "{} denied:\n{}", denied.len(), denied.join("\n\n"));
}
