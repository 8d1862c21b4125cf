//! Room under construction: policy.

use std::path::PathBuf;

/// Where policies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directory with `*.cedar` and `columns.toml`.
    pub dir: PathBuf,
}
