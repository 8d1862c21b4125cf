//! From a message to the question for the gate.
//!
//! A statement that runs another by name (`EXECUTE`, `FETCH`) is judged as both. A statement that would carry masked values
//! into a relation or out through `COPY` is refused whatever policy says of its effects.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::exposure::Exposure;
use super::super::wire::Bind;
use super::names::{NameChange, name_change};
use super::state::{Copies, Doubt, Engine, Part, Prepared};
use crate::model::{BoundValue, Effect, Operation};
use crate::sql::{Analysis, ColumnReads, Outputs, Statement, StatementKind};

/// Characters of a bound value that the record shows. Longer values are cut and named by their digest.
const VALUE_CHARS_MAX: usize = 256;
/// Bytes of prepared texts shown before a statement that runs them. What is longer is named by its digest.
const PREPARED_BYTES_MAX: usize = 64 * 1024;

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
    /// What the message does with the statement.
    pub(crate) purpose: Purpose,
}

/// What a message does with its statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `Parse`: makes it ready, runs nothing.
    Prepare,
    /// Runs it.
    Run,
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
        /// Its analysis.
        analysis: Arc<Analysis>,
    },
    /// `Parse`
    Parse {
        /// Statement name.
        name: String,
        /// Its text.
        text: Arc<str>,
        /// Its analysis.
        analysis: Arc<Analysis>,
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

/// A text, judged as the session stands.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) operation: Arc<Operation>,
    pub(super) leaks: bool,
    pub(super) parts: Vec<Part>,
    /// Prepared statements that it runs by name; no text for one that is not known.
    called: BTreeMap<String, Option<Arc<str>>>,
}

/// One statement of a pending query.
#[derive(Debug)]
pub(crate) struct PartPlan(pub(super) Part);

impl Engine {
    /// The question for a `Query` with this text.
    pub(super) fn ask_query(&mut self, text: &str, analysis: &Arc<Analysis>) -> Ask {
        let Judged { operation, leaks, parts, called } = self.judged(analysis);
        let statement = shown(text, &operation);
        let names = analysis.statements.iter().zip(&parts);
        let names = names.filter_map(|(one, part)| name_change(one, analysis, &statement, part)).collect();
        let parts = parts.into_iter().map(PartPlan).collect();
        self.pending = Some(Pending::Query { parts, names, analysis: Arc::clone(analysis) });
        let statement = with_prepared(statement, &called);
        Ask { operation, statement, values: Vec::new(), leaks, purpose: purpose(analysis) }
    }

    /// The question for a `Parse`.
    pub(super) fn ask_parse(&mut self, name: &str, text: &str, analysis: &Arc<Analysis>) -> Ask {
        let Judged { operation, leaks, .. } = self.judged(analysis);
        let text = shown(text, &operation);
        self.pending = Some(Pending::Parse {
            name: name.to_owned(),
            text: Arc::clone(&text),
            analysis: Arc::clone(analysis),
        });
        Ask { operation, statement: text, values: Vec::new(), leaks, purpose: Purpose::Prepare }
    }

    /// The question for a `Bind` that waits. Judged anew: what it names may be something else since its Parse.
    pub(super) fn ask_bind(&self, bind: &Bind<'_>, prepared: &Prepared) -> Ask {
        let Judged { operation, leaks, called, .. } = self.judged(&prepared.analysis);
        let values =
            bind.values.iter().enumerate().map(|(index, value)| bound(*value, bind.format(index))).collect();
        let statement = with_prepared(Arc::clone(&prepared.text), &called);
        // What SQL prepared is `PREPARE` in its analysis; binding it runs what is inside.
        let by_sql = prepared.request == 0;
        let purpose = if by_sql { Purpose::Run } else { purpose(&prepared.analysis) };
        Ask { operation, statement, values, leaks, purpose }
    }

    /// The question for a `FunctionCall`: code called by number, which nobody can see into.
    pub(super) fn ask_function(&mut self, oid: u32) -> Ask {
        let mut operation = Operation::unknown();
        operation.functions.insert(format!("fastpath.{oid}"));
        self.pending = Some(Pending::Function);
        let leaks = !self.view.table.is_empty();
        let statement = Arc::from(format!("-- function call by number: {oid}"));
        Ask { operation: Arc::new(operation), statement, values: Vec::new(), leaks, purpose: Purpose::Run }
    }

