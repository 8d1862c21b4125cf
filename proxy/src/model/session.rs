//! A session: one intercepted socket after identification.
//!
//! Immutable. Identity is not part of it: the agent's token may change or end while the socket lives, so it is looked up anew
//! for every request.

use std::net::SocketAddr;
use std::sync::Arc;

use super::ids::{SessionId, UnixMillis};
use super::principal::{AgentName, Evidence};
use super::target::Resource;

/// The fixed facts of one session.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The agent that opened it.
    pub agent: AgentName,
    /// The process that opened it.
    pub evidence: Arc<Evidence>,
    /// The resource it asked for.
    pub resource: Arc<Resource>,
    /// The address the agent dialled.
    pub destination: SocketAddr,
    /// Where to dial for it, the agent's own address first; more than one only if the resource is registered by name.
    pub routes: Arc<[SocketAddr]>,
    /// The name the agent was told this address for, if it asked for one.
    pub asked: Option<String>,
    /// When it was opened.
    pub opened_at: UnixMillis,
}
