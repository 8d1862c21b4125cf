//! Deciding, holding, recording: from a request to a permit or a refusal.
//!
//! A plain read with an allow is settled without waiting. Anything with effects waits for the disk, anything held waits for
//! people; both come back as a future that the driver polls beside its streams.
//! INVARIANT: after a hold the request is decided again; an approval never outlives a policy that denies.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::admission::{Admission, HoldNews};
use super::cache::DecisionCache;
use super::fingerprint::fingerprint;
use super::ledger::{Awaiting, Counts, Unrecorded};
use super::permit::{Permit, Undecided};
use super::refusal::{Refusal, RefusalKind};
use crate::approval::{self, Approval, Ask, Queue, Submission, Waiter};
use crate::audit::{Appender, Event};
use crate::clock::Clock;
use crate::model::{
    AgentName, BoundValue, Clearance, ColumnName, Decision, HoldTerms, Identity, MaskStrategy, Operation,
    Outcome, Principal, RequestId, Session, TicketId, Verdict,
};
use crate::policy::{ColumnQuestion, Live, Question, Set};

/// Longest hold inside an open transaction: it keeps locks on the resource, and others wait behind them.
const HOLD_IN_TRANSACTION_MAX: Duration = Duration::from_secs(15);

/// Where the gate learns who an agent is at this moment.
pub trait PrincipalSource: fmt::Debug + Send + Sync {
    /// The verified identity now, or the reason there is none. Called per request.
    fn principal(&self, agent: &AgentName) -> Arc<Principal>;
}

/// The rooms behind the door, shared by all sessions.
#[derive(Debug, Clone)]
pub struct Gate {
    policy: Live,
    approvals: Queue,
    appender: Appender,
    principals: Arc<dyn PrincipalSource>,
    clock: Clock,
    counts: Arc<Counts>,
    unrecorded: Arc<Unrecorded>,
}

impl Gate {
    /// The gate over its rooms.
    #[must_use]
    pub fn new(
        policy: Live,
        approvals: Queue,
        appender: Appender,
        principals: Arc<dyn PrincipalSource>,
        clock: Clock,
    ) -> Self {
        Self {
            policy,
            approvals,
            appender,
            principals,
            clock,
            counts: Arc::default(),
            unrecorded: Arc::default(),
        }
    }

    /// What was decided since the daemon started.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn appender(&self) -> &Appender {
        &self.appender
    }

    pub(super) fn unrecorded(&self) -> &Arc<Unrecorded> {
        &self.unrecorded
    }

    pub(super) fn principal(&self, agent: &AgentName) -> Arc<Principal> {
        self.principals.principal(agent)
    }
}

/// One request as the gate sees it.
#[derive(Debug, Clone)]
pub struct Request {
    /// What policy judges.
    pub operation: Arc<Operation>,
    /// What the record and the approver show.
    pub statement: Arc<str>,
    /// Bound values, if the protocol sends them apart.
    pub values: Vec<BoundValue>,
    /// Whether the resource has a transaction open for this session.
    pub in_transaction: bool,
    /// What else decides what the statement means there: the database, and a digest of every setting that was changed. An
    /// approval fits one scope.
    pub scope: Arc<str>,
}

/// The gate as one session sees it.
#[derive(Debug)]
pub struct Door {
    gate: Gate,
    session: Arc<Session>,
    cache: DecisionCache,
    requests: Arc<AtomicU64>,
    arrived: Awaiting,
}

impl Door {
    pub(super) fn new(
        gate: Gate,
        session: Arc<Session>,
        requests: Arc<AtomicU64>,
        arrived: Awaiting,
    ) -> Self {
        Self { gate, session, cache: DecisionCache::default(), requests, arrived }
    }

    pub(super) fn awaiting(&self) -> &Awaiting {
        &self.arrived
    }

