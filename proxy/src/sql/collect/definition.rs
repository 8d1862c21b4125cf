//! Statements that define, grant, copy or steer a session: what their fields add to the facts.
//!
//! Definitions name objects in lists of strings; `names.rs` says which of those are relations.
//! INVARIANT: every special kind of `kinds.rs` that `collect.rs` does not read is read here; the last arm is unknown.

use pg_query::protobuf::{
    AlterTableType, DropBehavior, GrantTargetType, ObjectType, TransactionStmtKind, VariableSetKind,
};

use crate::model::Effect;

use super::super::guc;
use super::super::names::{self, Objects};
use super::super::tree::{Node, Tree};
use super::{Collector, Scope, literal};

impl Collector {
    pub(super) fn definition(&mut self, node: &Node, scope: &Scope) {
        match node.kind {
            "PrepareStmt" | "DeclareCursorStmt" => self.children(node, scope),
            "ExecuteStmt" => {
                self.runs_unseen_code();
                self.children(node, scope);
            }
            "ExplainStmt" => self.explain(node, scope),
            "TransactionStmt" => self.transaction(node),
            "VariableSetStmt" => self.set(node),
            "CopyStmt" => self.copy(node, scope),
            "CallStmt" => {
                self.does(Effect::Call);
                self.runs_unseen_code();
                self.children(node, scope);
            }
            "LockStmt" => {
                // ACCESS SHARE is what every SELECT takes.
                self.does(if node.int("mode") == 1 { Effect::Select } else { Effect::Update });
                self.children(node, scope);
            }
            "TruncateStmt" => self.truncate(node, scope),
            "DropStmt" => self.drop_objects(node),
            "GrantStmt" => self.grant(node, scope),
            "RenameStmt" | "CommentStmt" | "AlterOwnerStmt" | "AlterObjectSchemaStmt" => {
                self.alter(node, scope)
            }
            "AlterTableCmd" => self.alter_table(node, scope),
            "IndexElem" => {
                self.column_named(node.text("name"));
                self.children(node, scope);
            }
            "DefElem" => {
                if matches!(node.text("defname"), "owned_by" | "sequence_name") {
                    self.owner(node);
                }
                self.children(node, scope);
            }
            "TypeName" => self.type_name(node, scope),
            "ViewStmt" | "CreateFunctionStmt" | "CreateTrigStmt" => self.create_or_replace(node, scope),
            "CreateExtensionStmt" => {
                self.does(Effect::Create);
                self.runs_unseen_code();
            }
            "RefreshMatViewStmt" => {
                self.does(Effect::Update);
                self.opaque = true;
                self.children(node, scope);
            }
            kind => self.unknown(format!("`{kind}` is not read")),
        }
    }

    fn explain(&mut self, node: &Node, scope: &Scope) {
        if explain_runs(node) {
            return self.walk(node.get("query"), scope);
        }
        // Planning alone: nothing is written, but stable functions may run.
        let mut inner = Self::new(self.row_names.clone());
        inner.walk(node.get("query"), scope);
        self.does(Effect::Select);
        for effect in [Effect::Execute, Effect::Unknown] {
            if inner.operation.effects.contains(&effect) {
                self.does(effect);
            }
        }
        self.operation.relations.extend(inner.operation.relations);
        self.operation.columns.extend(inner.operation.columns);
        self.operation.functions.extend(inner.operation.functions);
        self.opaque |= inner.opaque;
        self.trouble = self.trouble.take().or(inner.trouble);
    }

    fn transaction(&mut self, node: &Node) {
        match enumeration::<TransactionStmtKind>(node.int("kind")) {
            Some(
                TransactionStmtKind::TransStmtPrepare
                | TransactionStmtKind::TransStmtCommitPrepared
                | TransactionStmtKind::TransStmtRollbackPrepared
                | TransactionStmtKind::Undefined,
            )
            | None => self.unknown("two-phase commit outlives the session"),
            Some(_) => self.does(Effect::Transaction),
        }
    }

    fn set(&mut self, node: &Node) {
        self.read_literal = true;
        let name = node.text("name");
        let allowed = match enumeration::<VariableSetKind>(node.int("kind")) {
            Some(VariableSetKind::VarSetValue) => {
                let values: Vec<Option<&str>> = node.list("args").iter().map(set_value).collect();
                guc::may_set(name, &values)
            }
            Some(VariableSetKind::VarSetMulti) => guc::may_set(name, &[]),
            Some(VariableSetKind::VarSetDefault | VariableSetKind::VarReset) => guc::may_reset(name),
            Some(VariableSetKind::VarResetAll) => true,
            Some(VariableSetKind::VarSetCurrent | VariableSetKind::Undefined) | None => false,
        };
        if allowed {
            self.does(Effect::Set);
        } else {
            self.unknown(format!("setting `{name}`"));
        }
    }

    fn copy(&mut self, node: &Node, scope: &Scope) {
        if node.flag("is_program") || !node.text("filename").is_empty() {
            self.unknown("COPY with a file or program of the server");
        }
        if node.flag("is_from") {
            self.does(Effect::CopyIn);
            self.does(Effect::Insert);
        } else {
            self.does(Effect::CopyOut);
            self.does(Effect::Select);
            if node.node("query").is_none() {
                self.unfiltered = true;
            }
        }
        node.list("attlist").iter().for_each(|column| self.column_named(column.as_text()));
        self.children(node, scope);
    }

