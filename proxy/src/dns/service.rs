//! One question's way: who asks, whether they may, what the answer is.
//!
//! Order, fixed: agent, rate, format, kind, registered names, known endpoints, weight, policy, number of names, record,
//! upstream, filter. Whatever fails on the way is a refusal, and is told as one.
//! INVARIANT: `upstream` is called only with what [`Names::permit`] gave out, which it does only after the record was written.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::RecordType;
use parking_lot::Mutex;

use super::answer::Answer;
use super::cache::Cache;
use super::ledger::{Asked as Noted, Ledger};
use super::limits::{Excess, Limits, weigh};
use super::public::is_public;
use super::question::{Malformed, Question, Told, Transport};
use super::upstream::{Upstreams, system};
use super::{Denial, Settings};
use crate::audit::Appender;
use crate::clock::Clock;
use crate::identity::{IdentityError, ProcessOrigin, Resolver};
use crate::model::{
    AgentName, Credential, Evidence, Operation, Protocol, RESOLVER, Resource, UpstreamTls, UpstreamTlsMode,
    Verdict,
};
use crate::net::is_routable;
use crate::policy::{Live, Question as PolicyQuestion};
use crate::session::{Asked, Quarantine, Targets};

/// Public resolvers that answer over encrypted connections.
const ENDPOINTS: &str = include_str!("endpoints.txt");
/// How long clients may keep the addresses of a registered resource; the daemon looks them up as often.
const REGISTERED_TTL: Duration = Duration::from_secs(30);
/// Cgroups whose agent is remembered.
const CGROUPS_MAX: usize = 4096;

/// What the resolver works with. Everything is shared with the rest of the daemon.
#[derive(Debug)]
pub struct Asker {
    /// Who asks.
    pub resolver: Resolver,
    /// Whether they may.
    pub policy: Live,
    /// Registered resources.
    pub targets: Targets,
    /// What agents were told.
    pub asked: Asked,
    /// Agents that are stopped.
    pub quarantine: Quarantine,
    /// The record.
    pub appender: Appender,
    /// Time.
    pub clock: Clock,
}

/// The resolver. Clones share everything.
#[derive(Debug, Clone)]
pub struct Names(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Asker,
    upstreams: Upstreams,
    denial: Denial,
    resource: Resource,
    limits: Limits,
    ledger: Ledger,
    cache: Cache,
    cgroups: Mutex<HashMap<u64, Agent>>,
}

/// The agent behind a cgroup.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) name: AgentName,
    cgroup: PathBuf,
}

/// A question that may be answered, recorded.
enum Permitted {
    /// From what the daemon knows.
    Known(Vec<IpAddr>),
    /// From what others say.
    Upstream(Query),
}

/// A question that is not answered.
struct Refused {
    reason: &'static str,
    policies: Vec<String>,
}

impl Refused {
    fn plain(reason: &'static str) -> Self {
        Self { reason, policies: Vec::new() }
    }
}

impl From<Excess> for Refused {
    fn from(excess: Excess) -> Self {
        Self::plain(excess.as_str())
    }
}

impl Names {
    /// A resolver over the daemon's rooms.
    #[must_use]
    pub fn new(settings: &Settings, parts: Asker) -> Self {
        let upstreams = settings.upstreams.clone().unwrap_or_else(system);
        Self(Arc::new(Inner {
            upstreams: Upstreams::new(upstreams),
            denial: settings.denial,
            resource: resolver(),
            limits: Limits::default(),
            ledger: Ledger::new(parts.appender.clone()),
            cache: Cache::default(),
            cgroups: Mutex::default(),
            parts,
        }))
    }

    /// The reply to one datagram; `None` where silence is the answer.
    pub async fn datagram(&self, origin: &ProcessOrigin, bytes: &[u8]) -> Option<Vec<u8>> {
        match self.agent(origin).await {
            Ok(agent) => self.answer(&agent, origin, (bytes, Transport::Datagram)).await,
            Err(error) => {
                tracing::debug!(pid = origin.pid, %error, "a question of an unknown process is not answered");
                self.dropped(origin, "unknown-process");
                None
            }
        }
    }

    /// Counts a datagram that is dropped unread; the record gets the sum.
    pub fn dropped(&self, origin: &ProcessOrigin, reason: &'static str) {
        self.0.ledger.dropped(origin.account, reason, self.0.parts.clock.instant());
    }

    /// Whether the agent in this cgroup was told this address for a name.
    #[must_use]
    pub fn was_told(&self, cgroup_id: u64, ip: IpAddr) -> bool {
        let agent = self.0.cgroups.lock().get(&cgroup_id).map(|agent| agent.name.clone());
        let now = self.0.parts.clock.instant();
        agent.is_some_and(|agent| self.0.parts.asked.name(&agent, ip, now).is_some())
    }

