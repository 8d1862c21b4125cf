//! Why a jail was not closed.
//!
//! Each variant says what was tried on what; none of them leaves a process half jailed, because the caller ends it.

use std::io;
use std::path::PathBuf;

use crate::intercept::InterceptError;

/// Why a jail was not closed, or an agent not placed.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A cgroup could not be made, guarded or entered.
    #[error(transparent)]
    Intercept(#[from] InterceptError),
    /// No randomness for the name of a run.
    #[error("the system has no randomness: {source}")]
    Random {
        /// Why.
        source: getrandom::Error,
    },
    /// The process is not where the daemon said it put it, or in no agent's cgroup.
    #[error("this process is in cgroup `{}`, not in the agent's", path.display())]
    Elsewhere {
        /// Where it is.
        path: PathBuf,
    },
    /// A standard stream would reach around the jail.
    #[error("standard stream {stream} is {what}")]
    Stream {
        /// Its number.
        stream: i32,
        /// What it is.
        what: &'static str,
    },
    /// A mount could not be made or changed.
    #[error("could not {action} `{}`", path.display())]
    Mount {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There are more of something than a jail can deal with.
    #[error("there are more than {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// The working directory is hidden in the jail.
    #[error("the working directory `{}` is hidden in the jail; start elsewhere, or keep it with `[jail] keep`", path.display())]
    WorkingDirectory {
        /// Which.
        path: PathBuf,
    },
    /// An account cannot be an agent's.
    #[error("{why}")]
    Account {
        /// Why.
        why: String,
    },
    /// Capabilities, ids or namespaces could not be given up.
    #[error("could not {action}")]
    Privileges {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A process that asked to become an agent may not.
    #[error("{why}")]
    Newcomer {
        /// Why.
        why: String,
    },
}

impl JailError {
    pub(super) fn mount(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Mount { action, path: path.into(), source: source.into() }
    }

    pub(super) fn privileges(
        action: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Privileges { action, source: Box::new(source) }
    }
}