    fn truncate(&mut self, node: &Node, scope: &Scope) {
        self.does(Effect::Truncate);
        self.unfiltered = true;
        if enumeration::<DropBehavior>(node.int("behavior")) == Some(DropBehavior::DropCascade) {
            self.unknown("TRUNCATE .. CASCADE empties relations it does not name");
        }
        self.children(node, scope);
    }

    fn drop_objects(&mut self, node: &Node) {
        self.does(Effect::Drop);
        let sort = node.int("remove_type");
        match enumeration::<ObjectType>(sort) {
            Some(ObjectType::ObjectSchema | ObjectType::ObjectExtension) => {
                self.unknown("drops objects it does not name");
            }
            Some(_) => self.objects(sort, node.list("objects")),
            None => self.unknown("DROP of an unknown kind of object"),
        }
    }

    fn objects(&mut self, sort: i64, entries: &[Tree]) {
        let mut objects = Objects::default();
        entries.iter().for_each(|entry| names::object(sort, entry, &mut objects));
        self.operation.relations.extend(objects.relations);
        self.operation.columns.extend(objects.columns);
        self.operation.functions.extend(objects.functions);
    }

    fn grant(&mut self, node: &Node, scope: &Scope) {
        self.does(Effect::Grant);
        if enumeration::<GrantTargetType>(node.int("targtype")) != Some(GrantTargetType::AclTargetObject) {
            self.unknown("GRANT on relations it does not name");
        }
        self.objects(node.int("objtype"), node.list("objects"));
        for privilege in node.list("privileges").iter().filter_map(Tree::as_node) {
            privilege.list("cols").iter().for_each(|column| self.column_named(column.as_text()));
        }
        self.children(node, scope);
    }

    fn alter(&mut self, node: &Node, scope: &Scope) {
        self.does(Effect::Alter);
        if node.kind == "AlterOwnerStmt" {
            self.does(Effect::Grant);
        }
        let sort = match node.kind {
            "RenameStmt" => node.int("rename_type"),
            "CommentStmt" => node.int("objtype"),
            _ => node.int("object_type"),
        };
        self.objects(sort, std::slice::from_ref(node.get("object")));
        if node.kind == "AlterObjectSchemaStmt"
            && enumeration::<ObjectType>(sort) == Some(ObjectType::ObjectExtension)
        {
            self.unknown("moves objects it does not name");
        }
        if node.kind == "RenameStmt" && enumeration::<ObjectType>(sort) == Some(ObjectType::ObjectColumn) {
            self.column_named(node.text("subname"));
            self.column_named(node.text("newname"));
        }
        self.children(node, scope);
    }

    fn alter_table(&mut self, node: &Node, scope: &Scope) {
        match enumeration::<AlterTableType>(node.int("subtype")) {
            Some(AlterTableType::AtChangeOwner) => self.does(Effect::Grant),
            Some(AlterTableType::Undefined) | None => self.unknown("ALTER TABLE action of an unknown kind"),
            Some(_) => {}
        }
        self.column_named(node.text("name"));
        self.children(node, scope);
    }

    fn owner(&mut self, node: &Node) {
        let parts = names::parts(node.get("arg"));
        if node.text("defname") == "sequence_name" {
            self.operation.relations.extend(names::relation(&parts));
        } else if let Some((_, table)) = parts.split_last() {
            self.operation.relations.extend(names::relation(table));
        }
    }

    fn type_name(&mut self, node: &Node, scope: &Scope) {
        // `t.c%TYPE` reads the definition of a column.
        if node.flag("pct_type")
            && let Some((column, table)) = names::parts(node.get("names")).split_last()
        {
            self.operation.relations.extend(names::relation(table));
            self.column_named(column);
        }
        self.children(node, scope);
    }

    fn create_or_replace(&mut self, node: &Node, scope: &Scope) {
        self.does(Effect::Create);
        if node.flag("replace") {
            self.does(Effect::Alter);
        }
        if node.kind == "CreateFunctionStmt" {
            self.operation.functions.insert(names::parts(node.get("funcname")).join("."));
        }
        if node.kind == "CreateTrigStmt" {
            let called = names::parts(node.get("funcname")).join(".");
            self.operation.functions.insert(called);
        }
        self.children(node, scope);
    }
}

/// Whether an `EXPLAIN` executes its statement. Any `ANALYZE` that is not plainly off counts.
pub(in super::super) fn explain_runs(node: &Node) -> bool {
    node.list("options")
        .iter()
        .filter_map(Tree::as_node)
        .any(|option| option.text("defname").eq_ignore_ascii_case("analyze") && !is_off(option.get("arg")))
}

fn is_off(argument: &Tree) -> bool {
    match argument.as_node() {
        Some(node) if node.kind == "Integer" => node.int("ival") == 0,
        Some(node) if node.kind == "Boolean" => !node.flag("boolval"),
        Some(node) if node.kind == "String" => {
            matches!(node.text("sval").to_ascii_lowercase().as_str(), "off" | "false" | "0" | "no")
        }
        Some(_) | None => false,
    }
}

fn set_value(argument: &Tree) -> Option<&str> {
    literal(argument)
}

/// A generated enumeration's value, if the number is one.
fn enumeration<T: TryFrom<i32>>(raw: i64) -> Option<T> {
    i32::try_from(raw).ok().and_then(|raw| T::try_from(raw).ok())
}
