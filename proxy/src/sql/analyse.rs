//! SQL text to an [`Analysis`], in this process: checks, parse, walk, second opinion.
//!
//! Runs inside the worker process (and in tests); the daemon itself never parses C-side.
//! INVARIANT: never fails and never panics outwards; every refusal is [`Analysis::unknown`].
//! A text is cacheable by shape only if it is one plain query or modification whose facts no literal influenced; the row
//! limit is the exception, because the shape keeps the number after `LIMIT` in clear.

use std::sync::Arc;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::model::{Effect, Operation};

use super::facts::{Analysis, ColumnReads, Outputs, Statement, StatementKind, Uses};
use super::statement::{self, Examined};
use super::{second, shape, tree};

/// Largest text that is parsed: 1 MiB. Bulk statements of drivers stay below; larger ones cost the parser seconds.
pub(super) const TEXT_BYTES_MAX: usize = 1 << 20;

/// The trouble of a text whose analysis panicked. Compared as a whole: the parser's own words quote the text.
pub const PANICKED: &str = "the analysis of this text panicked";

/// Analyses a text. Never fails: trouble means unknown.
#[must_use]
pub fn analyse_text(sql: &str) -> Analysis {
    if let Err(reason) = check(sql) {
        return Analysis::unknown(reason);
    }
    // A panic is a bug of ours or of the parser's bindings; either way the text is not understood.
    catch_unwind(AssertUnwindSafe(|| parsed(sql))).unwrap_or_else(|_| Analysis::unknown(PANICKED))
}

/// What can be refused without parsing.
pub(super) fn check(sql: &str) -> Result<(), &'static str> {
    if sql.len() > TEXT_BYTES_MAX {
        return Err("statement text is longer than 1 MiB");
    }
    if sql.bytes().any(is_refused_control) {
        return Err("statement text has control characters");
    }
    Ok(())
}

/// Control characters that SQL does not need. NUL ends C strings; vertical tab is a space only since PostgreSQL 16.
fn is_refused_control(byte: u8) -> bool {
    (byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c)) || byte == 0x7f
}

fn parsed(sql: &str) -> Analysis {
    let result = match pg_query::parse(sql, 0) {
        Ok(result) => result,
        Err(error) => return Analysis::unknown(format!("the parser refuses the text: {error}")),
    };
    let mut statements = Vec::with_capacity(result.protobuf.stmts.len());
    let mut trouble = None;
    let mut by_shape = result.protobuf.stmts.len() == 1;
    for raw in &result.protobuf.stmts {
        let tree = match tree::grow(&raw.stmt) {
            Ok(tree) => tree,
            Err(error) => return Analysis::unknown(error.to_string()),
        };
        let mut examined = statement::examine(&tree);
        object(sql, raw, &tree, &mut examined);
        by_shape = by_shape && holds_by_shape(sql, &examined);
        trouble = trouble.or(examined.trouble);
        statements.push(examined.statement);
    }
    if statements.is_empty() {
        statements.push(nothing());
        by_shape = false;
    }
    by_shape = by_shape && trouble.is_none();
    Analysis { operation: Arc::new(union(&statements)), statements, trouble, by_shape, passing: false }
}

/// An empty text reads nothing and changes nothing; it counts as a read so that drivers' pings pass.
fn nothing() -> Statement {
    Statement {
        kind: StatementKind::Empty,
        operation: Operation { effects: [Effect::Select].into(), has_filter: true, ..Operation::default() },
        outputs: Outputs::None,
        writes_from: ColumnReads::Nothing,
        opaque: false,
        uses: Uses::default(),
    }
}

/// Asks the second parser; its objection makes the statement unknown.
fn object(sql: &str, raw: &pg_query::protobuf::RawStmt, tree: &tree::Tree, examined: &mut Examined) {
    let start = usize::try_from(raw.stmt_location).unwrap_or(0);
    let length = usize::try_from(raw.stmt_len).ok().filter(|length| *length > 0);
    let text = match length {
        Some(length) => start.checked_add(length).and_then(|end| sql.get(start..end)),
        None => sql.get(start..),
    };
    let objection = match text {
        Some(text) => second::objection(text, tree, &examined.statement.operation),
        None => Some("the parser's statement position is not in the text".to_owned()),
    };
    if let Some(objection) = objection {
        examined.statement.operation.effects.insert(Effect::Unknown);
        examined.statement.operation.has_filter = false;
        examined.trouble.get_or_insert(objection);
    }
}

fn holds_by_shape(sql: &str, examined: &Examined) -> bool {
    let plain = match examined.statement.kind {
        StatementKind::Query | StatementKind::Modify => true,
        StatementKind::Begin
        | StatementKind::Commit { .. }
        | StatementKind::Rollback { .. }
        | StatementKind::Savepoint { .. }
        | StatementKind::Release { .. }
        | StatementKind::RollbackTo { .. }
        | StatementKind::Set { .. }
        | StatementKind::Reset { .. }
        | StatementKind::Show { .. }
        | StatementKind::Prepare { .. }
        | StatementKind::Execute { .. }
        | StatementKind::Deallocate { .. }
        | StatementKind::DeclareCursor { .. }
        | StatementKind::Fetch { .. }
        | StatementKind::CloseCursor { .. }
        | StatementKind::CopyIn
        | StatementKind::CopyOut
        | StatementKind::Discard { .. }
        | StatementKind::Explain { .. }
        | StatementKind::Listen
        | StatementKind::Unlisten
        | StatementKind::Notify
        | StatementKind::Lock
        | StatementKind::Call
        | StatementKind::Ddl
        | StatementKind::Empty
        | StatementKind::Other => false,
    };
    if !plain || examined.read_literal {
        return false;
    }
    match (examined.statement.operation.row_limit, examined.limit_at) {
        (None, _) => true,
        (Some(_), Some(at)) => shape::keeps_literal_at(sql, at),
        (Some(_), None) => false,
    }
}

fn union(statements: &[Statement]) -> Operation {
    let mut whole = Operation { has_filter: true, ..Operation::default() };
    let mut rows: Option<u64> = None;
    let mut unlimited = false;
    for statement in statements {
        let one = &statement.operation;
        whole.effects.extend(&one.effects);
        whole.relations.extend(one.relations.iter().cloned());
        whole.columns.extend(one.columns.iter().cloned());
        whole.functions.extend(one.functions.iter().cloned());
        whole.has_filter &= one.has_filter;
        match (one.row_limit, &statement.outputs) {
            (Some(limit), _) => rows = Some(rows.unwrap_or(0).saturating_add(limit)),
            (None, Outputs::None) => {}
            (None, Outputs::Unknown | Outputs::Columns(_)) => unlimited = true,
        }
    }
    whole.row_limit = rows.filter(|_| !unlimited);
    whole
}
