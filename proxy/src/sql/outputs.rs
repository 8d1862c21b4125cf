//! Which columns the rows that a statement returns, or writes, can depend on.
//!
//! Only where it is provable from the text: every source a plain relation without column aliases, no CTE, no set
//! operation. Sub-queries, whole rows, stars and functions outside the allow-list are `Unknown`.
//! INVARIANT: a node kind that `kinds.rs` does not call a part, and that is not read here, makes the value `Unknown`.

use std::collections::BTreeSet;

use pg_query::protobuf::SetOperation;

use super::facts::{ColumnReads, Outputs};
use super::functions::{self, FunctionClass};
use super::kinds::{self, Meaning};
use super::names;
use super::tree::{Node, Tree};

/// Reads expressions of one statement.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    row_names: &'t BTreeSet<String>,
}

impl<'t> Reader<'t> {
    /// For a statement with these whole-row names.
    pub(super) fn new(row_names: &'t BTreeSet<String>) -> Self {
        Self { row_names }
    }

    /// Outputs of a query, or of a modifying statement's `RETURNING`.
    pub(super) fn outputs(&self, node: &Node) -> Outputs {
        match node.kind {
            "SelectStmt" => self.select(node),
            "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => self.returning(node),
            _ => Outputs::Unknown,
        }
    }

    fn select(&self, node: &Node) -> Outputs {
        let single = node.int("op") == i64::from(SetOperation::SetopNone as i32);
        if !single || node.node("with_clause").is_some() || !are_plain(node.list("from_clause")) {
            return Outputs::Unknown;
        }
        let windows = node.get("window_clause");
        let rows = node.list("values_lists");
        if rows.is_empty() { self.targets(node.list("target_list"), windows) } else { self.values(rows) }
    }

    fn values(&self, rows: &[Tree]) -> Outputs {
        let mut columns: Vec<ColumnReads> = Vec::new();
        for row in rows {
            for (index, value) in row.as_list().iter().enumerate() {
                let reads = self.reads(value, &Tree::Null);
                match columns.get_mut(index) {
                    Some(column) => *column = std::mem::replace(column, ColumnReads::Unknown).join(reads),
                    None => columns.push(reads),
                }
            }
        }
        Outputs::Columns(columns)
    }

    fn returning(&self, node: &Node) -> Outputs {
        let Some(clause) = node.node("returning_clause") else { return Outputs::None };
        let sources_plain = are_plain(node.list("from_clause"))
            && are_plain(node.list("using_clause"))
            && (node.kind != "MergeStmt" || is_plain(node.get("source_relation")));
        if node.node("with_clause").is_some() || !sources_plain {
            return Outputs::Unknown;
        }
        self.targets(clause.list("exprs"), &Tree::Null)
    }

    fn targets(&self, targets: &[Tree], windows: &Tree) -> Outputs {
        let mut columns = Vec::with_capacity(targets.len());
        for target in targets {
            let Some(target) = target.as_node().filter(|node| node.kind == "ResTarget") else {
                return Outputs::Unknown;
            };
            let value = target.get("val");
            if is_star(value) {
                return Outputs::Unknown;
            }
            columns.push(self.reads(value, windows));
        }
        Outputs::Columns(columns)
    }

    /// What a modifying or creating statement copies into relations.
    pub(super) fn writes(&self, node: &Node) -> ColumnReads {
        if node.node("with_clause").is_some() {
            return ColumnReads::Unknown;
        }
        match node.kind {
            "InsertStmt" => {
                let source = node
                    .node("select_stmt")
                    .map_or(ColumnReads::Nothing, |source| self.outputs(source).reads());
                let conflict = node
                    .node("on_conflict_clause")
                    .map_or(ColumnReads::Nothing, |clause| self.assigned(clause.list("target_list")));
                source.join(conflict)
            }
            "UpdateStmt" => {
                let plain = are_plain(node.list("from_clause"));
                if plain { self.assigned(node.list("target_list")) } else { ColumnReads::Unknown }
            }
            "DeleteStmt" => ColumnReads::Nothing,
            "MergeStmt" => {
                if !is_plain(node.get("source_relation")) {
                    return ColumnReads::Unknown;
                }
                node.list("merge_when_clauses").iter().filter_map(Tree::as_node).fold(
                    ColumnReads::Nothing,
                    |reads, clause| {
                        reads
                            .join(self.assigned(clause.list("target_list")))
                            .join(self.all(clause.list("values"), &Tree::Null))
                    },
                )
            }
            _ => ColumnReads::Unknown,
        }
    }

