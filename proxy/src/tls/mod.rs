//! Room under construction: TLS.

use std::path::PathBuf;

/// Where the local authority keeps its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directory for `ca.pem` and `ca.key` (0700); made when missing.
    pub dir: PathBuf,
}
