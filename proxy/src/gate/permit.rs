//! Proof that a request was decided and recorded, and the guard that writes its one outcome.
//!
//! INVARIANT: exactly one outcome is recorded per permit. A permit or a released request that is dropped records `cut`.

use std::borrow::Cow;
use std::sync::Arc;

use crate::audit::{Appender, Event};
use crate::model::{MaskedColumn, Outcome, Principal, RequestId, Tally};

/// Leave for one request's bytes to go upstream, once. Only the gate mints it.
#[derive(Debug)]
#[must_use = "dropping a permit records the request as cut"]
pub struct Permit {
    ending: Ending,
}

/// A request whose decision is recorded and whose end is owed.
#[derive(Debug)]
pub(super) struct Undecided {
    ending: Ending,
}

impl Undecided {
    pub(super) fn new(appender: Appender, principal: Arc<Principal>, request: RequestId) -> Self {
        Self { ending: Ending { appender, principal, request, ended: false } }
    }

    /// The one place where permits come from.
    pub(super) fn permit(self) -> Permit {
        Permit { ending: self.ending }
    }

    /// Ends it without a permit.
    pub(super) fn end(mut self, outcome: Outcome) {
        self.ending.end(outcome, Tally::default());
    }
}

impl Permit {
    /// The request it belongs to.
    #[must_use]
    pub fn request(&self) -> RequestId {
        self.ending.request
    }

    /// Ends the request before any of its bytes were sent: the resource was not reached, say.
    pub fn end(mut self, outcome: Outcome) {
        self.ending.end(outcome, Tally::default());
    }

    pub(super) fn into_released(self) -> Released {
        Released { ending: self.ending }
    }
}

/// A request whose bytes have gone upstream. Later frames of the same request follow under it.
#[derive(Debug)]
pub struct Released {
    ending: Ending,
}

impl Released {
    /// Records the outcome, unless one was recorded before.
    pub fn end(&mut self, outcome: Outcome, tally: Tally) {
        self.ending.end(outcome, tally);
    }

    /// Records which columns of the reply are masked. One that cannot be recorded is masked all the same.
    pub fn masks(&self, columns: &[MaskedColumn]) {
        let event = Event::ReplyMasked {
            request: self.ending.request,
            agent: Cow::Borrowed(&self.ending.principal.agent),
            masks: Cow::Borrowed(columns),
        };
        if let Err(error) = self.ending.appender.append(&event) {
            tracing::error!(%error, "masked columns not recorded");
        }
    }
}

#[derive(Debug)]
struct Ending {
    appender: Appender,
    principal: Arc<Principal>,
    request: RequestId,
    ended: bool,
}

impl Ending {
    fn end(&mut self, outcome: Outcome, tally: Tally) {
        if self.ended {
            return;
        }
        self.ended = true;
        record_end(&self.appender, &self.principal, self.request, (outcome, tally));
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.end(Outcome::Cut, Tally::default());
    }
}

/// Writes the outcome of a request. A failure here cannot be told to the agent any more; the appender is poisoned by it and
/// denies the next request with effects.
pub(super) fn record_end(
    appender: &Appender,
    principal: &Principal,
    request: RequestId,
    (outcome, tally): (Outcome, Tally),
) {
    let event = Event::RequestEnded {
        request,
        agent: Cow::Borrowed(&principal.agent),
        subject: super::admit::subject(principal).map(Cow::Owned),
        outcome: Cow::Owned(outcome),
        tally,
    };
    if let Err(error) = appender.append(&event) {
        tracing::error!(%error, session = %request.session, request = request.number, "outcome not recorded");
    }
}
