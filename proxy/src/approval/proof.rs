//! What only this room makes and others ask for: the proof of an approval, and the right to vote.
//!
//! An [`Approval`] cannot be copied: whoever holds it is the one request that it releases.

use std::collections::BTreeSet;

use super::error::ApprovalError;
use super::ticket::{State, Ticket, Vote};
use crate::model::TicketId;

/// Proof that people agreed to one request: made only here, after the ticket is consumed on disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Approval {
    pub(super) ticket: TicketId,
    pub(super) fingerprint: String,
    pub(super) approvers: Vec<String>,
}

impl Approval {
    /// The ticket it came from.
    #[must_use]
    pub fn ticket(&self) -> &TicketId {
        &self.ticket
    }

    /// The fingerprint of the one request it releases.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Who agreed.
    #[must_use]
    pub fn approvers(&self) -> &[String] {
        &self.approvers
    }
}

/// A configured approver, found by the account the kernel vouches for. Made only by [`Queue::voter`](super::Queue::voter).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) groups: BTreeSet<String>,
}

impl Voter {
    /// Name in tickets and records.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Local account.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Groups that policies' `@approvers` name.
    #[must_use]
    pub fn groups(&self) -> &BTreeSet<String> {
        &self.groups
    }
}

/// Whether this person's vote counts on this ticket.
pub(super) fn may_vote(ticket: &Ticket, by: &Voter, vote: Vote) -> Result<(), ApprovalError> {
    let usable = match vote {
        Vote::Approve => ticket.state == State::Pending,
        Vote::Deny => ticket.state.is_open(),
    };
    if !usable {
        return Err(ApprovalError::Settled { id: ticket.id.clone(), state: ticket.state });
    }
    if ticket.requester_uids.contains(&by.uid) {
        return Err(ApprovalError::OwnRequest(by.name.clone()));
    }
    if let Some(group) = ticket.terms.approvers.iter().find(|group| !by.groups.contains(*group)) {
        return Err(ApprovalError::NotQualified { by: by.name.clone(), group: group.clone() });
    }
    let again = ticket.ballots.iter().any(|ballot| ballot.uid == by.uid || ballot.by == by.name);
    if again && vote == Vote::Approve {
        return Err(ApprovalError::AlreadyVoted(by.name.clone()));
    }
    Ok(())
}
