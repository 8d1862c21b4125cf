//! The walk over a statement's tree that gathers its facts.
//!
//! Looks at every field of every node through the generic [`Tree`]; node kinds come from `kinds.rs`.
//! INVARIANT: a kind without a meaning, and every special case that cannot be read, calls [`Collector::unknown`].
//! CTE names hide unqualified relations exactly where PostgreSQL lets them; in doubt the name stays a relation.

use std::collections::BTreeSet;

use crate::model::{Effect, Operation, RelationName};

use super::functions::{self, FunctionClass};
use super::guc;
use super::kinds::{self, Meaning};
use super::names;
use super::tree::{Node, Tree};

mod definition;

pub(super) use definition::explain_runs;

/// CTE names visible at a place, innermost first.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    ctes: BTreeSet<String>,
}

impl Scope {
    fn hides(&self, relation: &RelationName) -> bool {
        relation.schema.is_none() && self.ctes.contains(&relation.name)
    }
}

/// Facts gathered so far.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// The facts; `has_filter` is derived from `unfiltered` at the end.
    pub(super) operation: Operation,
    /// Some select, update or delete has no filter.
    pub(super) unfiltered: bool,
    /// Runs code that cannot be seen.
    pub(super) opaque: bool,
    /// A literal's value influenced the facts.
    pub(super) read_literal: bool,
    /// First reason for being unknown.
    pub(super) trouble: Option<String>,
    /// Names that may denote whole rows.
    row_names: BTreeSet<String>,
    /// A column that the surrounding select's condition holds to one constant.
    pinned: Option<(String, String)>,
}

impl Collector {
    /// Starts for one statement.
    pub(super) fn new(row_names: BTreeSet<String>) -> Self {
        Self { row_names, ..Self::default() }
    }

    /// Marks the statement as unknown.
    pub(super) fn unknown(&mut self, reason: impl Into<String>) {
        self.operation.effects.insert(Effect::Unknown);
        self.opaque = true;
        self.trouble.get_or_insert_with(|| reason.into());
    }

    fn does(&mut self, effect: Effect) {
        self.operation.effects.insert(effect);
    }

    fn runs_unseen_code(&mut self) {
        self.does(Effect::Execute);
        self.opaque = true;
    }

    /// Walks one value.
    pub(super) fn walk(&mut self, tree: &Tree, scope: &Scope) {
        match tree {
            Tree::Node(node) => self.node(node, scope),
            Tree::List(items) => items.iter().for_each(|item| self.walk(item, scope)),
            Tree::Null | Tree::Bool(_) | Tree::Int(_) | Tree::Text(_) => {}
        }
    }

    fn children(&mut self, node: &Node, scope: &Scope) {
        self.children_but(node, &[], scope);
    }

    fn children_but(&mut self, node: &Node, skip: &[&str], scope: &Scope) {
        for (name, value) in &node.fields {
            if !skip.contains(name) {
                self.walk(value, scope);
            }
        }
    }

    fn node(&mut self, node: &Node, scope: &Scope) {
        match kinds::meaning(node.kind) {
            Meaning::Part => self.children(node, scope),
            Meaning::Special => self.special(node, scope),
            Meaning::Does(effects) => {
                self.operation.effects.extend(effects);
                self.children(node, scope);
            }
            Meaning::Opaque => {
                self.unknown(format!("`{}` reaches further than its text says", node.kind));
                self.children(node, scope);
            }
            Meaning::Stranger => {
                self.unknown(format!("unknown node kind `{}`", node.kind));
                self.children(node, scope);
            }
        }
    }

