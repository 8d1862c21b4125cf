//! `chaperone audit verify --kernel`: the record against the kernel's counts on this host.
//!
//! Asks the daemon, which knows what it has in hand; without one it reads the pinned table itself. Connections come and go while
//! it looks, so a difference counts only when it stays. The log is verified and summed in the same pass, and each further look
//! reads only what was appended. INVARIANT: a record counts only if it was verified as it was read.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use crate::audit::{Difference, Finding, Reconciler, Report, Seen, Verifier, VerifyError};
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
    /// Verifies `log` and compares it with what `kernel` tells, again and again until both agree or it stays so. `progress` is
    /// told the bytes read so far.
    ///
    /// # Errors
    /// Inside, the first thing that is wrong with the log; outside, that the kernel's side cannot be read.
    pub(super) fn make(
        log: &mut Verifier,
        kernel: &mut dyn FnMut() -> anyhow::Result<Vec<Seen>>,
        progress: &mut dyn FnMut(u64),
    ) -> anyhow::Result<Result<(Report, Self), VerifyError>> {
        let mut record = Reconciler::default();
        let mut looks = 1;
        loop {
            // The kernel first: whatever it has counted by now must stand in the record that is read after.
            let before = kernel();
            let report = match log.read_on(&mut |passed| {
                record.take(passed.line);
                progress(passed.bytes);
            }) {
                Ok(report) => report,
                Err(error) => return Ok(Err(error)),
            };
            let look = Self::of(&record, &before?, &kernel()?);
            if look.is_good() || look.since.is_none() || looks >= LOOKS_MAX {
                return Ok(Ok((report, look)));
            }
            looks = looks.saturating_add(1);
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Compares the record with what the kernel counted before and after it was read.
    fn of(record: &Reconciler, before: &[Seen], after: &[Seen]) -> Self {
        let mut findings = record.compare(before);
        // What arrived while the record was read is no surplus.
        let later = record.compare(after);
        for finding in &mut findings {
            let settled = later.iter().any(|late| {
                late.account == finding.account && !matches!(late.difference, Difference::Surplus(_))
            });
            if settled && matches!(finding.difference, Difference::Surplus(_)) {
                finding.difference = Difference::None;
            }
        }
        let (since, cut_short) = (record.counting_since().map(UnixMillis), record.cut_short());
        Self { since, cut_short, findings }
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

/// What the daemon tells, or without one the kernel's own table.
pub(super) fn seen(config: &Config) -> anyhow::Result<Vec<Seen>> {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::audit::{Event, KernelCounts, Log, Settings, Trust, verify};
    use crate::clock::Clock;
    use crate::shutdown::Shutdown;

    const ACCOUNT: u64 = 7;

    /// A log that says when counting started, and nothing more yet.
    struct Folder {
        dir: PathBuf,
        log: Log,
    }

    impl Folder {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("audit-kernel-{}-{name}", std::process::id()));
            let settings = Settings {
                dir: dir.clone(),
                sync_every: Duration::from_millis(5),
                checkpoint_every: Duration::from_secs(60),
            };
            let log = Log::open(&settings, &Clock::fixed(UnixMillis(5)), &Shutdown::default()).unwrap();
            log.appender().append(&Event::CountingStarted { parent: 1 }).unwrap();
            Self { dir, log }
        }

        fn connected(&self) {
            let destination = ([192, 0, 2, 1], 53).into();
            self.log.appender().append(&Event::ResolverConnected { account: ACCOUNT, destination }).unwrap();
        }

        /// Compares with a kernel that delivered one connection, and does `meanwhile` after the first look.
        fn compare(&self, meanwhile: &mut dyn FnMut()) -> (u32, Result<(Report, Comparison), VerifyError>) {
            let mut asked = 0;
            let mut kernel = || {
                asked += 1;
                // Twice in each look.
                if asked == 3 {
                    meanwhile();
                }
                let counts = KernelCounts { delivered: 1, ..KernelCounts::default() };
                Ok(vec![Seen { account: ACCOUNT, counts, in_hand: 0 }])
            };
            let mut verifier = Verifier::open(&self.dir, &Trust::default()).unwrap();
            let compared = Comparison::make(&mut verifier, &mut kernel, &mut |_| {}).unwrap();
            (asked, compared)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.dir));
        }
    }

    #[test]
    fn a_record_that_comes_while_it_waits_counts_and_one_that_never_comes_is_missing() {
        let folder = Folder::new("late");
        let (asked, compared) = folder.compare(&mut || folder.connected());
        let (report, comparison) = compared.unwrap();
        assert!(asked == 4 && comparison.is_good(), "{asked} {comparison:?}");
        assert_eq!(report, verify(&folder.dir).unwrap());

        let folder = Folder::new("never");
        let (asked, compared) = folder.compare(&mut || {});
        let (_, comparison) = compared.unwrap();
        assert_eq!(asked, 2 * LOOKS_MAX);
        assert_eq!(comparison.findings[0].difference, Difference::Missing(1));
    }

    #[test]
    fn a_record_that_somebody_writes_into_the_log_while_it_waits_is_found_and_does_not_count() {
        let folder = Folder::new("forged");
        let (_, compared) = folder.compare(&mut || {
            folder.connected();
            let path = folder.dir.join("records-00000000000000000001.jsonl");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace("192.0.2.1", "192.0.2.2")).unwrap();
        });
        assert!(matches!(compared, Err(VerifyError::Record { sequence: 2, .. })), "{compared:?}");
    }
}
