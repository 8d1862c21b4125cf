//! How a request ended.
//!
//! Exactly one outcome is recorded per request; if nobody said how it ended, it is `cut`.

use serde::{Deserialize, Serialize};

/// Whose fault a failure is; records and metrics are split by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The agent's side broke the protocol or left.
    Client,
    /// The resource answered with an error, or broke the protocol, or left.
    Server,
    /// Chaperone failed.
    Ours,
}

/// What passed to the agent for one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tally {
    /// Rows passed on.
    pub rows: u64,
    /// Bytes of rows passed on, as the agent received them.
    pub bytes: u64,
    /// Values replaced by a mask.
    pub masked: u64,
    /// Bytes passed to the resource, where the request is a whole connection.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sent: u64,
    /// How long it lasted in milliseconds, where the request is a whole connection.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lasted_ms: u64,
}

/// serde asks with a reference.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The end of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// It reached the resource and the resource answered without error.
    Forwarded,
    /// Policy or a person refused it.
    Denied,
    /// Nobody decided in time.
    Expired,
    /// It ended in an error; `code` is the protocol's own (an SQLSTATE).
    Failed {
        /// Whose fault.
        fault: Fault,
        /// Protocol-native error code.
        code: String,
    },
    /// The connection ended before the request did, or the agent cancelled it.
    Cut,
}
