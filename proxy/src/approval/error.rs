//! What can go wrong with held requests.
//!
//! Every variant ends in a denial of the request at hand; none says anything about who may vote.

use std::io;
use std::path::PathBuf;

use super::ticket::State;
use crate::model::TicketId;

/// What went wrong with a ticket.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// A ticket's file could not be read or written.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The ticket could not be encoded.
    #[error("the ticket cannot be encoded")]
    Encode(#[from] serde_json::Error),
    /// No random bits for a ticket id.
    #[error("no random bits for a ticket id: {0}")]
    Random(String),
    /// The list of approvers names an account or a person twice.
    #[error("two approvers share {what} `{value}`")]
    Approvers {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// The agent has as many pending tickets as one may have.
    #[error("the agent already has {0} requests waiting for approval")]
    AgentFull(usize),
    /// The queue has as many pending tickets as it may hold.
    #[error("{0} requests already wait for approval")]
    QueueFull(usize),
    /// A request too long to be shown in full cannot be approved.
    #[error("a request of {bytes} bytes is too long to be shown to an approver in full")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// No such ticket.
    #[error("there is no ticket `{0}`")]
    Unknown(TicketId),
    /// The ticket cannot be decided any more.
    #[error("ticket `{id}` is {state}")]
    Settled {
        /// The ticket.
        id: TicketId,
        /// Its state.
        state: State,
    },
    /// The voter is behind the request.
    #[error("`{0}` is behind the request and cannot vote on it")]
    OwnRequest(String),
    /// The voter lacks a group.
    #[error("`{by}` is not in the approver group `{group}`")]
    NotQualified {
        /// Who.
        by: String,
        /// A group they are not in.
        group: String,
    },
    /// The voter has already agreed.
    #[error("`{0}` has already voted on this ticket")]
    AlreadyVoted(String),
}
