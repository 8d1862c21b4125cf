//! What an analysis says: the union of its statements' operations, and per statement what flows where.
//!
//! Plain data, serialised between the worker process and the daemon.
//! INVARIANT: every default and every lattice join errs towards `Unknown`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{Effect, Operation};

/// Facts about one SQL text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analysis {
    /// Union over all statements. Shared, since the gate remembers decisions by it.
    #[serde(with = "shared")]
    pub operation: Arc<Operation>,
    /// The statements in their order. Empty text has none.
    pub statements: Vec<Statement>,
    /// Why something is unknown; for the log, never for the client.
    pub trouble: Option<String>,
    /// Whether the facts hold for every text of the same shape (no replaced literal influenced them).
    pub(super) by_shape: bool,
    /// Whether the trouble may pass (worker lost, shutdown), so that the answer must not be remembered.
    pub(super) passing: bool,
}

impl Analysis {
    /// The analysis of a text nobody could understand.
    #[must_use]
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self {
            operation: Arc::new(Operation::unknown()),
            statements: vec![Statement::unknown()],
            trouble: Some(reason.into()),
            by_shape: false,
            passing: false,
        }
    }

    /// Unknown for a reason that may be gone at the next try.
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self { passing: true, ..Self::unknown(reason) }
    }

    /// Whether any part of the text is unknown.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.operation.effects.contains(&Effect::Unknown)
    }
}

/// Facts about one statement of a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// What sort of statement it is, with the names a session must track.
    pub kind: StatementKind,
    /// What it does.
    pub operation: Operation,
    /// What its result columns can depend on.
    pub outputs: Outputs,
    /// What it copies into relations (`INSERT .. SELECT`, `SET x = expr`, `CREATE TABLE AS`, views); not `RETURNING`.
    pub writes_from: ColumnReads,
    /// Whether it runs code that the parser cannot see into.
    pub opaque: bool,
    /// What it uses besides functions by name.
    pub uses: Uses,
}

/// What a statement uses that may be somebody's own under a built-in name, and what it does to such things.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uses {
    /// Operators, `schema.name` or `name`, also those that a clause implies.
    pub operators: BTreeSet<String>,
    /// Types, in casts and definitions.
    pub types: BTreeSet<String>,
    /// Prepared statements that it runs.
    pub executes: BTreeSet<String>,
    /// Schemas that it gives another name.
    pub renames: BTreeSet<String>,
    /// Whether it makes, changes or attaches code.
    pub makes_code: bool,
}

impl Statement {
    /// A statement nobody could understand.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            kind: StatementKind::Other,
            operation: Operation::unknown(),
            outputs: Outputs::Unknown,
            writes_from: ColumnReads::Unknown,
            opaque: true,
            uses: Uses::default(),
        }
    }
}

