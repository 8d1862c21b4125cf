//! The record of a held request: what was asked, who voted, where it stands. Plain data.
//!
//! Statement and values are kept inert (see [`inert`]): what an approver reads can move no cursor and reverse no text.
//! The exact bytes are bound by the fingerprint, not by this text. A person's denial and the end of the window are
//! different states, and neither is ever written as the other.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{AgentName, BoundValue, HoldTerms, Operation, TicketId, UnixMillis};

/// A request that needs people: everything they will see, and what ties the answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// SHA-256 over the canonical form of the request, in hex. An approval fits one fingerprint.
    pub fingerprint: String,
    /// Who asks.
    pub agent: AgentName,
    /// Its verified subject.
    pub subject: Option<String>,
    /// Name of the resource.
    pub resource: String,
    /// The statement as it came.
    pub statement: String,
    /// Bound values.
    pub values: Vec<BoundValue>,
    /// What policy saw.
    pub operation: Operation,
    /// Who must agree, and for how long the question stands.
    pub terms: HoldTerms,
    /// User and login-user ids behind the request: none of them may vote.
    pub requester_uids: BTreeSet<u32>,
    /// The policies that hold it.
    pub policies: Vec<String>,
    /// Reasoning step as stated: a hint.
    pub step: Option<String>,
    /// Whether a transaction is open, so that waiting keeps locks.
    pub in_transaction: bool,
}

/// Where a ticket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Waits for votes.
    Pending,
    /// Enough people agreed; not used yet.
    Approved,
    /// A qualified person refused.
    Denied,
    /// The window ended before a decision, or before the approval was used.
    Expired,
    /// The approval was used, once.
    Consumed,
    /// The agent withdrew the request.
    Cancelled,
    /// A qualified person took the approval back before it was used.
    Revoked,
}

impl State {
    /// The word for records and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Consumed => "consumed",
            Self::Cancelled => "cancelled",
            Self::Revoked => "revoked",
        }
    }

    /// Whether the ticket can still change.
    #[must_use]
    pub fn is_open(self) -> bool {
        match self {
            Self::Pending | Self::Approved => true,
            Self::Denied | Self::Expired | Self::Consumed | Self::Cancelled | Self::Revoked => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one person says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vote {
    /// Let it go on.
    Approve,
    /// Refuse it.
    Deny,
}

/// A vote that was cast.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Name of the person.
    pub by: String,
    /// Their local account.
    pub uid: u32,
    /// What they said.
    pub vote: Vote,
    /// Why, in their words, made inert.
    pub reason: Option<String>,
    /// When.
    pub at: UnixMillis,
}

/// One held request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Version of this form.
    pub v: u32,
    /// Its id.
    pub id: TicketId,
    /// Where it stands.
    pub state: State,
    /// Fingerprint of the request.
    pub fingerprint: String,
    /// Who asks.
    pub agent: AgentName,
    /// Its verified subject.
    pub subject: Option<String>,
    /// Name of the resource.
    pub resource: String,
    /// The statement, inert.
    pub statement: String,
    /// Bound values, inert.
    pub values: Vec<BoundValue>,
    /// What policy saw.
    pub operation: Operation,
    /// Who must agree.
    pub terms: HoldTerms,
    /// Accounts that may not vote.
    pub requester_uids: BTreeSet<u32>,
    /// The policies that hold it.
    pub policies: Vec<String>,
    /// Reasoning step as stated, inert.
    pub step: Option<String>,
    /// Whether waiting keeps locks on the resource.
    pub in_transaction: bool,
    /// When it was opened.
    pub opened_at: UnixMillis,
    /// When it stops being usable.
    pub expires_at: UnixMillis,
    /// When it left the open states.
    pub closed_at: Option<UnixMillis>,
    /// Votes in order.
    pub ballots: Vec<Ballot>,
    /// Requests that wait in line for it right now; 0 after a restart.
    #[serde(default)]
    pub waiting: u32,
}

/// Version of the ticket's form on disk.
pub(super) const FORM: u32 = 1;

impl Ticket {
    pub(super) fn new(id: TicketId, ask: &Ask, now: UnixMillis) -> Self {
        Self {
            v: FORM,
            id,
            state: State::Pending,
            fingerprint: ask.fingerprint.clone(),
            agent: ask.agent.clone(),
            subject: ask.subject.clone(),
            resource: ask.resource.clone(),
            statement: inert(&ask.statement),
            values: inert_values(&ask.values),
            operation: ask.operation.clone(),
            terms: ask.terms.clone(),
            requester_uids: ask.requester_uids.clone(),
            policies: ask.policies.clone(),
            step: ask.step.as_deref().map(inert),
            in_transaction: ask.in_transaction,
            opened_at: now,
            expires_at: now.plus(ask.terms.window),
            closed_at: None,
            ballots: Vec::new(),
            waiting: 0,
        }
    }

    /// Whether this ticket is about exactly `ask`. The fingerprint should say it all; the rest guards against a
    /// fingerprint that covers too little, and keeps a voter from releasing a request of their own.
    pub(super) fn fits(&self, ask: &Ask) -> bool {
        self.fingerprint == ask.fingerprint
            && self.agent == ask.agent
            && self.subject == ask.subject
            && self.resource == ask.resource
            && self.terms == ask.terms
            && self.operation == ask.operation
            && self.in_transaction == ask.in_transaction
            && self.statement == inert(&ask.statement)
            && self.values == inert_values(&ask.values)
            && self.ballots.iter().all(|ballot| !ask.requester_uids.contains(&ballot.uid))
    }

    /// Names of the distinct people who agreed, in the order of their votes.
    #[must_use]
    pub fn approved_by(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.ballots
            .iter()
            .filter(|ballot| ballot.vote == Vote::Approve && seen.insert(ballot.uid))
            .map(|ballot| ballot.by.clone())
            .collect()
    }

    /// The last vote against it, if there is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Ballot> {
        self.ballots.iter().rev().find(|ballot| ballot.vote == Vote::Deny)
    }
}

fn inert_values(values: &[BoundValue]) -> Vec<BoundValue> {
    values
        .iter()
        .map(|value| BoundValue { type_oid: value.type_oid, text: value.text.as_deref().map(inert) })
        .collect()
}

/// Makes text safe to show: control, format, bidirectional and invisible characters become `\u{..}`, line breaks and
/// tabs `\n`, `\r`, `\t`, a backslash two. Unambiguous, so that nothing can pose as an escape.
/// It does not find letters that only look alike.
#[must_use]
pub fn inert(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => shown.push_str("\\\\"),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            other if is_unsafe(other) => shown.extend(other.escape_unicode()),
            other => shown.push(other),
        }
    }
    shown
}

fn is_unsafe(character: char) -> bool {
    let invisible = matches!(u32::from(character),
        0xAD | 0x34F | 0x61C | 0x600..=0x605 | 0x6DD | 0x70F | 0x890..=0x891 | 0x8E2
        | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F | 0x2800
        | 0x200B..=0x200F | 0x2028..=0x202F | 0x205F..=0x206F | 0x3164
        | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFFF
        | 0x110BD | 0x110CD | 0x13430..=0x1343F | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A
        | 0xE000..=0xF8FF | 0xE0000..=0x10_FFFF);
    character.is_control() || invisible || (character.is_whitespace() && character != ' ')
}
