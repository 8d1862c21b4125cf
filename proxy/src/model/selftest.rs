//! The result of a self-test, as it goes into the record.
//!
//! Counts of attempts, one for each way out and launch method, and the names of what got out.
//! INVARIANT: `out` is empty exactly when the self-test passed and every row was proven.

use serde::{Deserialize, Serialize};

/// What came of trying every way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelftestResult {
    /// Release of the kernel it ran on.
    pub kernel: String,
    /// Attempts that ended as they must.
    pub held: u32,
    /// Attempts that got out, as is known and documented.
    pub known: u32,
    /// Attempts that this machine cannot make at all.
    pub untried: u32,
    /// What got out, or was not proven, by name.
    pub out: Vec<String>,
}
