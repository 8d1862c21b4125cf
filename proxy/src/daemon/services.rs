//! What the daemon answers about itself, and the small adapters between rooms.
//!
//! Refuses nothing by itself: who may ask is decided in `control`. A process that cannot be looked at counts as an agent.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as Exposition;

use super::{placing, stopping, watching};
use crate::approval::{Queue, State, Ticket};
use crate::audit::{Appender, Event, TicketFacts};
use crate::clock::Clock;
use crate::control::{
    AccountState, AgentState, FeatureState, Metrics, Peer, ProgramState, Services, StatusReport,
};
use crate::gate::{Gate, PrincipalSource};
use crate::identity::{Resolver, Steps};
use crate::intercept::{self, AccountCounts, Counters, Guard, Unreachable};
use crate::model::{AgentName, Identity, Principal, SelftestResult, UnixMillis};
use crate::policy::Live;
use crate::protocol::contract::Unreached;
use crate::session::{Quarantine, Registry};

/// The name of the kernel's feature that ends sockets.
const ABORT: &str = "sock_destroy";

/// The identity room as the gate's source of principals.
#[derive(Debug)]
pub(super) struct Resolved(pub(super) Resolver);

impl PrincipalSource for Resolved {
    fn principal(&self, agent: &AgentName) -> Arc<Principal> {
        self.0.principal(agent)
    }
}

/// The kernel's table as the place where protocols note what they could not reach.
#[derive(Debug)]
pub(super) struct OutOfReach {
    pub(super) table: Unreachable,
    pub(super) clock: Clock,
}

impl Unreached for OutOfReach {
    fn note(&self, account: u64, destination: SocketAddr, error: i32) {
        if let Err(error) = self.table.note(account, destination, error, self.clock.boot_ns()) {
            tracing::warn!(%destination, %error, "the agent will not be told why its destination is out of reach");
        }
    }
}

/// The running daemon.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) policy: Live,
    pub(super) queue: Queue,
    pub(super) gate: Gate,
    pub(super) resolver: Resolver,
    pub(super) registry: Registry,
    pub(super) quarantine: Quarantine,
    pub(super) guard: Arc<Guard>,
    pub(super) appender: Appender,
    pub(super) intercept: intercept::Settings,
    /// Where the guard process takes errands, if there is one.
    pub(super) desk: PathBuf,
    /// Why this kernel does not end the sockets of a quarantined agent.
    pub(super) no_abort: Option<String>,
    pub(super) launchers: BTreeMap<AgentName, BTreeSet<u32>>,
    pub(super) processes: BTreeMap<AgentName, u32>,
    pub(super) steps: Steps,
    pub(super) started_at: UnixMillis,
}

impl Running {
    /// Records an event; a failure is logged, since the next request will be denied for the same reason.
    pub(super) fn note(&self, event: &Event<'_>) {
        note(&self.appender, event);
    }

    /// The optional kernel programs, for the record.
    pub(super) fn features(&self) -> BTreeMap<Cow<'static, str>, Cow<'static, str>> {
        let word = |refused: Option<String>| refused.map_or(Cow::Borrowed("in effect"), Cow::Owned);
        let features = self.guard.features().into_iter();
        let abort = (Cow::Borrowed(ABORT), word(self.no_abort.clone()));
        features.map(|feature| (Cow::Borrowed(feature.name), word(feature.refused))).chain([abort]).collect()
    }

    fn agents(&self) -> Vec<AgentState> {
        self.resolver
            .agents()
            .into_iter()
            .map(|status| {
                let (subject, expires_at, reason) = match &status.principal.identity {
                    Identity::Verified { subject, expires_at, .. } => {
                        (Some(subject.clone()), Some(*expires_at), None)
                    }
                    Identity::Unidentified { reason } => (None, None, Some(reason.to_string())),
                };
                let name = status.principal.agent.to_string();
                let quarantined = self.quarantine.holds(&status.principal.agent);
                AgentState { name, subject, expires_at, problem: status.problem.or(reason), quarantined }
            })
            .collect()
    }
}