    fn assigned(&self, targets: &[Tree]) -> ColumnReads {
        targets.iter().filter_map(Tree::as_node).fold(ColumnReads::Nothing, |reads, target| {
            reads.join(self.reads(target.get("val"), &Tree::Null))
        })
    }

    fn all(&self, values: &[Tree], windows: &Tree) -> ColumnReads {
        values.iter().fold(ColumnReads::Nothing, |reads, value| reads.join(self.reads(value, windows)))
    }

    /// What an expression can depend on. `windows` are the query's named windows.
    pub(super) fn reads(&self, tree: &Tree, windows: &Tree) -> ColumnReads {
        match tree {
            Tree::Node(node) => self.node_reads(node, windows),
            Tree::List(items) => self.all(items, windows),
            Tree::Null | Tree::Bool(_) | Tree::Int(_) | Tree::Text(_) => ColumnReads::Nothing,
        }
    }

    fn node_reads(&self, node: &Node, windows: &Tree) -> ColumnReads {
        match node.kind {
            "ColumnRef" => self.column(node),
            "FuncCall" => {
                let class = functions::classify(&names::parts(node.get("funcname")));
                match class {
                    FunctionClass::Builtin | FunctionClass::Touches | FunctionClass::SetConfig => {
                        self.children(node, windows)
                    }
                    FunctionClass::Dangerous | FunctionClass::Foreign => ColumnReads::Unknown,
                }
            }
            "AExpr" => {
                if functions::is_builtin_operator(&names::parts(node.get("name"))) {
                    self.children(node, windows)
                } else {
                    ColumnReads::Unknown
                }
            }
            "AIndirection" => {
                let only_subscripts = node
                    .list("indirection")
                    .iter()
                    .all(|step| step.as_node().is_some_and(|step| step.kind == "AIndices"));
                if only_subscripts { self.children(node, windows) } else { ColumnReads::Unknown }
            }
            // Rows of a named window decide what a window function returns.
            "WindowDef" if !node.text("name").is_empty() || !node.text("refname").is_empty() => {
                self.children(node, &Tree::Null).join(self.window_reads(windows))
            }
            "SortBy" | "TypeName" | "ResTarget" | "IndexElem" | "DefElem" | "AlterTableCmd" => {
                self.children(node, windows)
            }
            kind if kinds::meaning(kind) == Meaning::Part => self.children(node, windows),
            _ => ColumnReads::Unknown,
        }
    }

    fn window_reads(&self, windows: &Tree) -> ColumnReads {
        windows
            .as_list()
            .iter()
            .filter_map(Tree::as_node)
            .fold(ColumnReads::Nothing, |reads, window| reads.join(self.children(window, &Tree::Null)))
    }

    fn children(&self, node: &Node, windows: &Tree) -> ColumnReads {
        node.fields
            .iter()
            .fold(ColumnReads::Nothing, |reads, (_, value)| reads.join(self.reads(value, windows)))
    }

    fn column(&self, node: &Node) -> ColumnReads {
        match node.list("fields") {
            [only] if self.row_names.contains(only.as_text()) => ColumnReads::Unknown,
            [.., last] => match last.as_text() {
                "" => ColumnReads::Unknown,
                name if node.list("fields").len() > 1 && functions::may_take_row(name) => {
                    ColumnReads::Unknown
                }
                name => ColumnReads::column(name),
            },
            [] => ColumnReads::Unknown,
        }
    }
}

fn is_star(value: &Tree) -> bool {
    let Some(node) = value.as_node() else { return false };
    let last = match node.kind {
        "ColumnRef" => node.list("fields").last(),
        "AIndirection" => node.list("indirection").last(),
        _ => None,
    };
    last.and_then(Tree::as_node).is_some_and(|last| last.kind == "AStar")
}

fn are_plain(sources: &[Tree]) -> bool {
    sources.iter().all(is_plain)
}

/// A relation without column aliases, or a join of such without an alias of its own.
fn is_plain(source: &Tree) -> bool {
    let Some(node) = source.as_node() else { return false };
    match node.kind {
        "RangeVar" => node.node("alias").is_none_or(|alias| alias.list("colnames").is_empty()),
        "JoinExpr" => {
            node.node("alias").is_none()
                && node.node("join_using_alias").is_none()
                && is_plain(node.get("larg"))
                && is_plain(node.get("rarg"))
        }
        _ => false,
    }
}
