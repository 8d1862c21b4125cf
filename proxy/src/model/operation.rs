//! What a request does, without the protocol it came by: the facts that policy judges.
//!
//! Facts are sets and flags, never text. Anything a parser cannot name becomes [`Effect::Unknown`],
//! which ordinary permits do not include.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One kind of thing a request does to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Reads rows or settings.
    Select,
    /// Adds rows.
    Insert,
    /// Changes rows.
    Update,
    /// Removes rows.
    Delete,
    /// Empties a relation.
    Truncate,
    /// Makes an object.
    Create,
    /// Changes an object.
    Alter,
    /// Removes an object.
    Drop,
    /// Changes who may do what.
    Grant,
    /// Bulk load into the server.
    CopyIn,
    /// Bulk unload from the server.
    CopyOut,
    /// Runs code that the parser cannot see into: a function outside the built-in allow-list.
    Execute,
    /// Calls a procedure.
    Call,
    /// Begins or ends a transaction.
    Transaction,
    /// Changes a session setting.
    Set,
    /// Opens a connection whose bytes nobody reads.
    Connect,
    /// Asks the resolver for the addresses of a name.
    Resolve,
    /// Anything else: unparsed, unrecognised, or known to be opaque.
    Unknown,
}

impl Effect {
    /// The word that policies use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Create => "create",
            Self::Alter => "alter",
            Self::Drop => "drop",
            Self::Grant => "grant",
            Self::CopyIn => "copy-in",
            Self::CopyOut => "copy-out",
            Self::Execute => "execute",
            Self::Call => "call",
            Self::Transaction => "transaction",
            Self::Set => "set",
            Self::Connect => "connect",
            Self::Resolve => "resolve",
            Self::Unknown => "unknown",
        }
    }

    /// Whether a request with only this effect leaves the resource as it was.
    #[must_use]
    pub fn is_plain_read(self) -> bool {
        match self {
            Self::Select | Self::Transaction | Self::Set => true,
            Self::Insert
            | Self::Update
            | Self::Delete
            | Self::Truncate
            | Self::Create
            | Self::Alter
            | Self::Drop
            | Self::Grant
            | Self::CopyIn
            | Self::CopyOut
            | Self::Execute
            | Self::Call
            | Self::Connect
            // A name carries what is written in it to whoever answers for it.
            | Self::Resolve
            | Self::Unknown => false,
        }
    }
}

/// A relation as the request wrote it: folded as the server folds it, schema only if it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationName {
    /// The schema, if the request named one.
    pub schema: Option<String>,
    /// The relation itself.
    pub name: String,
}

impl fmt::Display for RelationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A column of a relation, fully named; the object of `readClear`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ColumnName {
    /// Schema of the relation.
    pub schema: String,
    /// The relation.
    pub table: String,
    /// The column.
    pub column: String,
}

impl fmt::Display for ColumnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.schema, self.table, self.column)
    }
}

/// The protocol-neutral description of a request: the only thing policy sees of it.
///
/// INVARIANT: no field is left out when it is written: the parser's process sends it in a form without names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Operation {
    /// Everything the request does, over all its statements.
    pub effects: BTreeSet<Effect>,
    /// Every relation it touches, as written. Each needs a permit of its own.
    pub relations: BTreeSet<RelationName>,
    /// Column names it mentions (last part only).
    pub columns: BTreeSet<String>,
    /// Functions it calls, `schema.name` or `name`.
    pub functions: BTreeSet<String>,
    /// True only if every update, delete and select in it has a filter.
    pub has_filter: bool,
    /// The largest number of rows it can return, if it says so itself.
    pub row_limit: Option<u64>,
    /// The address it goes to, if it is a connection. Written also where there is none: the parser's answers have no field names.
    #[serde(default)]
    pub destination: Option<SocketAddr>,
    /// The name it asks the resolver for: lower case, without the last dot.
    /// Never left out: the parser's process sends operations in a form without names of fields.
    #[serde(default)]
    pub name: Option<String>,
}

impl Operation {
    /// The operation of a request nobody could understand.
    #[must_use]
    pub fn unknown() -> Self {
        Self { effects: BTreeSet::from([Effect::Unknown]), ..Self::default() }
    }

    /// The operation of a question to the resolver.
    #[must_use]
    pub fn resolve(name: &str) -> Self {
        let effects = BTreeSet::from([Effect::Resolve]);
        Self { effects, name: Some(name.to_owned()), ..Self::default() }
    }

    /// True if nothing in it can change the resource.
    #[must_use]
    pub fn is_plain_read(&self) -> bool {
        !self.effects.is_empty() && self.effects.iter().all(|effect| effect.is_plain_read())
    }
}

/// A bound parameter value as it goes into the record and before an approver.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BoundValue {
    /// The parameter's type as the client declared it (PostgreSQL OID; 0 if it left it open).
    pub type_oid: u32,
    /// Printable form, or `None` for SQL NULL. Binary values are hex with a `\x` prefix. Cut at a fixed length.
    pub text: Option<String>,
}
