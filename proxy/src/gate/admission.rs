//! What the gate answers to a request.
//!
//! A permit now, a refusal, or a future that ends in one of the two.
//! INVARIANT: there is no fourth answer; whoever drops the future has the request recorded as cut.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::permit::Permit;
use super::refusal::Refusal;
use crate::model::TicketId;

/// The gate's answer.
pub enum Admission {
    /// Go on now.
    Permitted(Permit),
    /// Refused, and recorded so.
    Refused(Refusal),
    /// Waits for the disk.
    Recording(Pending),
    /// Waits for people.
    Held(HoldNews, Pending),
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permitted(permit) => f.debug_tuple("Permitted").field(permit).finish(),
            Self::Refused(refusal) => f.debug_tuple("Refused").field(refusal).finish(),
            Self::Recording(_) => f.write_str("Recording"),
            Self::Held(news, _) => f.debug_tuple("Held").field(news).finish_non_exhaustive(),
        }
    }
}

/// A verdict that is not there yet. Dropping it records the request as cut; a ticket stays open.
pub type Pending = Pin<Box<dyn Future<Output = Result<Permit, Refusal>> + Send>>;

/// What the agent is told while it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldNews {
    /// The ticket.
    pub ticket: TicketId,
    /// Approver groups that can decide.
    pub approvers: Vec<String>,
    /// How long the request is held in line.
    pub limit: Duration,
}
