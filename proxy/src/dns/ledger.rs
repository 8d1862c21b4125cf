//! What is recorded of names: the first question of a minute at once, its repetitions as a count.
//!
//! An allowed name is recorded before it is asked upstream; without a record it is not asked. Denials are recorded one by one
//! up to a number, then counted: an agent that asks for ever new names must not fill the disk.
//! INVARIANT: once its minute is over or the daemon ends in order, everything an agent sent to a resolver and the daemon received as
//! its is in exactly one count of its account, with a reason: an allowed name, a denial (`no-question` has no name), or a drop.
//! One reason is told on top: `inward-address` is a second count, of a question that was allowed and whose answer was not.
//! Known limits: what the kernel lets through and the resolver's ports drop (a full queue, a source port of two agents) is in
//! the kernel's count alone; what cannot be written is lost, and the log says so.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
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
/// Accounts that are counted apart; with more, what was counted so far is recorded early.
const ACCOUNTS_MAX: usize = 1024;

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
    allowed: HashMap<String, u64>,
    denied: HashSet<(String, &'static str)>,
    /// Denials that were not recorded by name, by reason.
    more: BTreeMap<&'static str, u64>,
}

/// Whose questions are counted together: the kernel counts by account.
type Key = (AgentName, u64);

/// Questions that nobody looked at, by account and reason.
#[derive(Debug, Default)]
struct Drops {
    since: Option<Instant>,
    counts: BTreeMap<(u64, &'static str), u64>,
}

/// The writer of names.
#[derive(Debug)]
pub(super) struct Ledger {
    appender: Appender,
    agents: Mutex<HashMap<Key, Window>>,
    drops: Mutex<Drops>,
}

impl Ledger {
    pub(super) fn new(appender: Appender) -> Self {
        Self { appender, agents: Mutex::default(), drops: Mutex::default() }
    }

    /// Records that a name may be answered; `bundle` is none where it is a registered resource's.
    pub(super) fn allowed(
        &self,
        asked: &Asked<'_>,
        bundle: Option<&BundleHash>,
        now: Instant,
    ) -> Result<(), AuditError> {
        let mut agents = self.agents.lock();
        let window = self.window(&mut agents, asked, now);
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
        let window = self.window(&mut agents, asked, now);
        let key = (asked.name.to_owned(), reason);
        if window.denied.len() >= DENIALS_MAX || !window.denied.insert(key) {
            let count = window.more.entry(reason).or_default();
            *count = count.saturating_add(1);
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

    /// Counts a question that is dropped before anybody knows what it is, or whose.
    pub(super) fn dropped(&self, account: u64, reason: &'static str, now: Instant) {
        let mut drops = self.drops.lock();
        if drops.counts.len() >= ACCOUNTS_MAX {
            self.write_drops(&mut drops);
        }
        drops.since.get_or_insert(now);
        let count = drops.counts.entry((account, reason)).or_default();
        *count = count.saturating_add(1);
    }

    /// Records what was counted up in windows that are over; with `None`, in all.
    pub(super) fn settle(&self, now: Option<Instant>) {
        let over = |since: Instant| now.is_none_or(|now| now.saturating_duration_since(since) >= WINDOW);
        let mut agents = self.agents.lock();
        for (key, window) in agents.extract_if(|_, window| over(window.since)) {
            self.repeated(&key, &window);
        }
        drop(agents);
        let mut drops = self.drops.lock();
        if drops.since.is_some_and(over) {
            self.write_drops(&mut drops);
        }
    }

    fn window<'w>(
        &self,
        agents: &'w mut HashMap<Key, Window>,
        asked: &Asked<'_>,
        now: Instant,
    ) -> &'w mut Window {
        let key = (asked.agent.clone(), asked.account);
        if agents.len() >= ACCOUNTS_MAX && !agents.contains_key(&key) {
            for (key, window) in agents.drain() {
                self.repeated(&key, &window);
            }
        }
        agents.entry(key).or_insert_with(|| Window::new(now))
    }

    fn write_drops(&self, drops: &mut Drops) {
        let Drops { counts, .. } = std::mem::take(drops);
        for ((account, reason), count) in counts {
            self.note(&Event::QuestionsDropped { account, reason: Cow::Borrowed(reason), count });
        }
    }