impl Services for Running {
    fn status(&self) -> StatusReport {
        let counts = self.gate.counts();
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = self.guard.counters().ok();
        let programs = self.guard.effective().into_iter().map(|program| ProgramState {
            name: program.name.to_owned(),
            effective: program.effective,
            detail: program.detail,
        });
        let features = self.guard.features().into_iter().map(|feature| FeatureState {
            name: feature.name.to_owned(),
            purpose: feature.purpose.to_owned(),
            effective: feature.refused.is_none(),
            refused: feature.refused,
        });
        let abort = FeatureState {
            name: ABORT.to_owned(),
            purpose: "ends the sockets of a quarantined agent".to_owned(),
            effective: self.no_abort.is_none(),
            refused: self.no_abort.clone(),
        };
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: self.started_at,
            bundle: self.policy.current().hash().0.clone(),
            sessions: self.registry.count(),
            held: self.queue.list().iter().filter(|ticket| ticket.state == State::Pending).count(),
            decided: [read(&counts.allowed), read(&counts.held), read(&counts.denied)],
            turned_away: read(&counts.turned_away),
            agents: self.agents(),
            programs: programs.collect(),
            features: features.chain([abort]).collect(),
            kernel_seen: counters.as_ref().map_or_else(Vec::new, |counters| told(counters, false)),
            kernel_untold: counters.as_ref().map_or(0, |counters| counters.events_lost),
            kernel: counters.as_ref().map_or([0, 0], |counters| [counters.redirected, counters.delivered]),
            kernel_denied: counters.map_or_else(Vec::new, |counters| told(&counters, true)),
            record: self.appender.trouble(),
        }
    }

    fn reload(&self, by: &str) -> Result<String, String> {
        match self.policy.reload() {
            Ok(bundle) => {
                self.note(&Event::PolicyLoaded { bundle: bundle.clone() });
                Ok(format!("policy bundle {} is in force", bundle.0))
            }
            Err(error) => {
                let problem = error.to_string();
                self.note(&Event::PolicyRejected { problem: Cow::Borrowed(&problem) });
                tracing::error!(%problem, by, "policy not reloaded");
                Err(problem)
            }
        }
    }

    fn quarantine(&self, agent: &AgentName, freeze: bool, by: &str) -> Result<String, String> {
        stopping::quarantine(self, agent, freeze, by)
    }

    fn release(&self, agent: &AgentName, by: &str) -> Result<String, String> {
        stopping::release(self, agent, by)
    }

    fn accounts(&self) -> Result<Vec<AccountState>, String> {
        // The kernel first: what it counts meanwhile must not look as if the daemon had lost it.
        let counted = self.guard.accounts().and_then(|accounts| accounts.counts());
        let unrecorded = self.gate.not_yet_recorded();
        let state = |counts: AccountCounts| AccountState {
            account: counts.cgroup_id,
            counts: watching::recorded(&counts),
            unrecorded: unrecorded.get(&counts.cgroup_id).copied().unwrap_or(0),
        };
        counted
            .map(|counted| counted.into_iter().map(state).collect())
            .map_err(|error| format!("the kernel's counts cannot be read: {error}"))
    }

    fn acted(&self, by: &str, action: &str, target: &str) {
        self.note(&Event::OperatorActed { by: by.into(), action: action.into(), target: target.into() });
    }

    fn place(&self, caller: Peer, agent: &AgentName, step: Option<&str>) -> Result<String, String> {
        placing::place(self, caller, agent, step)
    }

    fn selftest(&self, by: &str, result: &SelftestResult) -> Result<String, String> {
        let event = Event::Selftest { by: by.into(), result: Cow::Borrowed(result) };
        match self.appender.append(&event) {
            Ok(_) => Ok("the result is in the record".to_owned()),
            Err(error) => Err(format!("the result is not in the record: {error}")),
        }
    }

    fn is_agent(&self, pid: Option<i32>) -> bool {
        // A caller that cannot be looked at might be anything.
        let Some(pid) = pid else { return true };
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return true };
        let parent = format!("/{}", self.intercept.parent.display());
        text.lines().filter_map(|line| line.strip_prefix("0::")).any(|path| {
            path == parent || path.strip_prefix(&parent).is_some_and(|rest| rest.starts_with('/'))
        })
    }
}