    fn special(&mut self, node: &Node, scope: &Scope) {
        match node.kind {
            "SelectStmt" => self.select(node, scope),
            "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => self.modify(node, scope),
            "RangeVar" => self.relation(node, scope),
            "ColumnRef" => self.column(node),
            "FuncCall" => self.function(node, scope),
            "AExpr" => {
                self.operator(node.get("name"));
                self.children(node, scope);
            }
            "SubLink" => {
                self.operator(node.get("oper_name"));
                self.children(node, scope);
            }
            "SortBy" => {
                self.operator(node.get("use_op"));
                self.children(node, scope);
            }
            "AIndirection" => self.indirection(node, scope),
            "ResTarget" => {
                self.column_named(node.text("name"));
                self.children(node, scope);
            }
            "ReturningClause" => self.returning(node, scope),
            // Row locks write tuple headers and block others. The names are those of FROM items, not new relations.
            "LockingClause" => self.does(Effect::Update),
            "RangeTableSample" => {
                let method = names::parts(node.get("method"));
                if !matches!(
                    method.as_slice(),
                    ["bernoulli" | "system"] | ["pg_catalog", "bernoulli" | "system"]
                ) {
                    self.runs_unseen_code();
                }
                self.children(node, scope);
            }
            // `FROM` a WITH clause is entered by its owner; reaching one here means an owner was forgotten.
            "WithClause" | "CommonTableExpr" => {
                self.unknown("WITH in an unexpected place");
                self.children(node, &Scope::default());
            }
            _ => self.definition(node, scope),
        }
    }

    fn relation(&mut self, node: &Node, scope: &Scope) {
        let relation = names::range_var(node);
        if node.get("catalogname") != &Tree::Null || !scope.hides(&relation) {
            self.operation.relations.insert(relation);
        }
        self.walk(node.get("alias"), scope);
    }

    fn column_named(&mut self, name: &str) {
        if !name.is_empty() {
            self.operation.columns.insert(name.to_owned());
        }
    }

    fn column(&mut self, node: &Node) {
        // Indirections inside a column reference are strings and stars only.
        if let Some(last) = node.list("fields").last() {
            self.column_named(last.as_text());
        }
    }

    fn operator(&mut self, name: &Tree) {
        let parts = names::parts(name);
        if !parts.is_empty() && !functions::is_builtin_operator(&parts) {
            self.runs_unseen_code();
            self.operation.functions.insert(format!("operator {}", parts.join(".")));
        }
    }

    fn function(&mut self, node: &Node, scope: &Scope) {
        let parts = names::parts(node.get("funcname"));
        let written = parts.join(".");
        match functions::classify(&parts) {
            FunctionClass::Builtin => {}
            FunctionClass::Touches => self.does(Effect::Update),
            FunctionClass::SetConfig => self.set_config(node),
            FunctionClass::Dangerous => self.unknown(format!("call of `{written}`")),
            FunctionClass::Foreign => self.runs_unseen_code(),
        }
        self.operation.functions.insert(written);
        // `ssn(c)` on a row is the column `ssn`.
        if let ([argument], Some(last)) = (node.list("args"), parts.last())
            && self.may_be_row(argument)
        {
            self.column_named(last);
        }
        self.children_but(node, &["funcname"], scope);
    }

    fn may_be_row(&self, expression: &Tree) -> bool {
        let Some(node) = expression.as_node() else { return false };
        match node.kind {
            "ColumnRef" => match node.list("fields") {
                [only] => self.row_names.contains(only.as_text()),
                [.., last] => last.as_text().is_empty(),
                [] => true,
            },
            "AConst" | "ParamRef" => false,
            _ => true,
        }
    }

    fn set_config(&mut self, node: &Node) {
        self.read_literal = true;
        let [name, value, _] = node.list("args") else {
            return self.unknown("set_config with unusual arguments");
        };
        let name = literal(name).map(str::to_owned).or_else(|| self.pinned_value(name));
        match (name, literal(value)) {
            (Some(name), Some(value)) if guc::may_set(&name, &[Some(value)]) => self.does(Effect::Set),
            (Some(name), _) => self.unknown(format!("set_config of `{name}`")),
            (None, _) => self.unknown("set_config of a computed setting"),
        }
    }

    /// `set_config(name, ..) FROM pg_settings WHERE name = 'x'`, as pg_dump writes it, sets `x` or nothing.
    fn pinned_value(&self, expression: &Tree) -> Option<String> {
        let column = lone_column(expression)?;
        self.pinned.as_ref().filter(|(name, _)| name == column).map(|(_, value)| value.clone())
    }

