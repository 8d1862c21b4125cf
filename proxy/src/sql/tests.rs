//! Facts of whole texts: what evasions hide, what ordinary statements must keep, what stays unknown.

use std::collections::BTreeSet;

use crate::model::Effect;

use super::{Analysis, ColumnReads, Outputs, StatementKind, analyse_text};

mod corpus;
mod evasions;
mod flows;
mod mutations;
mod session;
mod shapes;

/// Relations as `schema.name`, sorted.
fn relations(sql: &str) -> Vec<String> {
    known(sql).operation.relations.iter().map(ToString::to_string).collect()
}

/// The words of the effects, sorted as the enumeration is.
fn effects(sql: &str) -> Vec<&'static str> {
    analyse_text(sql).operation.effects.iter().map(|effect| effect.as_str()).collect()
}

/// An analysis that must not be unknown.
fn known(sql: &str) -> Analysis {
    let analysis = analyse_text(sql);
    assert!(!analysis.is_unknown(), "{sql}: {:?}", analysis.trouble);
    analysis
}

fn kind(sql: &str) -> StatementKind {
    let analysis = analyse_text(sql);
    assert_eq!(analysis.statements.len(), 1, "{sql}");
    analysis.statements[0].kind.clone()
}

fn columns(names: &[&str]) -> ColumnReads {
    ColumnReads::Columns(names.iter().map(|name| (*name).to_owned()).collect())
}

fn outputs(sql: &str) -> Outputs {
    analyse_text(sql).statements[0].outputs.clone()
}

fn writes_from(sql: &str) -> ColumnReads {
    analyse_text(sql).statements[0].writes_from.clone()
}

fn is_opaque(sql: &str) -> bool {
    analyse_text(sql).statements.iter().any(|statement| statement.opaque)
}

fn column_facts(sql: &str) -> BTreeSet<String> {
    known(sql).operation.columns.clone()
}

/// Unknown must also be opaque or at least never a plain read.
#[track_caller]
fn assert_unknown(sql: &str) {
    let analysis = analyse_text(sql);
    assert!(analysis.operation.effects.contains(&Effect::Unknown), "{sql}: {analysis:?}");
    assert!(!analysis.operation.is_plain_read(), "{sql}");
    assert!(analysis.trouble.is_some(), "{sql}");
    assert!(!analysis.operation.has_filter, "{sql}");
}