    fn repeated(&self, (agent, account): &Key, window: &Window) {
        for (name, count) in window.allowed.iter().filter(|(_, count)| **count > 0) {
            self.note(&Event::NameResolved {
                agent: Cow::Borrowed(agent),
                account: *account,
                name: Cow::Borrowed(name),
                policies: Cow::Borrowed(&[]),
                bundle: None,
                count: *count,
            });
        }
        for (reason, count) in &window.more {
            self.note(&Event::NameDenied {
                agent: Cow::Borrowed(agent),
                account: *account,
                name: Cow::Borrowed(""),
                reason: Cow::Borrowed(reason),
                policies: Cow::Borrowed(&[]),
                count: *count,
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
    fn new(since: Instant) -> Self {
        Self { since, allowed: HashMap::new(), denied: HashSet::new(), more: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::Value;

    use super::*;
    use crate::audit::{Log, Settings};
    use crate::clock::Clock;
    use crate::shutdown::Shutdown;

    /// A folder with a log, gone at the end of the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("names-{}-{name}", std::process::id())))
        }

        /// What a ledger wrote: account, name, reason and count of each record of `kind`.
        async fn written(
            &self,
            kind: &str,
            ask: impl Fn(&Ledger, Instant),
        ) -> Vec<(u64, String, String, u64)> {
            let settings = Settings {
                dir: self.0.clone(),
                sync_every: Duration::from_millis(5),
                checkpoint_every: Duration::from_mins(1),
            };
            let (clock, end) = (Clock::system(), Shutdown::default());
            let log = Log::open(&settings, &clock, &end).unwrap();
            ask(&Ledger::new(log.appender()), clock.instant());
            log.close().await;
            let files = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
            let text: String = files.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
            let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let word = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
            let number = |record: &Value, key: &str| record[key].as_u64().unwrap();
            records
                .filter(|record| record["event"] == kind)
                .map(|one| {
                    (number(&one, "account"), word(&one, "name"), word(&one, "reason"), number(&one, "count"))
                })
                .collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn sum(told: &[(u64, String, String, u64)], account: u64, reason: &str) -> u64 {
        told.iter().filter(|one| one.0 == account && one.2 == reason).map(|one| one.3).sum()
    }

    #[tokio::test]
    async fn every_denial_is_in_one_count_of_its_account_and_reason() {
        let agent = AgentName("one".into());
        let told = Folder::new("denials")
            .written("name_denied", |ledger, now| {
                for number in 0..100_u64 {
                    let name = format!("n{number}.example");
                    let asked = |account, name| Asked { agent: &agent, account, name, policies: &[] };
                    ledger.denied(&asked(7, &name), "policy", now);
                    ledger.denied(&asked(7, ""), "no-question", now);
                    if number < 30 {
                        ledger.denied(&asked(8, "same.example"), "policy", now);
                    }
                }
                ledger.settle(Some(now));
                ledger.settle(None);
            })
            .await;
        let sums = [(7, "policy", 100), (7, "no-question", 100), (8, "policy", 30)];
        for (account, reason, count) in sums {
            assert_eq!(sum(&told, account, reason), count, "{account} {reason}: {told:?}");
        }
        assert!(told.len() <= 2 * DENIALS_MAX + 3, "{told:?}");
    }

    #[tokio::test]
    async fn questions_that_nobody_looked_at_are_one_record_a_minute_for_each_account_and_reason() {
        let told = Folder::new("drops")
            .written("questions_dropped", |ledger, now| {
                for _ in 0..500 {
                    ledger.dropped(7, "too-many-at-work", now);
                }
                ledger.dropped(8, "unknown-process", now);
                ledger.settle(Some(now));
                ledger.settle(Some(now + WINDOW));
                ledger.dropped(7, "too-many-at-work", now + WINDOW);
                ledger.settle(None);
            })
            .await;
        let plain: Vec<_> = told.iter().map(|one| (one.0, one.2.as_str(), one.3)).collect();
        assert_eq!(
            plain,
            [(7, "too-many-at-work", 500), (8, "unknown-process", 1), (7, "too-many-at-work", 1)]
        );
    }

    #[tokio::test]
    async fn more_accounts_than_are_counted_apart_lose_no_count() {
        let agent = AgentName("one".into());
        let accounts = u64::try_from(ACCOUNTS_MAX).unwrap() + 5;
        let ask = |ledger: &Ledger, now| {
            for account in 0..accounts {
                let asked = Asked { agent: &agent, account, name: "same.example", policies: &[] };
                ledger.allowed(&asked, None, now).unwrap();
                ledger.allowed(&asked, None, now).unwrap();
                ledger.dropped(account, "unknown-process", now);
            }
            assert!(ledger.agents.lock().len() <= ACCOUNTS_MAX);
            assert!(ledger.drops.lock().counts.len() <= ACCOUNTS_MAX);
            ledger.settle(None);
        };
        let total = |told: Vec<(u64, String, String, u64)>| told.iter().map(|one| one.3).sum::<u64>();
        assert_eq!(total(Folder::new("resolved").written("name_resolved", ask).await), 2 * accounts);
        assert_eq!(total(Folder::new("dropped").written("questions_dropped", ask).await), accounts);
    }
}
