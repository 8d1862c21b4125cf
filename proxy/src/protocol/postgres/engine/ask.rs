//! From a message to the question for the gate.
//!
//! A statement that runs another by name (`EXECUTE`, `FETCH`) is judged as both. A statement that would carry masked values
//! into a relation or out through `COPY` is refused whatever policy says of its effects.

use std::sync::Arc;

use super::super::exposure::Exposure;
use super::super::wire::Bind;
use super::names::{Meaning, NameChange, name_change};
use super::state::{Copies, Engine, Part, Prepared};
use crate::model::{BoundValue, Effect, Operation};
use crate::sql::{Analysis, Statement, StatementKind};

/// Characters of a bound value that the record shows. Longer values are cut and named by their digest.
const VALUE_CHARS_MAX: usize = 256;

/// A question for the gate.
#[derive(Debug)]
pub(crate) struct Ask {
    /// What policy judges.
    pub(crate) operation: Arc<Operation>,
    /// What the record shows.
    pub(crate) statement: Arc<str>,
    /// Bound values.
    pub(crate) values: Vec<BoundValue>,
    /// True if it would carry masked values to where they are not masked.
    pub(crate) leaks: bool,
}

/// A message that waits for its verdict.
#[derive(Debug)]
pub(crate) enum Pending {
    /// `Query`
    Query {
        /// What each statement can show.
        parts: Vec<PartPlan>,
        /// Names that SQL statements in it make or remove.
        names: Vec<NameChange>,
        /// Some statement runs code that nobody can see into.
        opaque: bool,
    },
    /// `Parse`
    Parse {
        /// Statement name.
        name: String,
        /// Its text.
        text: Arc<str>,
        /// Its analysis.
        analysis: Arc<Analysis>,
        /// Its operation.
        operation: Arc<Operation>,
    },
    /// `Bind`
    Bind {
        /// Portal name.
        portal: String,
        /// The statement.
        statement: Arc<Prepared>,
    },
    /// `FunctionCall`
    Function,
}

/// One statement of a pending query.
#[derive(Debug)]
pub(crate) struct PartPlan(pub(super) Part);

impl Engine {
    /// The question for a `Query` with this text.
    pub(super) fn ask_query(&mut self, text: &str, analysis: &Arc<Analysis>) -> Ask {
        let mut operation =
            Operation { has_filter: true, row_limit: analysis.operation.row_limit, ..Operation::default() };
        let mut by_name = false;
        let mut parts = Vec::new();
        let mut names = Vec::new();
        let mut leaks = false;
        let whole: Arc<str> = Arc::from(text);
        for statement in &analysis.statements {
            let exposure = self.exposure(statement);
            leaks |= self.leaks(statement, &exposure);
            names.extend(name_change(statement, analysis, &whole, &exposure));
            let part = match self.run_by_name(statement, &names) {
                Some((part, inner)) => {
                    by_name |= inner.is_some();
                    merge(&mut operation, inner.as_ref().unwrap_or(&statement.operation));
                    part
                }
                None => {
                    merge(&mut operation, &statement.operation);
                    Part { outputs: statement.outputs.clone(), exposure, copies: copies(statement) }
                }
            };
            parts.push(PartPlan(part));
        }
        let opaque = analysis.statements.iter().any(|statement| statement.opaque);
        self.pending = Some(Pending::Query { parts, names, opaque });
        let operation = if by_name { Arc::new(operation) } else { Arc::clone(&analysis.operation) };
        Ask { operation, statement: shown(text, &analysis.operation), values: Vec::new(), leaks }
    }

    /// The question for a `Parse`.
    pub(super) fn ask_parse(&mut self, name: &str, text: &str, analysis: &Arc<Analysis>) -> Ask {
        let leaks =
            analysis.statements.iter().any(|statement| self.leaks(statement, &self.exposure(statement)));
        let mut operation = Arc::clone(&analysis.operation);
        for statement in &analysis.statements {
            if let Some((_, Some(inner))) = self.run_by_name(statement, &[]) {
                operation = Arc::new(inner);
            }
        }
        let text = shown(text, &operation);
        self.pending = Some(Pending::Parse {
            name: name.to_owned(),
            text: Arc::clone(&text),
            analysis: Arc::clone(analysis),
            operation: Arc::clone(&operation),
        });
        Ask { operation, statement: text, values: Vec::new(), leaks }
    }