impl Metrics for Running {
    fn exposition(&self) -> String {
        let mut exposition = Exposition::with_prefix("chaperone");
        let counts = self.gate.counts();
        let requests: Family<Vec<(&str, &str)>, Counter> = Family::default();
        for (decision, counter) in
            [("allow", &counts.allowed), ("hold", &counts.held), ("deny", &counts.denied)]
        {
            requests.get_or_create(&vec![("decision", decision)]).inc_by(counter.load(Ordering::Relaxed));
        }
        exposition.register("requests", "Requests decided", requests);
        for (name, help, counter) in [
            ("sessions_opened", "Sessions opened", &counts.sessions),
            ("connections_refused", "Connections turned away", &counts.turned_away),
        ] {
            let metric: Counter = Counter::default();
            metric.inc_by(counter.load(Ordering::Relaxed));
            exposition.register(name, help, metric);
        }
        let open: Gauge = Gauge::default();
        open.set(i64::try_from(self.registry.count()).unwrap_or(i64::MAX));
        exposition.register("sessions_open", "Sessions open now", open);
        let missing: Gauge = Gauge::default();
        let gone = self.guard.effective().iter().filter(|program| !program.effective).count();
        missing.set(i64::try_from(gone).unwrap_or(i64::MAX));
        exposition.register("guard_programs_missing", "Kernel programs that are not in effect", missing);
        if let Ok(counters) = self.guard.counters() {
            let denied: Family<Vec<(&str, &str)>, Counter> = Family::default();
            let seen: Family<Vec<(&str, &str)>, Counter> = Family::default();
            for (reason, count) in counters.denied {
                let family = if reason.denies() { &denied } else { &seen };
                family.get_or_create(&vec![("reason", reason.as_str())]).inc_by(count);
            }
            exposition.register("kernel_denied", "Denials by the kernel programs", denied);
            exposition.register("kernel_seen", "What the kernel programs saw and let pass", seen);
            for (name, help, count) in [
                ("kernel_redirected", "Connections the kernel sent to the proxy", counters.redirected),
                ("kernel_delivered", "Connections whose identity reached the proxy", counters.delivered),
                ("kernel_events_lost", "Deny events that found the ring full", counters.events_lost),
            ] {
                let metric: Counter = Counter::default();
                metric.inc_by(count);
                exposition.register(name, help, metric);
            }
        }
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &exposition) {
            tracing::error!(%error, "metrics cannot be written");
        }
        text
    }
}

/// Counts by reason: of what was denied, or of what was only seen.
fn told(counters: &Counters, denied: bool) -> Vec<(String, u64)> {
    let those = counters.denied.iter().filter(|(reason, _)| reason.denies() == denied);
    those.map(|(reason, count)| (reason.as_str().to_owned(), *count)).collect()
}

pub(super) fn note(appender: &Appender, event: &Event<'_>) {
    if let Err(error) = appender.append(event) {
        tracing::error!(%error, "not recorded");
    }
}

/// Every change of a ticket goes into the record.
pub(super) fn record_tickets(queue: &Queue, appender: &Appender) {
    let appender = appender.clone();
    queue.observe(move |ticket| {
        let facts = facts(ticket);
        let event = match ticket.state {
            State::Pending if ticket.ballots.is_empty() => Event::TicketOpened(facts),
            State::Pending => Event::TicketVoted(facts),
            State::Approved
            | State::Denied
            | State::Expired
            | State::Consumed
            | State::Cancelled
            | State::Revoked => Event::TicketClosed(facts),
        };
        note(&appender, &event);
    });
}

fn facts(ticket: &Ticket) -> TicketFacts<'_> {
    let last = ticket.ballots.last();
    // Nobody votes a ticket into expiry or consumption.
    let person = match ticket.state {
        State::Pending | State::Approved | State::Denied | State::Revoked => last,
        State::Expired | State::Consumed | State::Cancelled => None,
    };
    TicketFacts {
        ticket: ticket.id.clone(),
        fingerprint: Cow::Borrowed(&ticket.fingerprint),
        agent: Cow::Borrowed(&ticket.agent),
        subject: ticket.subject.as_deref().map(Cow::Borrowed),
        resource: Cow::Borrowed(&ticket.resource),
        by: person.map(|ballot| Cow::Borrowed(ballot.by.as_str())),
        state: Cow::Borrowed(ticket.state.as_str()),
        reason: person.and_then(|ballot| ballot.reason.as_deref()).map(Cow::Borrowed),
    }
}
