//! Why a unit was not attached or detached.
//!
//! Each variant says what was tried on what.

use std::io;
use std::path::PathBuf;

/// Why a unit was not attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// Not a service's name.
    #[error("`{name}` is not the name of a service, such as reporter.service")]
    Name {
        /// What was given.
        name: String,
    },
    /// The agents' parent is not where systemd puts a slice.
    #[error("the agents' cgroup `{}` is no slice of systemd's", path.display())]
    Slice {
        /// Which.
        path: PathBuf,
    },
    /// A path that a unit file would read differently.
    #[error("`{}` cannot be written into a unit file; use letters, digits, `/`, `.`, `-`, `_`, `@`, `+`", path.display())]
    Path {
        /// Which.
        path: PathBuf,
    },
    /// A drop-in of our name that we did not write.
    #[error("`{}` was not written by `chaperone attach`, and stays", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// A file could not be used.
    #[error("could not {action} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}