    /// What a text does and can show, as the session stands now.
    pub(super) fn judged(&self, analysis: &Arc<Analysis>) -> Judged {
        let by_name = analysis.statements.iter().any(|one| !one.uses.executes.is_empty());
        let mut operation =
            Operation { has_filter: true, row_limit: analysis.operation.row_limit, ..Operation::default() };
        let mut leaks = false;
        let mut parts = Vec::with_capacity(analysis.statements.len());
        let mut called = BTreeMap::new();
        // What an earlier statement of the text changes holds for the later ones, before anything of it is known here.
        let (mut doubt, mut renamed) = (self.doubt, false);
        for statement in &analysis.statements {
            let exposure = self.exposure_under(doubt, statement);
            let mut part = Part { outputs: statement.outputs.clone(), exposure, copies: copies(statement) };
            for name in &statement.uses.executes {
                let known = (!renamed).then(|| self.executed(name)).flatten();
                let inner = known.as_ref().map_or_else(Operation::unknown, |known| known.operation.clone());
                merge(&mut operation, &inner);
                called.insert(name.clone(), known.map(|known| known.text));
            }
            match self.run_by_name((doubt, renamed), statement, &mut part) {
                Some(inner_leaks) => leaks |= inner_leaks,
                None => leaks |= self.leaks(statement, &part.exposure),
            }
            // `EXECUTE` does what is prepared, unless its arguments call something.
            let plain_run = matches!(statement.kind, StatementKind::Execute { .. })
                && statement.operation.functions.is_empty();
            if by_name && !plain_run {
                merge(&mut operation, &statement.operation);
            }
            doubt = doubt.max(Doubt::after(statement));
            renamed |= changes_names(statement) || part.exposure.is_opaque();
            parts.push(part);
        }
        // The shared operation keeps its identity, by which the gate remembers decisions.
        let operation = if by_name { Arc::new(operation) } else { Arc::clone(&analysis.operation) };
        Judged { operation, leaks, parts, called }
    }

    /// What a statement can show, as the session stands.
    pub(super) fn exposure(&self, statement: &Statement) -> Exposure {
        self.exposure_under(self.doubt, statement)
    }

    fn exposure_under(&self, doubt: Doubt, statement: &Statement) -> Exposure {
        match doubt {
            _ if self.view.table.is_empty() => Exposure::default(),
            Doubt::None => self.view.table.exposure(&self.view.catalog, statement),
            Doubt::Names => Exposure::doubtful(calls(statement)),
            Doubt::Code => Exposure::doubtful(
                calls(statement) || !statement.uses.operators.is_empty() || !statement.uses.types.is_empty(),
            ),
        }
    }

    /// Whether it would carry masked values to where they are not masked, or take their class away from them.
    fn leaks(&self, statement: &Statement, exposure: &Exposure) -> bool {
        let (table, catalog) = (&self.view.table, &self.view.catalog);
        if table.is_empty() {
            return false;
        }
        // Classes belong to names: under another name the column would be nobody's secret. Code runs where nobody sees it,
        // with rights that need not be the agent's.
        let alters = statement.operation.effects.contains(&Effect::Alter)
            && table.names_sensitive(catalog, &statement.operation)
            || statement.uses.renames.iter().any(|schema| table.lives_in(catalog, schema));
        if alters || statement.uses.makes_code {
            return true;
        }
        // What reads nothing and changes nothing carries nothing away, unless code runs that may do anything.
        let quiet = statement.writes_from == ColumnReads::Nothing
            && statement.operation.is_plain_read()
            && !exposure.is_opaque();
        exposure.touches
            && (copies(statement) == Copies::Out
                || !quiet && !table.is_harmless(catalog, exposure, &statement.writes_from))
    }

