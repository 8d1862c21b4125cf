//! Holding the record against the kernel's counts: was every connection that reached the daemon recorded?
//!
//! The kernel counts a connection for its account before the daemon sees it. The record tells of each one session or one
//! refusal, or that it went to a resolver. Since the record says that counting started, the two must be equal, but for connections the daemon has in hand.
//! A connection that a daemon had accepted when it was killed is in neither end of the record: it shows as missing, with the
//! number of daemons that ended without a word.
//! Refuses nothing; whoever calls verifies the chain as it reads, or an edited record could hide what is missing.
//! Known limit: it keeps sums per account and the ids of open sessions, so memory grows with these, not with the records.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::KernelCounts;

/// What the kernel, and the daemon beside it, say of one account now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Id of the cgroup right below the agents' parent.
    pub account: u64,
    /// What the kernel counted.
    pub counts: KernelCounts,
    /// Connections the daemon has accepted and not recorded yet.
    pub in_hand: u64,
}

/// What the record tells of one account.
#[derive(Debug, Clone, Default)]
struct Told {
    agent: Option<String>,
    sessions: u64,
    refused: u64,
    to_resolvers: u64,
    closed: Option<KernelCounts>,
}

/// Reads records, oldest first, and remembers what counts.
#[derive(Debug, Default)]
pub struct Reconciler {
    counting_since: Option<u64>,
    accounts: BTreeMap<u64, Told>,
    open: HashSet<String>,
    daemon_runs: bool,
    cut_short: u64,
}

/// The kinds of records that [`Reconciler::count`] knows.
const COUNTED: [&str; 8] = [
    "counting_started",
    "daemon_started",
    "daemon_stopped",
    "session_opened",
    "session_closed",
    "connection_refused",
    "resolver_connected",
    "account_closed",
];

/// The kind of a record alone.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
}

/// How an account's two sides compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// None.
    None,
    /// The kernel delivered so many more than the record tells of.
    Missing(u64),
    /// The record tells of so many more than the kernel delivered.
    Surplus(u64),
}

/// One account, both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Id of the cgroup right below the agents' parent.
    pub account: u64,
    /// The agent, if a record of this account names one.
    pub agent: Option<String>,
    /// What the kernel counted; none if it has forgotten the account and the record does not say.
    pub kernel: Option<KernelCounts>,
    /// Sessions recorded.
    pub sessions: u64,
    /// Refusals recorded.
    pub refused: u64,
    /// Connections to resolvers recorded.
    pub to_resolvers: u64,
    /// Connections in the daemon's hands.
    pub in_hand: u64,
    /// How they compare.
    pub difference: Difference,
}

impl Reconciler {
    /// Takes one record as it stands in the log: a line of JSON. What is none says nothing, and so shows as missing.
    pub fn take(&mut self, line: &[u8]) {
        // Most records tell of requests: only their kind is read.
        if let Ok(Kind { event }) = serde_json::from_slice(line)
            && COUNTED.contains(&&*event)
            && let Ok(record) = serde_json::from_slice(line)
        {
            self.count(&event, &record);
        }
    }

    fn count(&mut self, event: &str, record: &Value) {
        let number = |pointer: &str| record.pointer(pointer).and_then(Value::as_u64);
        match event {
            "counting_started" => {
                let (daemon_runs, counting_since) = (self.daemon_runs, number("/time"));
                *self = Self { counting_since, daemon_runs, ..Self::default() };
            }
            "daemon_started" => {
                self.cut_short = self.cut_short.saturating_add(u64::from(self.daemon_runs));
                self.daemon_runs = true;
                // Sessions of a daemon that was killed stay counted; their end never comes.
                self.open.clear();
            }
            "daemon_stopped" => self.daemon_runs = false,
            "session_opened" => {
                self.open.extend(record.get("session").and_then(Value::as_str).map(str::to_owned));
                let told = self.told(number("/evidence/account"), record);
                told.sessions = told.sessions.saturating_add(1);
            }
            "session_closed" => {
                let opened =
                    record.get("session").and_then(Value::as_str).is_some_and(|id| self.open.remove(id));
                if !opened {
                    let told = self.told(number("/account"), record);
                    told.sessions = told.sessions.saturating_add(1);
                }
            }
            "connection_refused" => {
                let told = self.told(number("/account"), record);
                told.refused = told.refused.saturating_add(1);
            }
            "resolver_connected" => {
                let told = self.told(number("/account"), record);
                told.to_resolvers = told.to_resolvers.saturating_add(1);
            }
            "account_closed" => {
                let told = self.told(number("/account"), record);
                told.closed = KernelCounts::deserialize_from(record);
            }
            _ => {}
        }
    }

    fn told(&mut self, account: Option<u64>, record: &Value) -> &mut Told {
        let told = self.accounts.entry(account.unwrap_or(0)).or_default();
        if told.agent.is_none() {
            told.agent = record.get("agent").and_then(Value::as_str).map(str::to_owned);
        }
        told
    }

    /// When counting started (Unix milliseconds), if the record says.
    #[must_use]
    pub fn counting_since(&self) -> Option<u64> {
        self.counting_since
    }

    /// Daemons that ended without saying so since then: connections they had just accepted may be in no record.
    #[must_use]
    pub fn cut_short(&self) -> u64 {
        self.cut_short
    }