    /// Writes into the record what was counted up for long enough.
    pub fn settle(&self) {
        self.0.ledger.settle(Some(self.0.parts.clock.instant()));
    }

    /// Writes everything into the record that was counted up.
    pub fn close(&self) {
        self.0.ledger.settle(None);
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// Who asks.
    pub(super) async fn agent(&self, origin: &ProcessOrigin) -> Result<Agent, IdentityError> {
        let known = self.0.cgroups.lock().get(&origin.cgroup_id).cloned();
        if let Some(agent) = known {
            return Ok(agent);
        }
        let (name, cgroup) = self.0.parts.resolver.agent_of(origin).await?;
        let agent = Agent { name, cgroup };
        let mut cgroups = self.0.cgroups.lock();
        if cgroups.len() >= CGROUPS_MAX {
            cgroups.clear();
        }
        cgroups.insert(origin.cgroup_id, agent.clone());
        Ok(agent)
    }

    pub(super) async fn answer(
        &self,
        agent: &Agent,
        origin: &ProcessOrigin,
        (bytes, transport): (&[u8], Transport),
    ) -> Option<Vec<u8>> {
        let now = self.0.parts.clock.instant();
        let admitted = self.0.limits.admit(&agent.name, now);
        let question = match Question::read(bytes, transport) {
            Ok(question) => question,
            Err(malformed) => {
                let noted = Noted { agent: &agent.name, account: origin.account, name: "", policies: &[] };
                self.0.ledger.denied(&noted, "no-question", now);
                return match malformed {
                    Malformed::Reply(reply) => admitted.is_ok().then_some(reply),
                    Malformed::Silent => None,
                };
            }
        };
        let permitted = match &admitted {
            Ok(_seat) => self.permit(agent, origin, &question, now),
            Err(excess) => Err(Refused::from(*excess)),
        };
        match permitted {
            Ok(Permitted::Known(addresses)) if addresses.is_empty() => question.reply(
                ResponseCode::ServFail,
                &[],
                Some(&told(22, "a registered name that does not resolve")),
            ),
            Ok(Permitted::Known(addresses)) => {
                self.0.parts.asked.remember(&agent.name, &question.name, addresses.iter().copied(), now);
                let answer = Answer::of(question.query(), &addresses, REGISTERED_TTL);
                question.reply(answer.code, &answer.records, None)
            }
            Ok(Permitted::Upstream(query)) => self.upstream(agent, origin, &question, &query).await,
            Err(refused) => self.refuse(agent, origin, &question, &refused),
        }
    }

    /// Whether a question may be answered; recorded if so.
    fn permit(
        &self,
        agent: &Agent,
        origin: &ProcessOrigin,
        question: &Question,
        now: Instant,
    ) -> Result<Permitted, Refused> {
        if self.0.parts.quarantine.holds(&agent.name) {
            return Err(Refused::plain("quarantined"));
        }
        // Services that clients ask about on their own get "nothing of this kind" below, if the name is allowed.
        let kinds = [RecordType::A, RecordType::AAAA, RecordType::CNAME, RecordType::HTTPS, RecordType::SVCB];
        if !kinds.contains(&question.kind()) {
            return Err(Refused::plain("kind-of-question"));
        }
        let name = question.name.as_str();
        let mut noted = Noted { agent: &agent.name, account: origin.account, name, policies: &[] };
        let record = |noted: &Noted<'_>, bundle| {
            self.0.ledger.allowed(noted, bundle, now).map_err(|error| {
                tracing::error!(%error, "a name is not answered: its record cannot be written");
                Refused::plain("record-unavailable")
            })
        };
        if let Some(addresses) = self.own(name) {
            if name.ends_with(".localhost") {
                // Every such name is known, and each new one is a record.
                self.0.limits.count(&agent.name, name, now)?;
            }
            record(&noted, None)?;
            return Ok(Permitted::Known(addresses));
        }
        if is_endpoint(name) {
            return Err(Refused::plain("encrypted-resolver"));
        }
        weigh(name)?;
        let decision = self.0.parts.policy.current().decide(&PolicyQuestion {
            principal: &self.0.parts.resolver.principal(&agent.name),
            resource: &self.0.resource,
            operation: &Operation::resolve(name),
            evidence: &evidence(agent, origin),
            now: self.0.parts.clock.now(),
        });
        let policies = decision.reasons.policies;
        match decision.verdict {
            Verdict::Allow => {}
            // Nobody holds a question: clients give up after seconds.
            Verdict::Hold(_) => return Err(Refused { reason: "policy-would-hold", policies }),
            Verdict::Deny => return Err(Refused { reason: "policy", policies }),
        }
        self.0.limits.count(&agent.name, name, now)?;
        noted.policies = &policies;
        record(&noted, Some(&decision.bundle))?;
        Ok(Permitted::Upstream(question.folded()))
    }

