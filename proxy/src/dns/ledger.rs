//! What is recorded of names: the first question of a minute at once, its repetitions as a count.
//!
//! An allowed name is recorded before it is asked upstream; without a record it is not asked. Denials are recorded one by one
//! up to a number, then counted: an agent that asks for ever new names must not fill the disk.
//! INVARIANT: everything an agent sent to a resolver and the daemon read is in exactly one record's count, once its minute is over or
//! the daemon ends in order; what is no question has no name. Known limit: a datagram that is dropped unread, because too many are
//! at work or its process is gone, is in the kernel's count alone.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::audit::{Appender, AuditError, Event};
use crate::model::{AgentName, BundleHash};

/// How long repetitions are counted up.
const WINDOW: Duration = Duration::from_mins(1);
/// Denials of one agent recorded by name within it; the rest is one record.
const DENIALS_MAX: usize = 16;
/// Allowed names remembered within it; what is beyond is recorded each time.
const ALLOWED_MAX: usize = 1024;

/// A question, as the record tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) agent: &'a AgentName,
    pub(super) account: u64,
    pub(super) name: &'a str,
    /// Policies that decided.
    pub(super) policies: &'a [String],
}

#[derive(Debug)]
struct Window {
    since: Instant,
    account: u64,
    allowed: HashMap<String, u64>,
    denied: HashSet<(String, &'static str)>,
    /// Denials that were not recorded by name.
    more: u64,
}

/// The writer of names.
#[derive(Debug)]
pub(super) struct Ledger {
    appender: Appender,
    agents: Mutex<HashMap<AgentName, Window>>,
}

impl Ledger {
    pub(super) fn new(appender: Appender) -> Self {
        Self { appender, agents: Mutex::default() }
    }

    /// Records that a name may be answered; `bundle` is none where it is a registered resource's.
    pub(super) fn allowed(
        &self,
        asked: &Asked<'_>,
        bundle: Option<&BundleHash>,
        now: Instant,
    ) -> Result<(), AuditError> {
        let mut agents = self.agents.lock();
        let window = agents.entry(asked.agent.clone()).or_insert_with(|| Window::new(asked.account, now));
        if let Some(count) = window.allowed.get_mut(asked.name) {
            *count = count.saturating_add(1);
            return Ok(());
        }
        self.appender.append(&Event::NameResolved {
            agent: Cow::Borrowed(asked.agent),
            account: asked.account,
            name: Cow::Borrowed(asked.name),
            policies: Cow::Borrowed(asked.policies),
            bundle: bundle.cloned(),
            count: 1,
        })?;
        if window.allowed.len() < ALLOWED_MAX {
            window.allowed.insert(asked.name.to_owned(), 0);
        }
        Ok(())
    }

    /// Records that a name is refused.
    pub(super) fn denied(&self, asked: &Asked<'_>, reason: &'static str, now: Instant) {
        let mut agents = self.agents.lock();
        let window = agents.entry(asked.agent.clone()).or_insert_with(|| Window::new(asked.account, now));
        let key = (asked.name.to_owned(), reason);
        if window.denied.len() >= DENIALS_MAX || !window.denied.insert(key) {
            window.more = window.more.saturating_add(1);
            return;
        }
        self.note(&Event::NameDenied {
            agent: Cow::Borrowed(asked.agent),
            account: asked.account,
            name: Cow::Borrowed(asked.name),
            reason: Cow::Borrowed(reason),
            policies: Cow::Borrowed(asked.policies),
            count: 1,
        });
    }

    /// Records what was counted up in windows that are over; with `None`, in all.
    pub(super) fn settle(&self, now: Option<Instant>) {
        let mut agents = self.agents.lock();
        let over =
            |window: &Window| now.is_none_or(|now| now.saturating_duration_since(window.since) >= WINDOW);
        for (agent, window) in agents.extract_if(|_, window| over(window)) {
            self.repeated(&agent, &window);
        }
    }

    fn repeated(&self, agent: &AgentName, window: &Window) {
        for (name, count) in window.allowed.iter().filter(|(_, count)| **count > 0) {
            self.note(&Event::NameResolved {
                agent: Cow::Borrowed(agent),
                account: window.account,
                name: Cow::Borrowed(name),
                policies: Cow::Borrowed(&[]),
                bundle: None,
                count: *count,
            });
        }
        if window.more > 0 {
            self.note(&Event::NameDenied {
                agent: Cow::Borrowed(agent),
                account: window.account,
                name: Cow::Borrowed(""),
                reason: Cow::Borrowed("more"),
                policies: Cow::Borrowed(&[]),
                count: window.more,
            });
        }
    }

    pub(super) fn note(&self, event: &Event<'_>) {
        if let Err(error) = self.appender.append(event) {
            tracing::error!(%error, "not recorded");
        }
    }
}

impl Window {
    fn new(account: u64, since: Instant) -> Self {
        Self { since, account, allowed: HashMap::new(), denied: HashSet::new(), more: 0 }
    }
}