    pub(super) fn appender(&self) -> &Appender {
        &self.gate.appender
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.gate.counts
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Who the agent is now, and the bundle in force. Pointers change when either does.
    #[must_use]
    pub fn standing(&self) -> (Arc<Set>, Arc<Principal>) {
        (self.gate.policy.current(), self.gate.principals.principal(&self.session.agent))
    }

    /// Whether this agent may open a session at all.
    ///
    /// # Errors
    /// When it has no identity and no policy names the unidentified.
    pub fn greet(&self) -> Result<Arc<Principal>, Refusal> {
        let (bundle, principal) = self.standing();
        match &principal.identity {
            Identity::Unidentified { reason } if !bundle.names_unidentified() => {
                Err(Refusal::plain(RefusalKind::Unidentified(*reason)))
            }
            Identity::Unidentified { .. } | Identity::Verified { .. } => Ok(principal),
        }
    }

    /// How a column of `class` is masked for the agent now, and by which policies; `None` if it may be read as it is.
    #[must_use]
    pub fn mask(
        &self,
        (bundle, principal): (&Set, &Principal),
        column: &ColumnName,
        class: &str,
    ) -> Option<(MaskStrategy, Vec<String>)> {
        let resource = &self.session.resource;
        match bundle.clearance(&ColumnQuestion { principal, resource, column, class }) {
            Clearance::Clear => None,
            Clearance::Masked { strategy, policies } => Some((strategy, policies)),
        }
    }

    /// Judges a request.
    pub fn admit(&mut self, request: Request) -> Admission {
        let (decision, case) = self.open_case(request);
        let counts = &self.gate.counts;
        match &decision.verdict {
            Verdict::Allow => {
                Counts::add(&counts.allowed);
                case.allow(&decision)
            }
            Verdict::Deny => {
                Counts::add(&counts.denied);
                Admission::Refused(case.deny(&decision, None))
            }
            Verdict::Hold(terms) => {
                Counts::add(&counts.held);
                case.hold(&decision, terms)
            }
        }
    }

    /// Judges a request that only makes another one ready and runs nothing, such as PostgreSQL's `Parse`. A denial counts; a
    /// hold waits until the request itself comes, with its values.
    pub fn prepare(&mut self, request: Request) -> Admission {
        let (decision, case) = self.open_case(request);
        match &decision.verdict {
            Verdict::Allow | Verdict::Hold(_) => match case.record(&decision, None) {
                Ok(_) => Admission::Permitted(case.undecided().permit()),
                Err(refusal) => Admission::Refused(refusal),
            },
            Verdict::Deny => {
                Counts::add(&self.gate.counts.denied);
                Admission::Refused(case.deny(&decision, None))
            }
        }
    }

    /// Refuses a request for a reason that lies in the protocol, and records it.
    pub fn refuse(&mut self, request: Request, kind: RefusalKind) -> Refusal {
        let (decision, case) = self.open_case(request);
        let refusal = case.deny(&Decision { verdict: Verdict::Deny, ..(*decision).clone() }, None);
        Refusal { kind, ..refusal }
    }

    /// Numbers a request, decides it, and sets it on its way.
    fn open_case(&mut self, request: Request) -> (Arc<Decision>, Case) {
        let id = self.next_id();
        let (bundle, principal) = self.standing();
        let decision = self.decide(&bundle, &principal, &request.operation);
        let (gate, session) = (self.gate.clone(), Arc::clone(&self.session));
        (decision, Case { gate, session, principal, request, id })
    }

    fn next_id(&mut self) -> RequestId {
        let number = self.requests.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        RequestId { session: self.session.id, number }
    }

    fn decide(
        &mut self,
        bundle: &Arc<Set>,
        principal: &Arc<Principal>,
        operation: &Arc<Operation>,
    ) -> Arc<Decision> {
        let now = self.gate.clock.now();
        let session = &self.session;
        self.cache.decide((bundle, principal, now), operation, || {
            bundle.decide(&question(session, principal, operation, now))
        })
    }
}

fn question<'a>(
    session: &'a Session,
    principal: &'a Principal,
    operation: &'a Operation,
    now: crate::model::UnixMillis,
) -> Question<'a> {
    Question { principal, resource: &session.resource, operation, evidence: &session.evidence, now }
}

/// One request on its way through the gate.
pub(super) struct Case {
    gate: Gate,
    pub(super) session: Arc<Session>,
    pub(super) principal: Arc<Principal>,
    pub(super) request: Request,
    id: RequestId,
}

