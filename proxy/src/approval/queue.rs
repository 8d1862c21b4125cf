//! The queue of held requests: submit, vote, consume, expire. Synchronous and small; a lock around plain data.
//!
//! Every transition is written durably before anybody is told. Where a write fails, the stricter state wins: a vote
//! that could not be written does not count, a consumption that could not be written releases nothing, ever.
//! The lock is held across the write on purpose: holds come at the pace of people, and order matters more than speed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::Settings;
use super::error::ApprovalError;
use super::proof::{Approval, Voter, may_vote};
use super::store::Store;
use super::ticket::{Ask, Ballot, State, Ticket, Vote, inert};
use super::waiter::Waiter;
use crate::clock::Clock;
use crate::model::{AgentName, TicketId, UnixMillis};

/// One agent's share: more than a person can answer, so that one agent cannot fill the queue.
const PENDING_PER_AGENT_MAX: usize = 32;
/// All agents together; bounds memory and the list an approver reads.
const PENDING_MAX: usize = 1024;
/// 256 KiB of statement, values and step: beyond it nobody reads what they approve, so it cannot be approved.
const ASK_BYTES_MAX: usize = 256 * 1024;
/// Closed tickets stay listed for a day, for the people who ask what became of them.
const CLOSED_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// And at most so many: an agent that retries in a loop must not fill the disk.
const CLOSED_MAX: usize = 4096;
/// A vote's reason is a sentence or two; what is longer is cut.
const REASON_CHARS_MAX: usize = 1000;
/// Tries to find an unused ticket id of 40 random bits.
const ID_TRIES: usize = 16;

/// What became of a submitted request.
#[derive(Debug)]
pub enum Submission {
    /// It had been approved before; the approval is consumed now.
    Ready(Approval),
    /// It waits. The snapshot is what to tell the agent.
    Waiting(Box<Ticket>, Waiter),
}

/// Told of every change, in order, after it is on disk. Called under the queue's lock: it must not call the queue.
type Observer = Box<dyn Fn(&Ticket) + Send + Sync>;

/// The held requests of this host. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Inner>);

impl Queue {
    /// Opens the tickets of former lives; nobody waits on them, but they can be voted on and used.
    ///
    /// # Errors
    /// When the directory cannot be used, or two approvers share an account or a name.
    pub fn open(settings: &Settings, clock: &Clock) -> Result<Self, ApprovalError> {
        let mut voters = BTreeMap::new();
        let mut names = BTreeSet::new();
        for approver in &settings.approvers {
            if !names.insert(approver.name.as_str()) {
                return Err(ApprovalError::Approvers { what: "the name", value: approver.name.clone() });
            }
            let voter =
                Voter { name: approver.name.clone(), uid: approver.uid, groups: approver.groups.clone() };
            if voters.insert(approver.uid, voter).is_some() {
                return Err(ApprovalError::Approvers { what: "the uid", value: approver.uid.to_string() });
            }
        }
        let store = Store::open(&settings.dir)?;
        let mut entries = BTreeMap::new();
        for mut ticket in store.load()? {
            ticket.waiting = 0;
            entries.insert(ticket.id.clone(), Entry::new(ticket));
        }
        let queue = Self(Arc::new(Inner {
            store,
            clock: clock.clone(),
            voters,
            entries: Mutex::new(entries),
            observer: RwLock::new(None),
        }));
        Ok(queue)
    }

    /// Sets who is told of every change: opened, voted, approved, denied, expired, consumed, cancelled, revoked.
    /// It is called under the queue's lock and must not call the queue.
    pub fn observe(&self, observer: impl Fn(&Ticket) + Send + Sync + 'static) {
        *self.0.observer.write() = Some(Box::new(observer));
    }

    /// Uses an approval that waits for this very request, or joins or opens a ticket for it.
    ///
    /// # Errors
    /// When a limit is reached or the ticket cannot be written: the request is then to be denied.
    pub fn submit(&self, ask: Ask) -> Result<Submission, ApprovalError> {
        self.0.submit(&self.0, ask)
    }

