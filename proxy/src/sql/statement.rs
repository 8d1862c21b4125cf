//! One statement's tree to its [`Statement`]: kind, outputs, what is copied where.
//!
//! Effects, relations and columns come from `collect.rs`; this file says what the session must know of the statement.
//! INVARIANT: a statement that is not recognised is `Other` with the collected effects, and returns `Unknown` outputs.

use std::collections::BTreeSet;

use pg_query::protobuf::{DiscardMode, LimitOption, TransactionStmtKind, VariableSetKind};

use crate::model::Effect;

use super::collect::{Collector, Scope, explain_runs};
use super::facts::{ColumnReads, Outputs, Statement, StatementKind};
use super::names;
use super::outputs::Reader;
use super::tree::{Node, Tree};
use super::uses;

/// A statement with what only the analysis of the whole text needs.
#[derive(Debug)]
pub(super) struct Examined {
    /// The facts.
    pub(super) statement: Statement,
    /// Why it is unknown, if it is.
    pub(super) trouble: Option<String>,
    /// Whether a literal's value influenced the facts.
    pub(super) read_literal: bool,
    /// Where the literal of the row limit stands in the text.
    pub(super) limit_at: Option<usize>,
}

/// Examines one statement.
pub(super) fn examine(tree: &Tree) -> Examined {
    let row_names = names::row_names(tree);
    let mut collector = Collector::new(row_names.clone());
    collector.walk(tree, &Scope::default());
    let Some(node) = tree.as_node() else {
        return Examined {
            statement: Statement::unknown(),
            trouble: Some("no statement node".to_owned()),
            read_literal: true,
            limit_at: None,
        };
    };
    let shape = shape_of(node, &row_names);
    let limit = row_limit(node);
    let mut collector = collector.finish();
    collector.operation.row_limit = limit.map(|(rows, _)| rows);
    if collector.operation.effects.is_empty() {
        collector.unknown(format!("`{}` has no known effect", node.kind));
    }
    let writes_from = match shape.writes_from {
        Some(reads) => reads,
        None => nested_writes(node, &collector),
    };
    Examined {
        trouble: collector.trouble,
        read_literal: collector.read_literal,
        limit_at: limit.and_then(|(_, at)| at),
        statement: Statement {
            kind: shape.kind,
            operation: collector.operation,
            outputs: shape.outputs,
            writes_from,
            opaque: collector.opaque,
            uses: uses::of(tree),
        },
    }
}

struct ShapeOf {
    kind: StatementKind,
    outputs: Outputs,
    /// `None`: nothing by itself, but nested statements may write.
    writes_from: Option<ColumnReads>,
}

impl ShapeOf {
    fn silent(kind: StatementKind) -> Self {
        Self { kind, outputs: Outputs::None, writes_from: None }
    }
}

fn shape_of(node: &Node, row_names: &BTreeSet<String>) -> ShapeOf {
    let reader = Reader::new(row_names);
    match node.kind {
        "SelectStmt" if into_clause(node).is_some() => ShapeOf {
            kind: StatementKind::Ddl,
            outputs: Outputs::None,
            writes_from: Some(reader.outputs(node).reads()),
        },
        "SelectStmt" => {
            ShapeOf { kind: StatementKind::Query, outputs: reader.outputs(node), writes_from: None }
        }
        "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => ShapeOf {
            kind: StatementKind::Modify,
            outputs: reader.outputs(node),
            writes_from: Some(reader.writes(node)),
        },
        "PrepareStmt" | "DeclareCursorStmt" => wrapped(node, row_names),
        "ExplainStmt" => explained(node, row_names),
        "CopyStmt" => copied(node, &reader),
        "CreateTableAsStmt" | "ViewStmt" => ShapeOf {
            kind: StatementKind::Ddl,
            outputs: Outputs::None,
            writes_from: Some(
                node.node("query").map_or(ColumnReads::Unknown, |query| reader.outputs(query).reads()),
            ),
        },
        "RefreshMatViewStmt" => ShapeOf {
            kind: StatementKind::Ddl,
            outputs: Outputs::None,
            writes_from: Some(ColumnReads::Unknown),
        },
        _ => session_statement(node).unwrap_or_else(|| definition(node, &reader)),
    }
}

/// `SELECT .. INTO` hides its target in the leftmost arm of a set operation.
fn into_clause(node: &Node) -> Option<&Node> {
    let mut arm = Some(node);
    while let Some(select) = arm {
        if let Some(into) = select.node("into_clause") {
            return Some(into);
        }
        arm = select.node("larg");
    }
    None
}