    /// For a statement that is nothing but the run of another by name: whether that leaks, and (in `part`) what it can show.
    /// An unknown name can show and do anything.
    fn run_by_name(
        &self,
        (doubt, renamed): (Doubt, bool),
        statement: &Statement,
        part: &mut Part,
    ) -> Option<bool> {
        match &statement.kind {
            StatementKind::Execute { name } => match (!renamed).then(|| self.executed(name)).flatten() {
                Some(known) => {
                    // Its arguments are computed, too, and what is prepared may hand them out.
                    let opaque = !statement.operation.functions.is_empty();
                    let arguments = Statement { opaque, ..statement.clone() };
                    let inner = self.exposure_under(doubt, &known.statement);
                    part.exposure = inner.and(&self.exposure_under(doubt, &arguments));
                    let leaks = self.leaks(&known.statement, &part.exposure);
                    part.outputs = known.statement.outputs;
                    Some(leaks)
                }
                None => {
                    self.unknown_name(part);
                    Some(part.exposure.touches)
                }
            },
            StatementKind::Fetch { name } => {
                match self.cursors.get(name).filter(|_| !renamed) {
                    Some(cursor) => {
                        part.exposure = cursor.exposure.clone();
                        part.outputs = cursor.outputs.clone();
                    }
                    None => self.unknown_name(part),
                }
                None
            }
            _ => None,
        }
    }

    fn unknown_name(&self, part: &mut Part) {
        part.outputs = Outputs::Unknown;
        if !self.view.table.is_empty() {
            part.exposure = Exposure::total();
        }
    }
}

/// What a text is sent for: one that only prepares runs nothing, and what it prepares is judged again when it runs.
fn purpose(analysis: &Analysis) -> Purpose {
    let prepares = |one: &Statement| matches!(one.kind, StatementKind::Prepare { .. });
    if analysis.statements.iter().all(prepares) { Purpose::Prepare } else { Purpose::Run }
}

/// Whether a statement runs code that, while names are in doubt, may be anybody's.
fn calls(statement: &Statement) -> bool {
    statement.opaque || !statement.operation.functions.is_empty()
}

impl Doubt {
    /// What a statement leaves in doubt. New relations are unknown, and so masked; new code is not.
    pub(super) fn after(statement: &Statement) -> Self {
        let effects = &statement.operation.effects;
        if statement.uses.makes_code || effects.contains(&Effect::Unknown) {
            return Self::Code;
        }
        let renames = effects.contains(&Effect::Alter) || effects.contains(&Effect::Drop);
        let unnamed = effects.contains(&Effect::Create) && statement.operation.relations.is_empty();
        if renames || unnamed { Self::Names } else { Self::None }
    }
}

/// Whether later statements of the same text may mean another prepared statement or cursor by a name.
fn changes_names(statement: &Statement) -> bool {
    matches!(
        statement.kind,
        StatementKind::Prepare { .. }
            | StatementKind::Deallocate { .. }
            | StatementKind::DeclareCursor { .. }
            | StatementKind::CloseCursor { .. }
            | StatementKind::Discard { .. }
            | StatementKind::RollbackTo { .. }
            | StatementKind::Rollback { .. }
    )
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

/// The text for record and approver: before what runs statements by name stands what those names mean. Every line of theirs
/// is marked, so that no text can pose as another's, and an approval fits both.
fn with_prepared(text: Arc<str>, called: &BTreeMap<String, Option<Arc<str>>>) -> Arc<str> {
    if called.is_empty() {
        return text;
    }
    let mut whole = String::new();
    let mut left = PREPARED_BYTES_MAX;
    for (name, prepared) in called {
        let Some(prepared) = prepared else {
            whole.push_str(&format!("-- chaperone: {name:?} is not known\n"));
            continue;
        };
        whole.push_str(&format!("-- chaperone: {name:?} was prepared by\n"));
        if prepared.len() <= left {
            left = left.saturating_sub(prepared.len());
            prepared.split('\n').for_each(|line| whole.push_str(&format!("-- | {line}\n")));
        } else {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, prepared.as_bytes());
            whole.push_str(&format!("-- | {} bytes, sha256 {}\n", prepared.len(), hex(digest.as_ref())));
        }
    }
    whole.push_str(&text);
    Arc::from(whole)
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