    /// Every ticket, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Ticket> {
        let mut tickets: Vec<Ticket> =
            self.0.entries.lock().values().map(|entry| entry.ticket.clone()).collect();
        tickets.sort_by(|one, other| (one.opened_at, &one.id).cmp(&(other.opened_at, &other.id)));
        tickets
    }

    /// One ticket.
    #[must_use]
    pub fn show(&self, id: &TicketId) -> Option<Ticket> {
        self.0.show(id)
    }

    /// The approver with this account.
    #[must_use]
    pub fn voter(&self, uid: u32) -> Option<Voter> {
        self.0.voters.get(&uid).cloned()
    }

    /// Casts a vote. One qualified denial denies; `quorum` distinct people approve. A denial of an approved ticket
    /// that is not used yet revokes it.
    ///
    /// # Errors
    /// When the ticket is unknown or settled, the voter may not vote, or the vote could not be written: it does not
    /// count then.
    pub fn vote(
        &self,
        id: &TicketId,
        by: &Voter,
        vote: Vote,
        reason: Option<String>,
    ) -> Result<Ticket, ApprovalError> {
        self.0.vote(id, by, vote, reason)
    }

    /// Cancels a ticket, whoever waits for it. To withdraw one waiting request use [`Waiter::cancel`].
    ///
    /// # Errors
    /// When the ticket is unknown or settled, or could not be written; it is cancelled for this life all the same.
    pub fn cancel(&self, id: &TicketId) -> Result<Ticket, ApprovalError> {
        self.0.cancel(id)
    }

    /// Ends what is past its window and forgets what closed long ago. Returns the tickets that expired now.
    #[must_use]
    pub fn expire(&self) -> Vec<Ticket> {
        self.0.expire()
    }
}

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    state: watch::Sender<State>,
}

impl Entry {
    fn new(ticket: Ticket) -> Self {
        let state = watch::Sender::new(ticket.state);
        Self { ticket, state }
    }

    fn is_over(&self, now: UnixMillis) -> bool {
        self.ticket.state.is_open() && self.ticket.expires_at <= now
    }
}

type Entries = BTreeMap<TicketId, Entry>;