    /// `(x).name`: a field of a row, or a call of any function `name` that takes one argument.
    fn indirection(&mut self, node: &Node, scope: &Scope) {
        let fields: Vec<&str> =
            node.list("indirection").iter().map(Tree::as_text).filter(|name| !name.is_empty()).collect();
        for name in fields {
            self.column_named(name);
            match functions::classify(&[name]) {
                FunctionClass::Builtin => {
                    self.operation.functions.insert(name.to_owned());
                }
                FunctionClass::Dangerous => self.unknown(format!("call of `{name}` in column notation")),
                FunctionClass::Foreign if of_known_record(node.get("arg")) => {}
                FunctionClass::Foreign | FunctionClass::Touches | FunctionClass::SetConfig => {
                    self.runs_unseen_code();
                }
            }
        }
        self.children(node, scope);
    }

    fn with(&mut self, node: &Node, scope: &Scope) -> Scope {
        let mut inner = scope.clone();
        let Some(with) = node.node("with_clause") else { return inner };
        let ctes = || with.list("ctes").iter().filter_map(Tree::as_node);
        let recursive = with.flag("recursive");
        if recursive {
            inner.ctes.extend(ctes().map(|cte| cte.text("ctename").to_owned()));
        }
        for cte in ctes() {
            if cte.kind == "CommonTableExpr" {
                self.children(cte, &inner);
            } else {
                self.unknown("WITH of an unexpected kind");
            }
            if !recursive {
                inner.ctes.insert(cte.text("ctename").to_owned());
            }
        }
        inner
    }

    fn select(&mut self, node: &Node, scope: &Scope) {
        self.does(Effect::Select);
        self.select_body(node, scope);
    }

    fn select_body(&mut self, node: &Node, scope: &Scope) {
        let scope = self.with(node, scope);
        if !node.list("from_clause").is_empty() && !is_filter(node.get("where_clause")) {
            self.unfiltered = true;
        }
        if node.node("into_clause").is_some() {
            self.does(Effect::Create);
        }
        let outer = std::mem::replace(&mut self.pinned, pinned(node));
        self.outputs(node.list("target_list"), &scope);
        self.pinned = None;
        self.children_but(node, &["with_clause", "target_list"], &scope);
        self.pinned = outer;
    }

    /// Output expressions: their names are labels, not columns.
    fn outputs(&mut self, targets: &[Tree], scope: &Scope) {
        for target in targets {
            match target.as_node() {
                Some(target) if target.kind == "ResTarget" => self.children(target, scope),
                Some(_) | None => self.walk(target, scope),
            }
        }
    }

    fn returning(&mut self, node: &Node, scope: &Scope) {
        // PostgreSQL, too, asks for the right to select.
        self.does(Effect::Select);
        self.walk(node.get("options"), scope);
        self.outputs(node.list("exprs"), scope);
    }

    fn modify(&mut self, node: &Node, scope: &Scope) {
        let scope = self.with(node, scope);
        // The target is never a CTE.
        if let Some(target) = node.node("relation") {
            self.relation(target, &Scope::default());
        } else {
            self.unknown("no target relation");
        }
        match node.kind {
            "InsertStmt" => self.insert(node, &scope),
            "UpdateStmt" => self.change(node, Effect::Update, "from_clause", &scope),
            "DeleteStmt" => self.change(node, Effect::Delete, "using_clause", &scope),
            _ => self.merge(node, &scope),
        }
    }

    fn insert(&mut self, node: &Node, scope: &Scope) {
        self.does(Effect::Insert);
        if node.node("on_conflict_clause").is_some_and(|clause| !clause.list("target_list").is_empty()) {
            self.does(Effect::Update);
        }
        match node.node("select_stmt") {
            // Plain `VALUES` reads nothing; sub-queries inside it speak for themselves.
            Some(source) if !source.list("values_lists").is_empty() => self.select_body(source, scope),
            Some(source) => self.node(source, scope),
            None => {}
        }
        self.children_but(node, &["with_clause", "relation", "select_stmt"], scope);
    }