/// The sort of a statement, as far as a session must tell them apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatementKind {
    /// `SELECT`, `VALUES`, `TABLE`; may still write through a CTE (see the effects).
    Query,
    /// `INSERT`, `UPDATE`, `DELETE`, `MERGE`, with or without `RETURNING`.
    Modify,
    /// `BEGIN`, `START TRANSACTION`.
    Begin,
    /// `COMMIT`, `END`; with `AND CHAIN` a new transaction begins at once.
    Commit {
        /// `AND CHAIN` was written.
        chain: bool,
    },
    /// `ROLLBACK`, `ABORT`.
    Rollback {
        /// `AND CHAIN` was written.
        chain: bool,
    },
    /// `SAVEPOINT`.
    Savepoint {
        /// Its name.
        name: String,
    },
    /// `RELEASE SAVEPOINT`.
    Release {
        /// Its name.
        name: String,
    },
    /// `ROLLBACK TO SAVEPOINT`.
    RollbackTo {
        /// Its name.
        name: String,
    },
    /// `SET`, lower-case setting name (`SET TRANSACTION` is `transaction`).
    Set {
        /// The setting.
        name: String,
    },
    /// `RESET` or `SET .. TO DEFAULT`; `None` is `RESET ALL`.
    Reset {
        /// The setting.
        name: Option<String>,
    },
    /// `SHOW`.
    Show {
        /// The setting, or `all`.
        name: String,
    },
    /// `PREPARE`; outputs and operation are those of the prepared statement.
    Prepare {
        /// Name of the prepared statement.
        name: String,
    },
    /// `EXECUTE`; the operation says [`Effect::Execute`] and opaque until the session puts the prepared facts in.
    Execute {
        /// Name of the prepared statement.
        name: String,
    },
    /// `DEALLOCATE`; `None` is `ALL`.
    Deallocate {
        /// Name of the prepared statement.
        name: Option<String>,
    },
    /// `DECLARE CURSOR`; outputs and operation are those of the cursor's query, but no row is returned yet.
    DeclareCursor {
        /// Name of the cursor.
        name: String,
    },
    /// `FETCH` or `MOVE` (which has no outputs).
    Fetch {
        /// Name of the cursor.
        name: String,
    },
    /// `CLOSE`; `None` is `ALL`.
    CloseCursor {
        /// Name of the cursor.
        name: Option<String>,
    },
    /// `COPY .. FROM STDIN`.
    CopyIn,
    /// `COPY .. TO STDOUT`; outputs describe the copied columns, which carry no row description on the wire.
    CopyOut,
    /// `DISCARD`.
    Discard {
        /// True for `ALL`, which also forgets prepared statements and settings.
        all: bool,
    },
    /// `EXPLAIN`; with `ANALYZE` the inner statement's effects are real.
    Explain {
        /// The inner statement is executed.
        analyze: bool,
    },
    /// `LISTEN`.
    Listen,
    /// `UNLISTEN`.
    Unlisten,
    /// `NOTIFY`.
    Notify,
    /// `LOCK TABLE`.
    Lock,
    /// `CALL`.
    Call,
    /// Definition of objects and rights, and maintenance.
    Ddl,
    /// Nothing at all.
    Empty,
    /// Anything else.
    Other,
}

/// Which columns a value can depend on.
///
/// A name may turn out not to be a column: `c.f` is also PostgreSQL's notation for the function call `f(c)` on the
/// whole row. Whoever resolves the names must therefore treat one that no relation of the statement has as `Unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColumnReads {
    /// On no column at all.
    Nothing,
    /// On columns with these names (last part of every name).
    Columns(BTreeSet<String>),
    /// Not provable: whole row, subquery, unlisted function.
    Unknown,
}

impl ColumnReads {
    /// Depends on whatever either depends on.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Nothing, same) | (same, Self::Nothing) => same,
            (Self::Columns(mut left), Self::Columns(right)) => {
                left.extend(right);
                Self::Columns(left)
            }
        }
    }

    /// Depends on one column.
    #[must_use]
    pub fn column(name: &str) -> Self {
        Self::Columns(BTreeSet::from([name.to_owned()]))
    }
}

/// What the rows that a statement returns can depend on, column by column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outputs {
    /// Returns no rows.
    None,
    /// Returns rows of which nothing is proven: star, or sources that are not plain relations.
    Unknown,
    /// One entry per result column; every source is a plain relation.
    Columns(Vec<ColumnReads>),
}

impl Outputs {
    /// Everything that any output column can depend on.
    #[must_use]
    pub fn reads(&self) -> ColumnReads {
        match self {
            Self::None => ColumnReads::Nothing,
            Self::Unknown => ColumnReads::Unknown,
            Self::Columns(columns) => columns.iter().cloned().fold(ColumnReads::Nothing, ColumnReads::join),
        }
    }
}

/// An `Arc` on the wire is what it holds.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::model::Operation;

    pub(super) fn serialize<S: Serializer>(operation: &Arc<Operation>, to: S) -> Result<S::Ok, S::Error> {
        operation.as_ref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Operation>, D::Error> {
        Operation::deserialize(from).map(Arc::new)
    }
}