pub(super) struct Inner {
    store: Store,
    clock: Clock,
    voters: BTreeMap<u32, Voter>,
    entries: Mutex<Entries>,
    observer: RwLock<Option<Observer>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Inner {
    pub(super) fn submit(&self, this: &Arc<Self>, ask: Ask) -> Result<Submission, ApprovalError> {
        let bytes = size(&ask);
        if bytes > ASK_BYTES_MAX {
            return Err(ApprovalError::TooLong { bytes });
        }
        let mut entries = self.entries.lock();
        self.sweep(&mut entries);
        let fitting = |state: State| {
            let found = entries.values().find(|entry| entry.ticket.state == state && entry.ticket.fits(&ask));
            found.map(|entry| entry.ticket.id.clone())
        };
        if let Some(id) = fitting(State::Approved)
            && let Some(approval) = self.take(&mut entries, &id)?
        {
            return Ok(Submission::Ready(approval));
        }
        let id = match fitting_pending(&entries, &ask) {
            Some(id) => id,
            None => self.create(&mut entries, &ask)?,
        };
        let entry = entries.get_mut(&id).ok_or_else(|| ApprovalError::Unknown(id.clone()))?;
        entry.ticket.waiting = entry.ticket.waiting.saturating_add(1);
        let ticket = Box::new(entry.ticket.clone());
        let changes = entry.state.subscribe();
        drop(entries);
        let waiter = Waiter::new(Arc::clone(this), ask, ticket.clone(), changes);
        Ok(Submission::Waiting(ticket, waiter))
    }

    fn create(&self, entries: &mut Entries, ask: &Ask) -> Result<TicketId, ApprovalError> {
        let pending = |agent: Option<&AgentName>| {
            let mine = |entry: &&Entry| {
                entry.ticket.state == State::Pending && agent.is_none_or(|name| *name == entry.ticket.agent)
            };
            entries.values().filter(mine).count()
        };
        let (of_agent, of_all) = (pending(Some(&ask.agent)), pending(None));
        if of_agent >= PENDING_PER_AGENT_MAX {
            return Err(ApprovalError::AgentFull(of_agent));
        }
        if of_all >= PENDING_MAX {
            return Err(ApprovalError::QueueFull(of_all));
        }
        let id = self.fresh_id(entries)?;
        let ticket = Ticket::new(id.clone(), ask, self.clock.now());
        self.store.save(&ticket)?;
        self.tell(&ticket);
        entries.insert(id.clone(), Entry::new(ticket));
        Ok(id)
    }

    fn fresh_id(&self, entries: &Entries) -> Result<TicketId, ApprovalError> {
        for _ in 0..ID_TRIES {
            let random = getrandom::u64().map_err(|error| ApprovalError::Random(error.to_string()))?;
            let id = TicketId::from_random(random);
            if !entries.contains_key(&id) && !self.store.holds(&id) {
                return Ok(id);
            }
        }
        Err(ApprovalError::Random("every id tried is in use".to_owned()))
    }

    /// Uses the approval of `id` for `ask`, if it still stands.
    pub(super) fn consume(&self, id: &TicketId, ask: &Ask) -> Result<Option<Approval>, ApprovalError> {
        let mut entries = self.entries.lock();
        self.sweep(&mut entries);
        // A person who voted before this request joined may turn out to be behind it.
        let fits = entries.get(id).is_some_and(|entry| entry.ticket.fits(ask));
        if fits { self.take(&mut entries, id) } else { Ok(None) }
    }

    /// The one place that makes an [`Approval`]. The ticket is consumed in memory even if the disk refuses: then
    /// nothing is released now, and what the file says decides after a restart.
    fn take(&self, entries: &mut Entries, id: &TicketId) -> Result<Option<Approval>, ApprovalError> {
        let Some(entry) = entries.get_mut(id).filter(|entry| entry.ticket.state == State::Approved) else {
            return Ok(None);
        };
        let approval = Approval {
            ticket: id.clone(),
            fingerprint: entry.ticket.fingerprint.clone(),
            approvers: entry.ticket.approved_by(),
        };
        self.settle(entry, State::Consumed)?;
        Ok(Some(approval))
    }

    /// Closes a ticket. Memory changes first and stays changed: every closed state is stricter than the one before.
    fn settle(&self, entry: &mut Entry, state: State) -> Result<(), ApprovalError> {
        entry.ticket.state = state;
        entry.ticket.closed_at = Some(self.clock.now());
        let saved = self.store.save(&entry.ticket);
        self.tell(&entry.ticket);
        entry.state.send_replace(state);
        saved
    }

    pub(super) fn show(&self, id: &TicketId) -> Option<Ticket> {
        self.entries.lock().get(id).map(|entry| entry.ticket.clone())
    }

    fn vote(
        &self,
        id: &TicketId,
        by: &Voter,
        vote: Vote,
        reason: Option<String>,
    ) -> Result<Ticket, ApprovalError> {
        let mut entries = self.entries.lock();
        self.sweep(&mut entries);
        let now = self.clock.now();
        let entry = entries.get_mut(id).ok_or_else(|| ApprovalError::Unknown(id.clone()))?;
        let ticket = &entry.ticket;
        may_vote(ticket, by, vote)?;
        let mut next = ticket.clone();
        let reason = reason.map(|text| inert(&text.chars().take(REASON_CHARS_MAX).collect::<String>()));
        next.ballots.push(Ballot { by: by.name.clone(), uid: by.uid, vote, reason, at: now });
        match (vote, next.state) {
            (Vote::Deny, State::Approved) => next.state = State::Revoked,
            (Vote::Deny, _) => next.state = State::Denied,
            (Vote::Approve, _) if next.approved_by().len() >= usize::from(next.terms.quorum.max(1)) => {
                next.state = State::Approved;
                next.expires_at = now.plus(next.terms.window);
            }
            (Vote::Approve, _) => {}
        }
        next.closed_at = (!next.state.is_open()).then_some(now);
        let saved = self.store.save(&next);
        let saved = match (vote, saved) {
            (Vote::Approve, Err(error)) => return Err(error),
            (Vote::Approve | Vote::Deny, saved) => saved,
        };
        // A refusal holds even if the disk does not take it.
        entry.ticket = next.clone();
        self.tell(&entry.ticket);
        entry.state.send_replace(next.state);
        saved.map(|()| next)
    }

    fn cancel(&self, id: &TicketId) -> Result<Ticket, ApprovalError> {
        let mut entries = self.entries.lock();
        self.sweep(&mut entries);
        let entry = entries.get_mut(id).ok_or_else(|| ApprovalError::Unknown(id.clone()))?;
        if !entry.ticket.state.is_open() {
            return Err(ApprovalError::Settled { id: id.clone(), state: entry.ticket.state });
        }
        self.settle(entry, State::Cancelled)?;
        Ok(entry.ticket.clone())
    }

    /// One waiter withdraws; it is still counted and leaves when dropped.
    pub(super) fn withdraw(&self, id: &TicketId) -> Result<Option<Ticket>, ApprovalError> {
        let mut entries = self.entries.lock();
        match entries.get_mut(id) {
            Some(entry) if entry.ticket.waiting <= 1 && entry.ticket.state.is_open() => {
                self.settle(entry, State::Cancelled)?;
                Ok(Some(entry.ticket.clone()))
            }
            Some(_) | None => Ok(None),
        }
    }

    pub(super) fn leave(&self, id: &TicketId) {
        if let Some(entry) = self.entries.lock().get_mut(id) {
            entry.ticket.waiting = entry.ticket.waiting.saturating_sub(1);
        }
    }

    fn expire(&self) -> Vec<Ticket> {
        let mut entries = self.entries.lock();
        let expired = self.sweep(&mut entries);
        self.forget(&mut entries);
        expired
    }

    /// Expires what is past its window. Every use of a ticket passes here first, so that the second between two
    /// calls of `expire` is no second of grace.
    fn sweep(&self, entries: &mut Entries) -> Vec<Ticket> {
        let now = self.clock.now();
        let mut expired = Vec::new();
        for entry in entries.values_mut().filter(|entry| entry.is_over(now)) {
            if let Err(error) = self.settle(entry, State::Expired) {
                // The file still carries `expires_at`, so the next life comes to the same end.
                tracing::warn!(ticket = %entry.ticket.id, %error, "expiry could not be written");
            }
            expired.push(entry.ticket.clone());
        }
        expired
    }

    fn forget(&self, entries: &mut Entries) {
        let now = self.clock.now();
        let mut closed: Vec<(UnixMillis, TicketId)> = entries
            .values()
            .filter(|entry| entry.ticket.waiting == 0)
            .filter_map(|entry| entry.ticket.closed_at.map(|at| (at, entry.ticket.id.clone())))
            .collect();
        closed.sort();
        let surplus = closed.len().saturating_sub(CLOSED_MAX);
        for (place, (at, id)) in closed.into_iter().enumerate() {
            if place >= surplus && at.plus(CLOSED_KEPT) > now {
                break;
            }
            match self.store.remove(&id) {
                Ok(()) => {
                    entries.remove(&id);
                }
                Err(error) => tracing::warn!(ticket = %id, %error, "old ticket could not be removed"),
            }
        }
    }

    fn tell(&self, ticket: &Ticket) {
        if let Some(observer) = self.observer.read().as_ref() {
            observer(ticket);
        }
    }
}

fn fitting_pending(entries: &Entries, ask: &Ask) -> Option<TicketId> {
    let fits = |entry: &&Entry| {
        entry.ticket.state == State::Pending
            && entry.ticket.fits(ask)
            // Who is behind the request must not change under the approvers.
            && entry.ticket.requester_uids.is_superset(&ask.requester_uids)
    };
    entries.values().find(fits).map(|entry| entry.ticket.id.clone())
}

fn size(ask: &Ask) -> usize {
    let values = ask.values.iter().filter_map(|value| value.text.as_ref()).map(String::len);
    let texts = [ask.statement.len(), ask.step.as_ref().map_or(0, String::len)];
    values.chain(texts).fold(0, usize::saturating_add).saturating_add(ask.values.len())
}

#[cfg(test)]
mod tests;