    fn change(&mut self, node: &Node, effect: Effect, sources: &str, scope: &Scope) {
        self.does(effect);
        if !node.list(sources).is_empty() {
            self.does(Effect::Select);
        }
        if !is_filter(node.get("where_clause")) {
            self.unfiltered = true;
        }
        self.children_but(node, &["with_clause", "relation"], scope);
    }

    fn merge(&mut self, node: &Node, scope: &Scope) {
        use pg_query::protobuf::CmdType;
        self.does(Effect::Select);
        if !is_filter(node.get("join_condition")) {
            self.unfiltered = true;
        }
        for clause in node.list("merge_when_clauses").iter().filter_map(Tree::as_node) {
            let command =
                i32::try_from(clause.int("command_type")).ok().and_then(|raw| CmdType::try_from(raw).ok());
            match command {
                Some(CmdType::CmdUpdate) => self.does(Effect::Update),
                Some(CmdType::CmdInsert) => self.does(Effect::Insert),
                Some(CmdType::CmdDelete) => self.does(Effect::Delete),
                Some(CmdType::CmdNothing) => {}
                _ => self.unknown("MERGE action of an unknown kind"),
            }
        }
        self.children_but(node, &["with_clause", "relation"], scope);
    }

    /// The facts, once everything was walked.
    pub(super) fn finish(mut self) -> Self {
        self.operation.has_filter = !self.unfiltered && !self.operation.effects.contains(&Effect::Unknown);
        self
    }
}

/// A condition restricts something only if it looks at a column (or a cursor's row).
fn is_filter(condition: &Tree) -> bool {
    condition.contains(&["ColumnRef", "CurrentOfExpr"])
}

/// The name of an unqualified column.
fn lone_column(tree: &Tree) -> Option<&str> {
    match tree.as_node().filter(|node| node.kind == "ColumnRef")?.list("fields") {
        [only] => Some(only.as_text()),
        _ => None,
    }
}

/// The column that a select over one relation compares with one constant, and nothing else.
fn pinned(select: &Node) -> Option<(String, String)> {
    let ([source], Some(condition)) = (select.list("from_clause"), select.node("where_clause")) else {
        return None;
    };
    let one_relation = source.as_node().is_some_and(|source| source.kind == "RangeVar");
    let equals = condition.kind == "AExpr"
        && condition.int("kind") == i64::from(pg_query::protobuf::AExprKind::AexprOp as i32)
        && names::parts(condition.get("name")) == ["="];
    let constant = condition.node("rexpr").is_some_and(|right| right.kind == "AConst");
    if !(one_relation && equals && constant) {
        return None;
    }
    let value = literal(condition.get("rexpr"))?;
    Some((lone_column(condition.get("lexpr"))?.to_owned(), value.to_owned()))
}

/// Built-in functions whose result is a record: a field of it cannot be a call of somebody's function.
fn of_known_record(argument: &Tree) -> bool {
    let Some(call) = argument.as_node().filter(|node| node.kind == "FuncCall") else { return false };
    let parts = names::parts(call.get("funcname"));
    matches!(
        parts.last(),
        Some(
            &("_pg_expandarray"
                | "aclexplode"
                | "json_each"
                | "jsonb_each"
                | "json_each_text"
                | "jsonb_each_text"
                | "pg_identify_object"
                | "pg_identify_object_as_address"
                | "pg_sequence_parameters"
                | "pg_options_to_table"
                | "pg_stat_get_progress_info"
                | "pg_get_keywords"
                | "pg_partition_tree")
        )
    ) && functions::classify(&parts) == FunctionClass::Builtin
}

/// The value of a literal, with or without a cast around it.
pub(super) fn literal(tree: &Tree) -> Option<&str> {
    let node = tree.as_node()?;
    match node.kind {
        "AConst" => match node.node("val")? {
            // An empty string constant has no field left.
            text if text.kind == "String" => Some(text.text("sval")),
            flag if flag.kind == "Boolean" => Some(if flag.flag("boolval") { "on" } else { "off" }),
            number if number.kind == "Float" => Some(number.text("fval")),
            _ => None,
        },
        "TypeCast" => literal(node.get("arg")),
        _ => None,
    }
}