fn wrapped(node: &Node, row_names: &BTreeSet<String>) -> ShapeOf {
    let inner = node.node("query").map(|query| shape_of(query, row_names));
    let kind = if node.kind == "PrepareStmt" {
        StatementKind::Prepare { name: node.text("name").to_owned() }
    } else {
        StatementKind::DeclareCursor { name: node.text("portalname").to_owned() }
    };
    match inner {
        Some(inner) => ShapeOf { kind, ..inner },
        None => ShapeOf { kind, outputs: Outputs::Unknown, writes_from: Some(ColumnReads::Unknown) },
    }
}

fn explained(node: &Node, row_names: &BTreeSet<String>) -> ShapeOf {
    let analyze = explain_runs(node);
    let writes_from = match node.node("query") {
        Some(query) if analyze => shape_of(query, row_names).writes_from,
        Some(_) => Some(ColumnReads::Nothing),
        None => Some(ColumnReads::Unknown),
    };
    // The plan without execution shows the text's own constants and estimates, no rows.
    let outputs = if analyze { Outputs::Unknown } else { Outputs::Columns(vec![ColumnReads::Nothing]) };
    ShapeOf { kind: StatementKind::Explain { analyze }, outputs, writes_from }
}

fn copied(node: &Node, reader: &Reader<'_>) -> ShapeOf {
    if node.flag("is_from") {
        return ShapeOf::silent(StatementKind::CopyIn);
    }
    let outputs = match node.node("query") {
        Some(query) => reader.outputs(query),
        None => match node.list("attlist") {
            [] => Outputs::Unknown,
            columns => {
                Outputs::Columns(columns.iter().map(|name| ColumnReads::column(name.as_text())).collect())
            }
        },
    };
    ShapeOf { kind: StatementKind::CopyOut, outputs, writes_from: None }
}

fn definition(node: &Node, reader: &Reader<'_>) -> ShapeOf {
    let kind = match super::kinds::meaning(node.kind) {
        super::kinds::Meaning::Part | super::kinds::Meaning::Stranger => StatementKind::Other,
        super::kinds::Meaning::Opaque if matches!(node.kind, "DoStmt" | "LoadStmt" | "CheckPointStmt") => {
            StatementKind::Other
        }
        super::kinds::Meaning::Special | super::kinds::Meaning::Does(_) | super::kinds::Meaning::Opaque => {
            StatementKind::Ddl
        }
    };
    let outputs = if kind == StatementKind::Other { Outputs::Unknown } else { Outputs::None };
    // Expressions in definitions (defaults, checks, USING) may copy what they read.
    let reads = node
        .fields
        .iter()
        .fold(ColumnReads::Nothing, |reads, (_, value)| reads.join(definition_reads(value, reader)));
    ShapeOf { kind, outputs, writes_from: Some(reads) }
}

