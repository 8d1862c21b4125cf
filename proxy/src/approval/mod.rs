//! Room under construction: held requests.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// A person who may decide tickets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    /// Name in tickets and records.
    pub name: String,
    /// Local account, proven by socket peer credentials.
    pub uid: u32,
    /// Groups that policies' `@approvers` name.
    pub groups: BTreeSet<String>,
}

/// Where tickets are kept and who may decide them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directory of the tickets (0700); made when missing.
    pub dir: PathBuf,
    /// Everyone who may decide.
    pub approvers: Vec<Approver>,
}
