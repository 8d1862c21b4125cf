//! The bundle in force, shared by every session.
//!
//! INVARIANT: the bundle changes only from one valid bundle to another; a failed reload leaves the last good one.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;

use super::Settings;
use super::error::PolicyError;
use super::set::Set;
use crate::model::BundleHash;

/// A handle on the bundle in force. Clones see the same bundle.
#[derive(Debug, Clone)]
pub struct Live {
    dir: PathBuf,
    current: Arc<RwLock<Arc<Set>>>,
}

impl Live {
    /// Loads the first bundle.
    ///
    /// # Errors
    /// When the bundle is not valid; there is no last good one yet.
    pub fn open(settings: &Settings) -> Result<Self, PolicyError> {
        let set = Set::load(&settings.dir)?;
        Ok(Self { dir: settings.dir.clone(), current: Arc::new(RwLock::new(Arc::new(set))) })
    }

    /// The bundle in force now.
    #[must_use]
    pub fn current(&self) -> Arc<Set> {
        Arc::clone(&self.current.read())
    }

    /// Loads the bundle anew and puts it in force.
    ///
    /// # Errors
    /// When the new bundle is not valid; the last good one stays in force.
    pub fn reload(&self) -> Result<BundleHash, PolicyError> {
        let set = Arc::new(Set::load(&self.dir)?);
        let hash = set.hash().clone();
        *self.current.write() = set;
        Ok(hash)
    }
}
