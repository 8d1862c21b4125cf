//! `chaperone audit verify --kernel`: the record against the kernel's counts on this host.
//!
//! Asks the daemon, which knows what it has in hand; without one it reads the pinned table itself. Connections come and go while
//! it looks, so a difference counts only when it stays.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use crate::audit::{Difference, Filter, Finding, Reconciler, Seen, search};
use crate::config::Config;
use crate::control::{Answer, Call, Client};
use crate::daemon::recorded;
use crate::intercept::{self, AccountCounts};
use crate::model::UnixMillis;

/// Looks until both sides agree, at most so often: a connection is recorded within milliseconds of its arrival.
const LOOKS_MAX: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Both sides, compared.
#[derive(Debug)]
pub(super) struct Comparison {
    /// When counting started; none if the record does not say.
    since: Option<UnixMillis>,
    cut_short: u64,
    findings: Vec<Finding>,
}

impl Comparison {
    /// Compares the verified log in `dir` with this host's kernel.
    ///
    /// # Errors
    /// When either side cannot be read.
    pub(super) fn make(config: &Config, dir: &Path) -> anyhow::Result<Self> {
        let mut look = Self::once(config, dir)?;
        for _ in 1..LOOKS_MAX {
            if look.is_good() || look.since.is_none() {
                break;
            }
            std::thread::sleep(LOOK_AGAIN);
            look = Self::once(config, dir)?;
        }
        Ok(look)
    }

    fn once(config: &Config, dir: &Path) -> anyhow::Result<Self> {
        // The kernel first: whatever it has counted by now must stand in the record that is read after.
        let seen = seen(config)?;
        let mut reconciler = Reconciler::default();
        search(dir, &Filter::default(), &mut |found| {
            reconciler.take(&found.record);
            ControlFlow::Continue(())
        })?;
        let after = self::seen(config)?;
        let mut findings = reconciler.compare(&seen);
        // What arrived while the record was read is no surplus.
        let later = reconciler.compare(&after);
        for finding in &mut findings {
            let settled = later.iter().any(|late| {
                late.account == finding.account && !matches!(late.difference, Difference::Surplus(_))
            });
            if settled && matches!(finding.difference, Difference::Surplus(_)) {
                finding.difference = Difference::None;
            }
        }
        let (since, cut_short) = (reconciler.counting_since().map(UnixMillis), reconciler.cut_short());
        Ok(Self { since, cut_short, findings })
    }

    /// Whether the record is complete.
    pub(super) fn is_good(&self) -> bool {
        self.since.is_some() && self.findings.iter().all(|finding| finding.difference == Difference::None)
    }

    /// For programs.
    pub(super) fn to_json(&self) -> serde_json::Value {
        json!({
            "complete": self.is_good(),
            "since": self.since,
            "daemons_cut_short": self.cut_short,
            "accounts": self.findings,
        })
    }

    /// For people.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(since) = self.since else {
            return writeln!(
                out,
                "BAD: the record does not say when the kernel's counting started; restart the daemon"
            );
        };
        let delivered: u64 =
            self.findings.iter().filter_map(|finding| finding.kernel).map(|counts| counts.delivered).sum();
        if self.is_good() {
            writeln!(out, "complete     all {delivered} connections that the kernel delivered are recorded")?;
        }
        writeln!(out, "counted from {}", super::date(since))?;
        for finding in &self.findings {
            let Finding { account, sessions, refused, to_resolvers, in_hand, .. } = finding;
            let who = super::inert(finding.agent.as_deref().unwrap_or("unknown agent"));
            match finding.difference {
                Difference::None => {
                    let counts = finding.kernel.unwrap_or_default();
                    writeln!(
                        out,
                        "agent        {who} (account {account}): {sessions} sessions, {refused} refused, {to_resolvers} to resolvers, \
                         {in_hand} in hand; \
                         the kernel denied {} and dropped {}",
                        counts.denied, counts.dropped
                    )?;
                }
                Difference::Missing(count) => writeln!(
                    out,
                    "BAD: {who} (account {account}): {count} connections that the kernel delivered are in no record"
                )?,
                Difference::Surplus(count) => writeln!(
                    out,
                    "BAD: {who} (account {account}): {count} recorded connections were never delivered by the kernel"
                )?,
            }
        }
        if !self.is_good() && self.cut_short > 0 {
            writeln!(
                out,
                "note         {} daemons ended without a word since; what they had just accepted is lost from the record",
                self.cut_short
            )?;
        }
        Ok(())
    }
}

fn seen(config: &Config) -> anyhow::Result<Vec<Seen>> {
    match Client::connect(&config.runtime_dir).and_then(|mut client| client.call(&Call::Accounts)) {
        Ok(Answer::Accounts { accounts }) => Ok(accounts
            .into_iter()
            .map(|state| Seen { account: state.account, counts: state.counts, in_hand: state.unrecorded })
            .collect()),
        Ok(Answer::Refused { why }) => anyhow::bail!("the daemon does not tell its counts: {why}"),
        Ok(_) => anyhow::bail!("the daemon answered something else"),
        Err(_) => {
            let counts =
                intercept::counts(&config.intercept).context("the kernel's counts cannot be read")?;
            Ok(counts.iter().map(without_daemon).collect())
        }
    }
}

fn without_daemon(account: &AccountCounts) -> Seen {
    Seen { account: account.cgroup_id, counts: recorded(account), in_hand: 0 }
}
