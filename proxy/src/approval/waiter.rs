//! A request that waits in line for its ticket.
//!
//! `verdict` never awaits between consuming an approval on disk and returning it, so a dropped future loses nothing.
//! Dropping the waiter detaches it: the ticket stays, and a matching retry finds it. When another waiter of the same
//! fingerprint used the approval, this one asks anew and waits on a new ticket.

use std::sync::Arc;

use tokio::sync::watch;

use super::error::ApprovalError;
use super::proof::Approval;
use super::queue::{Inner, Submission};
use super::ticket::{Ask, State, Ticket};

/// How a wait ended.
#[derive(Debug)]
pub enum Verdict {
    /// People agreed; the approval is consumed on disk.
    Approved(Approval),
    /// A qualified person refused, or took an approval back.
    Denied {
        /// Who.
        by: String,
        /// Why, in their words, inert.
        reason: Option<String>,
    },
    /// Nobody decided in time.
    Expired,
    /// The request was withdrawn.
    Cancelled,
    /// The ticket could not be kept; treat it as a denial.
    Failed(ApprovalError),
}

/// Waits for one ticket. Dropping it leaves the ticket in place.
#[derive(Debug)]
pub struct Waiter {
    inner: Arc<Inner>,
    ask: Box<Ask>,
    ticket: Box<Ticket>,
    changes: watch::Receiver<State>,
}

impl Waiter {
    /// The caller has counted this waiter into `ticket.waiting`.
    pub(super) fn new(
        inner: Arc<Inner>,
        ask: Ask,
        ticket: Box<Ticket>,
        changes: watch::Receiver<State>,
    ) -> Self {
        Self { inner, ask: Box::new(ask), ticket, changes }
    }

    /// The ticket as it was when this wait began or moved to a new ticket.
    #[must_use]
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Waits for the end. Cancel-safe: call it again after dropping its future.
    pub async fn verdict(&mut self) -> Verdict {
        loop {
            let state = *self.changes.borrow_and_update();
            if let Some(verdict) = self.look(state) {
                return verdict;
            }
            if self.changes.changed().await.is_err() {
                return Verdict::Expired;
            }
        }
    }

    /// Withdraws the request. The ticket is cancelled unless another request waits for it too.
    ///
    /// # Errors
    /// When the new state could not be written; the ticket is cancelled for this life of the daemon all the same.
    pub fn cancel(self) -> Result<Option<Ticket>, ApprovalError> {
        self.inner.withdraw(&self.ticket.id)
    }

    fn look(&mut self, state: State) -> Option<Verdict> {
        match state {
            State::Pending => None,
            State::Approved => match self.inner.consume(&self.ticket.id, &self.ask) {
                Ok(Some(approval)) => Some(Verdict::Approved(approval)),
                // Its state changed under us: look again at the next wake, which has been sent already.
                Ok(None) => None,
                Err(error) => Some(Verdict::Failed(error)),
            },
            State::Denied | State::Revoked => {
                let now = self.inner.show(&self.ticket.id);
                let refusal = now.as_ref().and_then(Ticket::refusal);
                let by = refusal.map_or_else(String::new, |ballot| ballot.by.clone());
                Some(Verdict::Denied { by, reason: refusal.and_then(|ballot| ballot.reason.clone()) })
            }
            State::Expired => Some(Verdict::Expired),
            State::Cancelled => Some(Verdict::Cancelled),
            State::Consumed => self.ask_anew(),
        }
    }

    /// The approval went to another request. Ask for one of our own.
    fn ask_anew(&mut self) -> Option<Verdict> {
        match self.inner.submit(&self.inner, Ask::clone(&self.ask)) {
            Ok(Submission::Ready(approval)) => Some(Verdict::Approved(approval)),
            Ok(Submission::Waiting(_, mut next)) => {
                // The old wait is now in `next` and leaves its ticket when that is dropped.
                std::mem::swap(&mut self.ticket, &mut next.ticket);
                std::mem::swap(&mut self.changes, &mut next.changes);
                self.changes.mark_changed();
                None
            }
            Err(error) => Some(Verdict::Failed(error)),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.inner.leave(&self.ticket.id);
    }
}