    /// The question for a `Bind`, if its statement is known.
    pub(super) fn ask_bind(&mut self, bind: &Bind<'_>) -> Meaning<Ask> {
        let prepared = match self.statement(bind.statement) {
            Meaning::Is(prepared) => prepared,
            Meaning::Later => return Meaning::Later,
            Meaning::Unknown => return Meaning::Unknown,
        };
        let leaks = prepared
            .analysis
            .statements
            .iter()
            .any(|statement| self.leaks(statement, &self.exposure(statement)));
        let ask = Ask {
            operation: self.resolve(&prepared).operation,
            statement: Arc::clone(&prepared.text),
            values: bind
                .values
                .iter()
                .enumerate()
                .map(|(index, value)| bound(*value, bind.format(index)))
                .collect(),
            leaks,
        };
        self.pending = Some(Pending::Bind { portal: bind.portal.to_owned(), statement: prepared });
        Meaning::Is(ask)
    }

    /// The question for a `FunctionCall`: code called by number, which nobody can see into.
    pub(super) fn ask_function(&mut self, oid: u32) -> Ask {
        let mut operation = Operation::unknown();
        operation.functions.insert(format!("fastpath.{oid}"));
        self.pending = Some(Pending::Function);
        let leaks = !self.view.table.is_empty();
        let statement = Arc::from(format!("-- function call by number: {oid}"));
        Ask { operation: Arc::new(operation), statement, values: Vec::new(), leaks }
    }

    /// What a statement can show, as the session stands.
    pub(super) fn exposure(&self, statement: &Statement) -> Exposure {
        self.view.table.exposure(&self.view.catalog, &statement.operation, statement.opaque)
    }

    fn leaks(&self, statement: &Statement, exposure: &Exposure) -> bool {
        exposure.touches
            && (!self.view.table.is_harmless(&self.view.catalog, exposure, &statement.writes_from)
                || copies(statement) == Copies::Out)
    }
}

pub(super) fn copies(statement: &Statement) -> Copies {
    match statement.kind {
        StatementKind::CopyIn => Copies::In,
        StatementKind::CopyOut => Copies::Out,
        _ => Copies::No,
    }
}

/// Both operations in one.
fn merge(whole: &mut Operation, inner: &Operation) {
    whole.effects.extend(inner.effects.iter().copied());
    whole.relations.extend(inner.relations.iter().cloned());
    whole.columns.extend(inner.columns.iter().cloned());
    whole.functions.extend(inner.functions.iter().cloned());
    whole.has_filter &= inner.has_filter;
}

/// The text that the record keeps. A statement that sets a password is kept without its text.
fn shown(text: &str, operation: &Operation) -> Arc<str> {
    let sets = [Effect::Create, Effect::Alter, Effect::Grant, Effect::Execute, Effect::Unknown]
        .iter()
        .any(|effect| operation.effects.contains(effect));
    if sets && text.to_ascii_lowercase().contains("password") {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        return Arc::from(format!(
            "-- withheld: the statement names a password; sha256 {}",
            hex(digest.as_ref())
        ));
    }
    Arc::from(text)
}

fn bound(value: Option<&[u8]>, format: i16) -> BoundValue {
    let printable = |value: &[u8]| match std::str::from_utf8(value) {
        Ok(text) if format == 0 => text.to_owned(),
        Ok(_) | Err(_) => format!("\\x{}", hex(value)),
    };
    let text = value.map(|value| {
        let full = printable(value);
        if full.chars().count() <= VALUE_CHARS_MAX {
            return full;
        }
        let start: String = full.chars().take(VALUE_CHARS_MAX).collect();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value);
        format!("{start}… ({} bytes, sha256 {})", value.len(), hex(digest.as_ref()))
    });
    BoundValue { type_oid: 0, text }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Prepared {
    pub(super) fn opaque(&self) -> bool {
        self.analysis.statements.iter().any(|statement| statement.opaque)
    }
}