    /// Every account that either side knows, compared.
    #[must_use]
    pub fn compare(&self, seen: &[Seen]) -> Vec<Finding> {
        let known: BTreeSet<u64> =
            self.accounts.keys().copied().chain(seen.iter().map(|seen| seen.account)).collect();
        known.into_iter().map(|account| self.finding(account, seen)).collect()
    }

    fn finding(&self, account: u64, seen: &[Seen]) -> Finding {
        let told = self.accounts.get(&account).cloned().unwrap_or_default();
        let seen = seen.iter().find(|seen| seen.account == account);
        // An account that is still in the kernel's table may have been closed in the record just before a crash.
        let kernel = seen.map(|seen| seen.counts).or(told.closed);
        let in_hand = seen.map_or(0, |seen| seen.in_hand);
        let recorded = told.sessions.saturating_add(told.refused).saturating_add(told.to_resolvers);
        let delivered = kernel.map_or(0, |counts| counts.delivered);
        let (kernel_side, record_side) = (delivered, recorded.saturating_add(in_hand));
        let difference = if kernel_side > record_side {
            Difference::Missing(kernel_side.saturating_sub(record_side))
        } else if recorded > kernel_side {
            Difference::Surplus(recorded.saturating_sub(kernel_side))
        } else {
            Difference::None
        };
        let Told { agent, sessions, refused, to_resolvers, .. } = told;
        Finding { account, agent, kernel, sessions, refused, to_resolvers, in_hand, difference }
    }
}

impl KernelCounts {
    fn deserialize_from(record: &Value) -> Option<Self> {
        serde_json::from_value(record.clone()).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn opened(session: &str, account: u64) -> Value {
        json!({"event": "session_opened", "session": session, "agent": "reporter", "evidence": {"account": account}})
    }

    fn closed(session: &str, account: u64) -> Value {
        json!({"event": "session_closed", "session": session, "agent": "reporter", "account": account})
    }

    fn refused(account: u64) -> Value {
        json!({"event": "connection_refused", "account": account})
    }

    fn event(name: &str) -> Value {
        json!({ "event": name, "time": 5 })
    }

    fn seen(account: u64, delivered: u64, in_hand: u64) -> Seen {
        Seen { account, counts: KernelCounts { delivered, ..KernelCounts::default() }, in_hand }
    }

    fn compare(records: &[Value], seen: &[Seen]) -> Vec<Difference> {
        let mut reconciler = Reconciler::default();
        records.iter().for_each(|record| reconciler.take(record.to_string().as_bytes()));
        reconciler.compare(seen).into_iter().map(|finding| finding.difference).collect()
    }

    #[test]
    fn each_connection_counts_once_whatever_its_records() {
        let records = [
            event("counting_started"),
            opened("s-1", 7),
            closed("s-1", 7),
            opened("s-2", 7),
            closed("s-3", 7),
            refused(7),
            json!({"event": "resolver_connected", "account": 7}),
        ];
        assert_eq!(compare(&records, &[seen(7, 5, 0)]), [Difference::None]);
        assert_eq!(compare(&records, &[seen(7, 6, 1)]), [Difference::None]);
    }

    #[test]
    fn what_is_missing_or_too_much_is_counted_for_its_account() {
        let records = [opened("s-1", 7), refused(9)];
        let found = compare(&records, &[seen(7, 3, 0), seen(9, 1, 0), seen(11, 1, 0)]);
        assert_eq!(found, [Difference::Missing(2), Difference::None, Difference::Missing(1)]);
        assert_eq!(compare(&records, &[seen(7, 0, 0)]), [Difference::Surplus(1), Difference::Surplus(1)]);
    }

    #[test]
    fn connections_from_before_counting_started_are_left_out() {
        let records = [opened("s-1", 7), event("counting_started"), refused(7)];
        assert_eq!(compare(&records, &[seen(7, 1, 0)]), [Difference::None]);
    }

    #[test]
    fn a_closed_account_keeps_its_last_counts_and_the_kernels_own_word_comes_first() {
        let last = json!({"event": "account_closed", "account": 7, "redirected": 2, "delivered": 2,
            "unanswered": 0, "denied": 0, "dropped": 0});
        let records = [opened("s-1", 7), refused(7), last];
        assert_eq!(compare(&records, &[]), [Difference::None]);
        assert_eq!(compare(&records, &[seen(7, 3, 0)]), [Difference::Missing(1)]);
        assert_eq!(compare(&records[1..], &[]), [Difference::Missing(1)]);
    }

    #[test]
    fn a_daemon_that_ended_without_a_word_is_counted_and_its_sessions_stay_recorded() {
        let mut reconciler = Reconciler::default();
        for record in [
            event("counting_started"),
            event("daemon_started"),
            opened("s-1", 7),
            event("daemon_started"),
            event("daemon_stopped"),
            event("daemon_started"),
        ] {
            reconciler.take(record.to_string().as_bytes());
        }
        assert_eq!((reconciler.cut_short(), reconciler.counting_since()), (1, Some(5)));
        assert_eq!(reconciler.compare(&[seen(7, 1, 0)])[0].difference, Difference::None);
    }
}
