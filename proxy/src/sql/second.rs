//! A second opinion by an independent parser, which may only add suspicion.
//!
//! sqlparser is known to be wrong on PostgreSQL text (`FROM ONLY t`, `U&".."`, `TABLE t` in unions), so it never decides.
//! It objects if it sees a relation or a write that our walk of the real parse tree did not report: that is the only
//! direction in which a hole of ours would show. It is asked for SELECT, INSERT, UPDATE and DELETE only, and not where
//! its known defects are in play; text it cannot parse is no objection.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{Ident, ObjectName, Statement, Visit, Visitor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use crate::model::{Effect, Operation};

use super::names;
use super::tree::{Descend, Tree};

/// Nesting the second parser follows; deeper text is no objection.
const DEPTH_MAX: usize = 50;

/// Longest text it is asked about: it is slower than the authority, and long texts are bulk inserts.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// PostgreSQL cuts identifiers at 63 bytes.
const IDENTIFIER_BYTES_MAX: usize = 63;

/// An objection against the facts found in `tree`, if there is one.
pub(super) fn objection(text: &str, tree: &Tree, found: &Operation) -> Option<String> {
    if text.len() > TEXT_BYTES_MAX || !is_asked(text, tree) {
        return None;
    }
    let statements = Parser::new(&PostgreSqlDialect {})
        .with_recursion_limit(DEPTH_MAX)
        .try_with_sql(text)
        .ok()?
        .parse_statements()
        .ok()?;
    if statements.len() != 1 {
        return Some(format!("second parser counts {} statements", statements.len()));
    }
    let mut sight = Sight::default();
    if statements.visit(&mut sight).is_break() {
        return Some("second parser's tree could not be read".to_owned());
    }
    let writes = [Effect::Insert, Effect::Update, Effect::Delete, Effect::Create];
    if sight.writes && !found.effects.iter().any(|effect| writes.contains(effect)) {
        return Some("second parser sees a write".to_owned());
    }
    let explained = explained_names(tree);
    sight.relations.into_iter().find_map(|(schema, name)| {
        let known = found.relations.iter().any(|relation| {
            relation.name == name
                && (schema.is_none() || relation.schema.is_none() || relation.schema == schema)
        });
        (!known && !explained.contains(&name)).then(|| format!("second parser sees relation `{name}`"))
    })
}

fn is_asked(text: &str, tree: &Tree) -> bool {
    let Some(node) = tree.as_node() else { return false };
    if !matches!(node.kind, "SelectStmt" | "InsertStmt" | "UpdateStmt" | "DeleteStmt") {
        return false;
    }
    let bytes = text.as_bytes();
    let unicode_escape = bytes.windows(3).any(|three| matches!(three, [b'u' | b'U', b'&', b'\'' | b'"']));
    !unicode_escape && !names_only(tree)
}

/// `FROM ONLY t` is read as relation `only` with alias `t`.
fn names_only(tree: &Tree) -> bool {
    let mut only = false;
    tree.each_node(&mut |node| {
        only = only || (node.kind == "RangeVar" && !node.flag("inh"));
        Descend::Yes
    });
    only
}

/// Names that are no relations but that the second parser visits as such: CTEs, functions in FROM, locked aliases.
fn explained_names(tree: &Tree) -> BTreeSet<String> {
    let mut explained = BTreeSet::new();
    let mut locks = false;
    tree.each_node(&mut |node| {
        match node.kind {
            "CommonTableExpr" => {
                explained.insert(node.text("ctename").to_owned());
            }
            "FuncCall" => {
                explained.extend(names::parts(node.get("funcname")).last().map(|name| (*name).to_owned()));
            }
            "LockingClause" => locks = true,
            _ => {}
        }
        Descend::Yes
    });
    if locks {
        explained.extend(names::row_names(tree));
    }
    explained
}

#[derive(Debug, Default)]
struct Sight {
    relations: BTreeSet<(Option<String>, String)>,
    writes: bool,
}

impl Visitor for Sight {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let mut parts = relation.0.iter().rev().map(|part| part.as_ident().map(folded));
        match (parts.next(), parts.next()) {
            (Some(Some(name)), schema) => {
                self.relations.insert((schema.flatten(), name));
                ControlFlow::Continue(())
            }
            (Some(None) | None, _) => ControlFlow::Break(()),
        }
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        self.writes |= !matches!(statement, Statement::Query(_));
        ControlFlow::Continue(())
    }
}

/// An identifier as PostgreSQL folds and cuts it.
fn folded(ident: &Ident) -> String {
    let mut name = match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    };
    while name.len() > IDENTIFIER_BYTES_MAX {
        name.pop();
    }
    name
}
