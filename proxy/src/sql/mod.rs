//! SQL text to facts: which relations, columns, functions and effects a PostgreSQL statement has.
//!
//! PostgreSQL's own grammar (libpg_query) is the authority; this room walks its whole tree itself. A second parser may
//! only add suspicion, never remove it. Parsing C code runs in worker processes without system calls or credentials.
//! INVARIANT: whatever cannot be proven ends in [`Effect::Unknown`](crate::model::Effect::Unknown), never in "harmless".
//! Known limits: names are as written, not resolved (a temporary table may shadow, and so may a function, an operator or
//! a cast of somebody's; [`Uses`] names what to look for); the grammar is that of PostgreSQL 18 with
//! `standard_conforming_strings` on; more than about 40 nested operators are refused.

mod analyse;
mod analyzer;
mod cache;
mod catalogs;
mod collect;
mod facts;
mod functions;
mod guc;
mod kinds;
mod names;
mod outputs;
mod pool;
mod second;
mod shape;
mod statement;
mod tree;
mod uses;
mod worker;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use analyse::{PANICKED, analyse_text};
pub use analyzer::Analyzer;
pub use catalogs::is_leaky_catalog;
pub use facts::{Analysis, ColumnReads, Outputs, Statement, StatementKind, Uses};
pub use functions::is_plain_builtin;
pub use pool::SqlError;
pub use shape::{Literal, LiteralKind, Shape};
pub use worker::worker_main;

/// How statements are analysed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Program that is started as parser worker with the hidden subcommand `sql-worker` (this very binary).
    pub program: PathBuf,
    /// Number of worker processes; at least 1.
    pub workers: usize,
}