impl Case {
    fn allow(self, decision: &Decision) -> Admission {
        let durable = !self.request.operation.is_plain_read() || self.session.resource.sync_reads;
        let receipt = match self.record(decision, None) {
            Ok(receipt) => receipt,
            Err(refusal) => return Admission::Refused(refusal),
        };
        let undecided = self.undecided();
        if !durable {
            return Admission::Permitted(undecided.permit());
        }
        Admission::Recording(Box::pin(async move {
            match receipt.synced().await {
                Ok(()) => Ok(undecided.permit()),
                Err(error) => Err(no_record(undecided, &error)),
            }
        }))
    }

    fn deny(&self, decision: &Decision, ticket: Option<TicketId>) -> Refusal {
        let kind = kind_of(&self.principal, decision);
        let refusal = Refusal { kind, policies: decision.reasons.policies.clone(), ticket };
        // A denial that cannot be recorded is still a denial.
        if self.record(decision, refusal.ticket.clone()).is_ok() {
            self.undecided().end(Outcome::Denied);
        }
        refusal
    }

    fn hold(self, decision: &Decision, terms: &HoldTerms) -> Admission {
        let submission = self.gate.approvals.submit(self.ask(decision, terms));
        match submission {
            Ok(Submission::Ready(approval)) => self.retry(decision, approval),
            Ok(Submission::Waiting(ticket, waiter)) => {
                let id = ticket.id.clone();
                if let Err(refusal) = self.record(decision, Some(id.clone())) {
                    return Admission::Refused(refusal);
                }
                let limit = self.limit(terms);
                let approvers = terms.approvers.iter().cloned().collect();
                let news = HoldNews { ticket: id.clone(), approvers, limit };
                Admission::Held(news, Box::pin(wait(self, (id, terms.clone()), waiter, limit)))
            }
            Err(error) => {
                tracing::warn!(%error, session = %self.session.id, "request cannot be held");
                let refusal = self.deny(decision, None);
                Admission::Refused(Refusal { kind: RefusalKind::TooManyHeld, ..refusal })
            }
        }
    }

    /// A retry that matches an approved ticket: released once, after its record is on disk.
    fn retry(self, decision: &Decision, approval: Approval) -> Admission {
        let undecided = self.undecided();
        let decision = decision.clone();
        Admission::Recording(Box::pin(
            async move { self.release_approved(undecided, &decision, approval).await },
        ))
    }

    /// Records a held request's approval durably and mints its permit.
    async fn release_approved(
        &self,
        undecided: Undecided,
        decision: &Decision,
        approval: Approval,
    ) -> Result<Permit, Refusal> {
        let decision = Decision { verdict: Verdict::Allow, ..decision.clone() };
        let ticket = approval.ticket().clone();
        match self.append(&decision, Some(ticket)) {
            Ok(receipt) => match receipt.synced().await {
                Ok(()) => Ok(undecided.permit()),
                Err(error) => Err(no_record(undecided, &error)),
            },
            Err(error) => Err(no_record(undecided, &error)),
        }
    }

    /// The time a request is held in line.
    fn limit(&self, terms: &HoldTerms) -> Duration {
        let limit = self.session.resource.hold.min(terms.window);
        if self.request.in_transaction { limit.min(HOLD_IN_TRANSACTION_MAX) } else { limit }
    }

    fn undecided(&self) -> Undecided {
        Undecided::new(self.gate.appender.clone(), Arc::clone(&self.principal), self.id)
    }

    fn record(
        &self,
        decision: &Decision,
        ticket: Option<TicketId>,
    ) -> Result<crate::audit::Receipt, Refusal> {
        self.append(decision, ticket).map_err(|error| {
            tracing::error!(%error, session = %self.session.id, "request refused: its record cannot be written");
            Refusal::plain(RefusalKind::NoRecord)
        })
    }