    /// Addresses that nobody else need be asked for.
    fn own(&self, name: &str) -> Option<Vec<IpAddr>> {
        let local = name == "localhost" || name.ends_with(".localhost");
        let loopback = || vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        self.0.parts.targets.addresses_of(name).or_else(|| local.then(loopback))
    }

    async fn upstream(
        &self,
        agent: &Agent,
        origin: &ProcessOrigin,
        question: &Question,
        query: &Query,
    ) -> Option<Vec<u8>> {
        let (name, kind) = (question.name.as_str(), question.kind());
        let now = self.0.parts.clock.instant();
        let kept = self.0.cache.get(&agent.name, name, kind, now);
        let is_kept = kept.is_some();
        let mut answer = match (kept, kind) {
            (Some(answer), _) => answer,
            // Hints for encrypted connections (ECH and HTTP/3 among them) lead past the daemon.
            (None, RecordType::HTTPS | RecordType::SVCB) => Answer::nothing(),
            (None, _) => match self.0.upstreams.ask(query).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::warn!(agent = %agent.name, name, %error, "a name is allowed, but nobody answers for it");
                    let told = told(22, "the daemon's resolvers gave no answer");
                    return question.reply(ResponseCode::ServFail, &[], Some(&told));
                }
            },
        };
        let targets = &self.0.parts.targets;
        if answer.filter(|ip| is_public(ip) || targets.covers(ip)) {
            return self.refuse(agent, origin, question, &Refused::plain("inward-address"));
        }
        let now = self.0.parts.clock.instant();
        // From when it was had: asking again and again does not make it last.
        if !is_kept {
            self.0.cache.put(&agent.name, name, kind, (&answer, now));
        }
        // An agent would be connected to the daemon wherever it dials, and try no other address once that one turns out to be out of
        // reach: what this machine knows no road to is not told. After the cache, since roads come and go.
        let _emptied = answer.filter(is_routable);
        self.0.parts.asked.remember(&agent.name, name, answer.addresses(), now);
        question.reply(answer.code, &answer.records, None)
    }

    /// Records and tells a refusal.
    fn refuse(
        &self,
        agent: &Agent,
        origin: &ProcessOrigin,
        question: &Question,
        refused: &Refused,
    ) -> Option<Vec<u8>> {
        let Refused { reason, policies } = refused;
        let name = question.name.as_str();
        let noted = Noted { agent: &agent.name, account: origin.account, name, policies };
        self.0.ledger.denied(&noted, reason, self.0.parts.clock.instant());
        tracing::info!(agent = %agent.name, name, reason, "name refused");
        let (number, code) = match *reason {
            // What is forbidden for good is told as the operator likes it.
            "policy" | "policy-would-hold" | "encrypted-resolver" | "name-carries-data" => {
                (18, self.denied())
            }
            "inward-address" => (17, self.denied()),
            "kind-of-question" => (21, ResponseCode::Refused),
            _ => (18, ResponseCode::Refused),
        };
        let by = if policies.is_empty() { String::new() } else { format!(" by {}", policies.join(", ")) };
        question.reply(code, &[], Some(&told(number, &format!("refused by chaperone: {reason}{by}"))))
    }

    fn denied(&self) -> ResponseCode {
        match self.0.denial {
            Denial::Refused => ResponseCode::Refused,
            Denial::NxDomain => ResponseCode::NXDomain,
        }
    }
}

fn told(code: u16, text: &str) -> Told {
    Told { code, text: text.to_owned() }
}

fn is_endpoint(name: &str) -> bool {
    let listed = ENDPOINTS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    listed
        .into_iter()
        .any(|one| name.strip_suffix(one).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// What is known of the process without looking at it; policies that need more do not permit.
fn evidence(agent: &Agent, origin: &ProcessOrigin) -> Evidence {
    Evidence {
        pid: origin.pid,
        uid: origin.uid,
        cgroup: agent.cgroup.display().to_string(),
        cgroup_id: origin.cgroup_id,
        account: origin.account,
        ..Evidence::default()
    }
}

/// The resolver, as policy sees it.
fn resolver() -> Resource {
    Resource {
        name: RESOLVER.to_owned(),
        protocol: Protocol::Dns,
        addresses: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        credential: Credential::none(),
        tls: UpstreamTls { mode: UpstreamTlsMode::Disable, ca_file: None, server_name: None },
        hold: Duration::ZERO,
        agent_scram: false,
        sync_reads: false,
        idle: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_encrypted_resolvers_are_recognised_with_everything_below_and_nothing_beside() {
        for name in ["dns.google", "dns.quad9.net", "abc.dns.nextdns.io", "use-application-dns.net"] {
            assert!(is_endpoint(name), "{name}");
        }
        for name in ["google", "www.google.com", "notdns.google.example", "xdns.google"] {
            assert!(!is_endpoint(name), "{name}");
        }
    }
}
