//! Policy: loads a bundle of Cedar policies and column classes, and answers the three questions of each request.
//!
//! Pure and synchronous: no clock, no network; files are read at load and never again. The verdict of a request is
//! the strictest answer over everything it touches, in the order deny > hold > mask > allow. An evaluation error,
//! a missing fact or a name that policy does not know ends in a denial or a mask, never in "allow".
//! INVARIANT: a bundle that fails validation in any file never replaces the one in force.
//! The meaning of names, aliases and unidentified principals is described at [`Set::decide`].

mod annotation;
mod cases;
mod columns;
mod dead;
mod error;
mod evaluate;
mod explain;
mod live;
mod mentions;
mod names;
mod rule;
mod schema;
mod set;
mod slice;
mod source;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use cases::{Cases, CasesError, Failure, Report, stand_in};
pub use columns::Columns;
pub use dead::{DeadReason, DeadRule, Universe};
pub use error::{Finding, PolicyError};
pub use evaluate::{ColumnQuestion, Question};
pub use explain::{Answer, Asked, Explanation, Near};
pub use live::Live;
pub use names::{column_of, relation_of};
pub use rule::{Kind, RuleSummary};
pub use set::Set;

/// Where policies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directory with `*.cedar` and `columns.toml`.
    pub dir: PathBuf,
}
