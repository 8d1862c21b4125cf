//! The one list of protocols.
//!
//! Adding a protocol is one field's worth of change here; everything else lives in its folder.

use std::sync::Arc;

use super::contract::Serve;
use crate::model::Protocol;

/// All protocols, ready to serve.
#[derive(Debug, Clone)]
pub struct Registry {
    served: Vec<Arc<dyn Serve>>,
}

impl Registry {
    /// The given protocols.
    #[must_use]
    pub fn new(served: Vec<Arc<dyn Serve>>) -> Self {
        Self { served }
    }

    /// The one that speaks `protocol`; `None` means it cannot be served and must be refused.
    #[must_use]
    pub fn speaker(&self, protocol: Protocol) -> Option<Arc<dyn Serve>> {
        self.served.iter().find(|served| served.protocol() == protocol).map(Arc::clone)
    }
}
