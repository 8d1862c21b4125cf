//! Names in the parse tree: qualified names, names of things that rows can be taken from, objects given as lists.
//!
//! `DROP`, `COMMENT`, `ALTER .. OWNER` and the like carry their objects as lists of strings, not as relations; this file
//! knows which object sorts are relations, which hang on a relation, and which are functions.

use std::collections::BTreeSet;

use pg_query::protobuf::ObjectType;

use crate::model::RelationName;

use super::tree::{Descend, Node, Tree};

/// The parts of a qualified name (`List` or plain list of `String` nodes).
pub(super) fn parts(list: &Tree) -> Vec<&str> {
    list.as_list().iter().map(Tree::as_text).filter(|part| !part.is_empty()).collect()
}

/// The relation a qualified name means: the last part, and the schema before it.
pub(super) fn relation(parts: &[&str]) -> Option<RelationName> {
    let (name, before) = parts.split_last()?;
    Some(RelationName { schema: before.last().map(|schema| (*schema).to_owned()), name: (*name).to_owned() })
}

/// The relation of a `RangeVar`.
pub(super) fn range_var(node: &Node) -> RelationName {
    let schema = node.text("schemaname");
    RelationName {
        schema: (!schema.is_empty()).then(|| schema.to_owned()),
        name: node.text("relname").to_owned(),
    }
}

/// Every name in the tree that could denote a whole row: relations, aliases, CTEs, and `old`/`new`.
///
/// Deliberately without scopes: a superset only makes more expressions "whole row", which is the safe direction.
pub(super) fn row_names(tree: &Tree) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["old".to_owned(), "new".to_owned(), "excluded".to_owned()]);
    tree.each_node(&mut |node| {
        let name = match node.kind {
            "RangeVar" => node.text("relname"),
            "Alias" => node.text("aliasname"),
            "CommonTableExpr" => node.text("ctename"),
            "ReturningOption" => node.text("value"),
            _ => "",
        };
        if !name.is_empty() {
            names.insert(name.to_owned());
        }
        Descend::Yes
    });
    names
}

/// What an object list entry names.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Relations, also those that a trigger, rule, policy, constraint or column belongs to.
    pub(super) relations: BTreeSet<RelationName>,
    /// Columns.
    pub(super) columns: BTreeSet<String>,
    /// Functions, `schema.name` or `name`.
    pub(super) functions: BTreeSet<String>,
}

/// Reads one entry of an object list of the given object type.
pub(super) fn object(object_type: i64, entry: &Tree, into: &mut Objects) {
    let Some(object_type) = i32::try_from(object_type).ok().and_then(|raw| ObjectType::try_from(raw).ok())
    else {
        return;
    };
    let parts = parts(entry);
    if is_relation(object_type) {
        into.relations.extend(relation(&parts));
    } else if hangs_on_relation(object_type) {
        if let Some((last, before)) = parts.split_last() {
            into.relations.extend(relation(before));
            if object_type == ObjectType::ObjectColumn {
                into.columns.insert((*last).to_owned());
            }
        }
    } else if let Some(function) = entry.as_node().filter(|node| node.kind == "ObjectWithArgs") {
        into.functions.insert(self::parts(function.get("objname")).join("."));
    }
}

fn is_relation(object_type: ObjectType) -> bool {
    matches!(
        object_type,
        ObjectType::ObjectTable
            | ObjectType::ObjectView
            | ObjectType::ObjectMatview
            | ObjectType::ObjectIndex
            | ObjectType::ObjectSequence
            | ObjectType::ObjectForeignTable
            | ObjectType::ObjectStatisticExt
    )
}

fn hangs_on_relation(object_type: ObjectType) -> bool {
    matches!(
        object_type,
        ObjectType::ObjectColumn
            | ObjectType::ObjectRule
            | ObjectType::ObjectTrigger
            | ObjectType::ObjectPolicy
            | ObjectType::ObjectTabconstraint
    )
}
