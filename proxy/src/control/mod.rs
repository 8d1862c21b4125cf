//! The operator's and approver's way in: one local socket, one JSON line each way, and metrics beside it.
//!
//! Who calls is told by the kernel (peer credentials). Root operates; configured approvers vote; everybody else, and every
//! process inside the agents' cgroup whatever its uid, is refused. INVARIANT: no call can mint a permit; a vote goes through
//! `approval` and its rules.

mod api;
mod client;
mod metrics;
mod server;

pub use api::{AccountState, AgentState, Answer, Call, FeatureState, ProgramState, StatusReport};
pub use client::{Client, ControlError};
pub use metrics::{Metrics, MetricsListener};
pub use server::{Peer, Server, Services};