    fn append(
        &self,
        decision: &Decision,
        ticket: Option<TicketId>,
    ) -> Result<crate::audit::Receipt, crate::audit::AuditError> {
        self.gate.appender.append(&Event::RequestDecided {
            request: self.id,
            agent: Cow::Borrowed(&self.session.agent),
            subject: subject(&self.principal).map(Cow::Owned),
            resource: Cow::Borrowed(&self.session.resource.name),
            statement: Cow::Borrowed(&self.request.statement),
            values: Cow::Borrowed(&self.request.values),
            operation: Cow::Borrowed(&self.request.operation),
            decision: Cow::Borrowed(decision),
            ticket,
            masks: Cow::Borrowed(&[]),
        })
    }

    fn ask(&self, decision: &Decision, terms: &HoldTerms) -> Ask {
        let evidence = &self.session.evidence;
        Ask {
            fingerprint: fingerprint(self, decision),
            agent: self.session.agent.clone(),
            subject: subject(&self.principal),
            resource: self.session.resource.name.clone(),
            statement: self.request.statement.to_string(),
            values: self.request.values.clone(),
            operation: (*self.request.operation).clone(),
            terms: terms.clone(),
            requester_uids: [Some(evidence.uid), evidence.login_uid].into_iter().flatten().collect(),
            policies: decision.reasons.policies.clone(),
            step: evidence.step.clone(),
            in_transaction: self.request.in_transaction,
        }
    }
}

/// Waits for people, then decides again.
async fn wait(
    case: Case,
    (ticket, terms): (TicketId, HoldTerms),
    mut waiter: Waiter,
    limit: Duration,
) -> Result<Permit, Refusal> {
    let undecided = case.undecided();
    let refuse = |kind| Refusal { kind, policies: Vec::new(), ticket: Some(ticket.clone()) };
    let approval = match tokio::time::timeout(limit, waiter.verdict()).await {
        Ok(approval::Verdict::Approved(approval)) => approval,
        Ok(approval::Verdict::Denied { .. }) => {
            undecided.end(Outcome::Denied);
            return Err(refuse(RefusalKind::Person));
        }
        Ok(approval::Verdict::Failed(error)) => {
            tracing::error!(%error, "a held request is refused: its ticket cannot be kept");
            undecided.end(Outcome::Denied);
            return Err(refuse(RefusalKind::NoRecord));
        }
        Ok(approval::Verdict::Cancelled) => {
            undecided.end(Outcome::Cut);
            return Err(refuse(RefusalKind::Cancelled));
        }
        Ok(approval::Verdict::Expired) | Err(_) => {
            undecided.end(Outcome::Expired);
            return Err(refuse(RefusalKind::HoldExpired));
        }
    };
    let bundle = case.gate.policy.current();
    let principal = case.gate.principals.principal(&case.session.agent);
    let now = case.gate.clock.now();
    let again = bundle.decide(&question(&case.session, &principal, &case.request.operation, now));
    // People agreed to these terms for this principal; other terms or another principal are another question.
    let same = subject(&principal) == subject(&case.principal);
    match &again.verdict {
        Verdict::Allow => case.release_approved(undecided, &again, approval).await,
        Verdict::Hold(now) if same && *now == terms => {
            case.release_approved(undecided, &again, approval).await
        }
        Verdict::Hold(_) | Verdict::Deny => {
            undecided.end(Outcome::Denied);
            let kind = kind_of(&principal, &again);
            Err(Refusal { kind, policies: again.reasons.policies, ticket: Some(ticket.clone()) })
        }
    }
}

/// What a denial is called: a fresh token would not help against a policy that forbids.
fn kind_of(principal: &Principal, decision: &Decision) -> RefusalKind {
    match &principal.identity {
        Identity::Unidentified { reason } if decision.reasons.policies.is_empty() => {
            RefusalKind::Unidentified(*reason)
        }
        Identity::Unidentified { .. } | Identity::Verified { .. } => RefusalKind::Policy,
    }
}

fn no_record(undecided: Undecided, error: &crate::audit::AuditError) -> Refusal {
    tracing::error!(%error, "request refused: its record is not on disk");
    undecided.end(Outcome::Denied);
    Refusal::plain(RefusalKind::NoRecord)
}

/// The subject of a verified principal.
pub(super) fn subject(principal: &Principal) -> Option<String> {
    match &principal.identity {
        Identity::Verified { subject, .. } => Some(subject.clone()),
        Identity::Unidentified { .. } => None,
    }
}