/// Reads of the expressions in a definition; statements inside are unknown, names and options read nothing.
fn definition_reads(tree: &Tree, reader: &Reader<'_>) -> ColumnReads {
    if tree.contains(&["SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "ExecuteStmt"]) {
        return ColumnReads::Unknown;
    }
    let mut reads = ColumnReads::Nothing;
    tree.each_node(&mut |node| match node.kind {
        "ColumnRef" | "FuncCall" | "AExpr" | "AIndirection" => {
            let here = reader.reads(&Tree::Node(node.clone()), &Tree::Null);
            let so_far = std::mem::replace(&mut reads, ColumnReads::Unknown);
            reads = so_far.join(here);
            super::tree::Descend::No
        }
        _ => super::tree::Descend::Yes,
    });
    reads
}

fn session_statement(node: &Node) -> Option<ShapeOf> {
    let name = |field: &str| node.text(field).to_owned();
    let or_all = |field: &str| Some(node.text(field)).filter(|name| !name.is_empty()).map(str::to_owned);
    Some(match node.kind {
        "TransactionStmt" => ShapeOf::silent(transaction(node)),
        "VariableSetStmt" => ShapeOf::silent(set(node)),
        "VariableShowStmt" => ShapeOf {
            kind: StatementKind::Show { name: name("name").to_ascii_lowercase() },
            outputs: Outputs::Columns(vec![ColumnReads::Nothing]),
            writes_from: None,
        },
        "ExecuteStmt" => ShapeOf {
            kind: StatementKind::Execute { name: name("name") },
            outputs: Outputs::Unknown,
            writes_from: Some(ColumnReads::Unknown),
        },
        "DeallocateStmt" => ShapeOf::silent(StatementKind::Deallocate { name: or_all("name") }),
        "FetchStmt" => ShapeOf {
            kind: StatementKind::Fetch { name: name("portalname") },
            outputs: if node.flag("ismove") { Outputs::None } else { Outputs::Unknown },
            writes_from: None,
        },
        "ClosePortalStmt" => ShapeOf::silent(StatementKind::CloseCursor { name: or_all("portalname") }),
        "DiscardStmt" => {
            let all = node.int("target") == i64::from(DiscardMode::DiscardAll as i32);
            ShapeOf::silent(StatementKind::Discard { all })
        }
        "ListenStmt" => ShapeOf::silent(StatementKind::Listen),
        "UnlistenStmt" => ShapeOf::silent(StatementKind::Unlisten),
        "NotifyStmt" => ShapeOf::silent(StatementKind::Notify),
        "LockStmt" => ShapeOf::silent(StatementKind::Lock),
        "ConstraintsSetStmt" => ShapeOf::silent(StatementKind::Other),
        "CallStmt" => ShapeOf {
            kind: StatementKind::Call,
            outputs: Outputs::Unknown,
            writes_from: Some(ColumnReads::Unknown),
        },
        _ => return None,
    })
}

fn transaction(node: &Node) -> StatementKind {
    let name = || node.text("savepoint_name").to_owned();
    let chain = node.flag("chain");
    let kind = i32::try_from(node.int("kind")).ok().and_then(|raw| TransactionStmtKind::try_from(raw).ok());
    match kind {
        Some(TransactionStmtKind::TransStmtBegin | TransactionStmtKind::TransStmtStart) => {
            StatementKind::Begin
        }
        Some(TransactionStmtKind::TransStmtCommit) => StatementKind::Commit { chain },
        Some(TransactionStmtKind::TransStmtRollback) => StatementKind::Rollback { chain },
        Some(TransactionStmtKind::TransStmtSavepoint) => StatementKind::Savepoint { name: name() },
        Some(TransactionStmtKind::TransStmtRelease) => StatementKind::Release { name: name() },
        Some(TransactionStmtKind::TransStmtRollbackTo) => StatementKind::RollbackTo { name: name() },
        Some(
            TransactionStmtKind::TransStmtPrepare
            | TransactionStmtKind::TransStmtCommitPrepared
            | TransactionStmtKind::TransStmtRollbackPrepared
            | TransactionStmtKind::Undefined,
        )
        | None => StatementKind::Other,
    }
}

fn set(node: &Node) -> StatementKind {
    let name = node.text("name").to_ascii_lowercase();
    match i32::try_from(node.int("kind")).ok().and_then(|raw| VariableSetKind::try_from(raw).ok()) {
        Some(VariableSetKind::VarSetDefault | VariableSetKind::VarReset) => {
            StatementKind::Reset { name: Some(name) }
        }
        Some(VariableSetKind::VarResetAll) => StatementKind::Reset { name: None },
        Some(
            VariableSetKind::VarSetValue
            | VariableSetKind::VarSetCurrent
            | VariableSetKind::VarSetMulti
            | VariableSetKind::Undefined,
        )
        | None => StatementKind::Set { name },
    }
}

/// Statements that write nothing themselves may still carry writing CTEs.
fn nested_writes(node: &Node, collector: &Collector) -> ColumnReads {
    let writes = [Effect::Insert, Effect::Update, Effect::Delete, Effect::Create];
    let nested = !matches!(node.kind, "CopyStmt" | "LockStmt" | "NotifyStmt")
        && collector.operation.effects.iter().any(|effect| writes.contains(effect))
        && node.fields.iter().any(|(_, value)| {
            value.contains(&["InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "IntoClause"])
        });
    let copy_of_writes = node.kind == "CopyStmt"
        && node.get("query").contains(&["InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "IntoClause"]);
    if nested || copy_of_writes { ColumnReads::Unknown } else { ColumnReads::Nothing }
}

/// The constant row limit of a query, and where it stands.
fn row_limit(node: &Node) -> Option<(u64, Option<usize>)> {
    if node.kind != "SelectStmt" || node.int("limit_option") != i64::from(LimitOption::Count as i32) {
        return None;
    }
    let constant = node.node("limit_count").filter(|count| count.kind == "AConst")?;
    let value = constant.node("val").filter(|value| value.kind == "Integer")?;
    let rows = u64::try_from(value.int("ival")).ok()?;
    Some((rows, usize::try_from(constant.int("location")).ok()))
}
