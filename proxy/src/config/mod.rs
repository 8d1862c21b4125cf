//! Configuration: `chaperone.toml` to each room's own `Settings`.
//!
//! Unknown keys are errors, and all problems are reported together with their lines. Nothing is opened here except
//! the file itself: credentials, tokens and certificates are read by the rooms that use them, when they use them.
//! INVARIANT: a [`Config`] is consistent; rooms need not check it again. Names that policy uses are unique.

mod build;
mod error;
mod file;
mod names;
mod reader;
mod resources;
mod value;

#[cfg(test)]
mod tests;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::{ConfigError, Problem};

use crate::model::Resource;
use crate::{approval, audit, dns, identity, intercept, jail, policy, sql, tls};

/// What becomes of a connection to a destination that is no registered resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DefaultVerdict {
    /// It is refused.
    Deny,
    /// Policy is asked about the resource `unregistered`; what it permits is passed through unread, and recorded.
    Observe,
}

/// Where metrics are offered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MetricsAddress {
    /// A unix socket.
    Unix(PathBuf),
    /// A loopback address.
    Loopback(SocketAddr),
}

/// Everything the operator decided.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of everything that must survive a restart.
    pub state_dir: PathBuf,
    /// Directory of sockets.
    pub runtime_dir: PathBuf,
    /// Where policies are.
    pub policy: policy::Settings,
    /// What an unregistered destination gets.
    pub default: DefaultVerdict,
    /// Agents and their tokens.
    pub identity: identity::Settings,
    /// What stands for unregistered destinations, if policy is asked about them.
    pub unregistered: Option<Arc<Resource>>,
    /// Registered targets.
    pub resources: Vec<Arc<Resource>>,
    /// Capture.
    pub intercept: intercept::Settings,
    /// What holds agents that `chaperone run` starts.
    pub jail: jail::Settings,
    /// The resolver.
    pub dns: dns::Settings,
    /// The record.
    pub audit: audit::Settings,
    /// Held requests.
    pub approval: approval::Settings,
    /// The local authority.
    pub tls: tls::Settings,
    /// Connections an agent, or a unit, may have open at once.
    pub connections_per_agent: usize,
    /// Statement analysis.
    pub sql: sql::Settings,
    /// Metrics; `None` offers none.
    pub metrics: Option<MetricsAddress>,
}

/// Hundreds of resources fit in this; more is not a configuration.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When the file cannot be read, or with everything that is wrong in it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let refuse = |reason: String| ConfigError::Read { path: path.to_owned(), reason };
        let file = std::fs::File::open(path).map_err(|error| refuse(error.to_string()))?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX.saturating_add(1))
            .read_to_string(&mut text)
            .map_err(|error| refuse(error.to_string()))?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
            return Err(refuse(format!("the file is larger than {FILE_BYTES_MAX} bytes")));
        }
        Self::parse(&text, path)
    }

    /// Reads a configuration from text; `origin` only appears in messages.
    ///
    /// # Errors
    /// With everything that is wrong in it.
    pub fn parse(text: &str, origin: &Path) -> Result<Self, ConfigError> {
        let mut problems = error::Problems::new(text);
        let config =
            file::File::read(text, &mut problems).and_then(|file| build::config(file, &mut problems));
        problems.verdict(config, origin)
    }
}
