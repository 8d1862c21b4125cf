//! Held requests: tickets that wait for people and survive restarts and disconnects.
//!
//! A request whose policy demands people is submitted to the [`Queue`]; qualified people vote; exactly one request
//! with the same fingerprint is released per approval, also across crashes. The room records nothing in the audit
//! log: the observer given to [`Queue::observe`] is told of every change.
//!
//! INVARIANT: an [`Approval`] exists only after the ticket's file says `consumed` on disk.
//! Known limit: windows follow the wall clock; a clock set back keeps a ticket usable for longer.

mod error;
mod proof;
mod queue;
mod store;
mod ticket;
mod waiter;

use std::collections::BTreeSet;
use std::path::PathBuf;

pub use error::ApprovalError;
pub use proof::{Approval, Voter};
pub use queue::{Queue, Submission};
pub use ticket::{Ask, Ballot, State, Ticket, Vote, inert};
pub use waiter::{Verdict, Waiter};

/// A person who may decide tickets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    /// Name in tickets and records.
    pub name: String,
    /// Local account, proven by socket peer credentials.
    pub uid: u32,
    /// Groups that policies' `@approvers` name.
    pub groups: BTreeSet<String>,
}

/// Where tickets are kept and who may decide them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directory of the tickets (0700); made when missing.
    pub dir: PathBuf,
    /// Everyone who may decide.
    pub approvers: Vec<Approver>,
}
