//! The door of the room: connections to agents, agents to principals.
//!
//! One task per token file looks each second; one task per issuer keeps its keys. Requests read a ready answer
//! under a short lock and compare one deadline. An agent's stalled process can exhaust only its own slots.
//! INVARIANT: the deadline is checked at every call, so that a stuck task cannot keep an identity alive.
//! Known limits: tasks end when the daemon drains; from then on tokens run out but are not renewed.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::spawn_blocking;

use crate::clock::Clock;
use crate::model::{AgentName, Evidence, Identity, Principal, Unidentified};
use crate::shutdown::Shutdown;

use super::Settings;
use super::cgroup::Cgroups;
use super::error::IdentityError;
use super::issuer::Issuer;
use super::process::{self, Digests};
use super::steps::Steps;
use super::watcher::{Slot, Watcher};

/// What the kernel stamped on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessOrigin {
    /// Cgroup of the caller.
    pub cgroup_id: u64,
    /// The cgroup right below the agents' parent that the caller is in.
    pub account: u64,
    /// Process id (thread group) of the caller.
    pub pid: u32,
    /// User id of the caller.
    pub uid: u32,
    /// When `connect()` was called, in nanoseconds since boot with sleep: no honest caller started later.
    pub connected_ns: u64,
    /// Cookie of the network namespace it connected in, if that is not the host's.
    pub netns: Option<u64>,
}

/// A connection's agent and the evidence about its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// The configured agent.
    pub agent: AgentName,
    /// What the kernel says about the process.
    pub evidence: Evidence,
}

/// One agent, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentStatus {
    /// Who it is at this moment.
    pub principal: Arc<Principal>,
    /// Why it has no identity, or why its identity will not be renewed; for the operator, not for the agent.
    pub problem: Option<String>,
}

/// An agent's identity changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Who it is from now on.
    pub principal: Arc<Principal>,
}

/// Resolves connections and agents. Clones share everything; the tasks end with the last clone.
#[derive(Debug, Clone)]
pub struct Resolver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cgroups: Arc<Cgroups>,
    steps: Steps,
    digests: Arc<Digests>,
    searches: Arc<Semaphore>,
    slots: BTreeMap<AgentName, Arc<Slot>>,
    changes: broadcast::Sender<Change>,
    clock: Clock,
    /// Closes when the last clone is gone.
    _alive: watch::Sender<()>,
}

impl Resolver {
    /// Starts the tasks and waits until every issuer was asked and every token looked at once. An issuer that is
    /// down is no error: its agents stay unidentified until it is up.
    ///
    /// # Errors
    /// If there is no cgroup2 hierarchy, or an issuer's address or CA file cannot be used.
    pub async fn start(
        settings: &Settings,
        clock: &Clock,
        shutdown: &Shutdown,
    ) -> Result<Self, IdentityError> {
        let cgroups = Cgroups::open(settings)?;
        let alive = watch::Sender::new(());
        let issuers = start_issuers(settings, clock, &alive, shutdown).await?;
        let changes = broadcast::Sender::new(CHANGES_KEPT);
        let mut slots = BTreeMap::new();
        for agent in &settings.agents {
            let issuer = agent.source.as_ref().and_then(|source| {
                let key = (source.issuer.clone(), source.ca_file.clone());
                issuers.get(&key).map(|issuer| (source.clone(), issuer.clone()))
            });
            let slot = Arc::new(Slot::new(&agent.name));
            slots.insert(agent.name.clone(), Arc::clone(&slot));
            if let Some((source, issuer)) = issuer {
                let mut watcher = Watcher::new(slot, source, issuer, changes.clone(), clock.clone());
                watcher.look().await;
                watcher.start(alive.subscribe(), shutdown);
            }
        }
        Ok(Self(Arc::new(Inner {
            cgroups: Arc::new(cgroups),
            steps: Steps::new(&settings.steps, &settings.parent),
            digests: Arc::new(Digests::default()),
            searches: Arc::new(Semaphore::new(SEARCHES_MAX)),
            slots,
            changes,
            clock: clock.clone(),
            _alive: alive,
        })))
    }

    /// The agent and the evidence behind a connection. Cancel-safe; a dropped call frees its slot when the
    /// system answers.
    ///
    /// # Errors
    /// Whenever the connection cannot be laid at the door of exactly one agent: the caller must refuse it.
    pub async fn identify(&self, origin: &ProcessOrigin) -> Result<Identified, IdentityError> {
        let stalled = || IdentityError::Stalled { pid: origin.pid, after: EVIDENCE_TIMEOUT };
        let work = async {
            let cgroup = self.locate(*origin).await?;
            let agent = self.0.cgroups.agent_of(&cgroup)?;
            let slot = self.0.slots.get(&agent);
            let slot = slot.ok_or_else(|| IdentityError::NoAgent { cgroup: cgroup.display().to_string() })?;
            let permit = Arc::clone(slot.gathering()).acquire_owned().await.ok().ok_or_else(stalled)?;
            let (origin, digests) = (*origin, Arc::clone(&self.0.digests));
            let steps = self.0.steps.clone();
            let evidence = spawn_blocking(move || {
                // Held by the thread, not by the caller: a thread that hangs must keep counting.
                let _permit = permit;
                let evidence = process::gather(&origin, &cgroup, &digests)?;
                Ok::<_, IdentityError>(Evidence { step: steps.of(&cgroup), ..evidence })
            })
            .await??;
            Ok(Identified { agent, evidence })
        };
        tokio::time::timeout(EVIDENCE_TIMEOUT, work).await.ok().ok_or_else(stalled)?
    }

    /// The agent behind a cgroup, and that cgroup's path, without looking at the process: for questions that are too many to
    /// look closely at each. Cancel-safe.
    ///
    /// # Errors
    /// Whenever the cgroup cannot be laid at the door of exactly one agent.
    pub async fn agent_of(&self, origin: &ProcessOrigin) -> Result<(AgentName, PathBuf), IdentityError> {
        let stalled = || IdentityError::Stalled { pid: origin.pid, after: EVIDENCE_TIMEOUT };
        let cgroup =
            tokio::time::timeout(EVIDENCE_TIMEOUT, self.locate(*origin)).await.ok().ok_or_else(stalled)??;
        let agent = self.0.cgroups.agent_of(&cgroup)?;
        Ok((agent, cgroup))
    }

    async fn locate(&self, origin: ProcessOrigin) -> Result<PathBuf, IdentityError> {
        let stalled = || IdentityError::Stalled { pid: origin.pid, after: EVIDENCE_TIMEOUT };
        let permit = Arc::clone(&self.0.searches).acquire_owned().await.ok().ok_or_else(stalled)?;
        let cgroups = Arc::clone(&self.0.cgroups);
        spawn_blocking(move || {
            let _permit = permit;
            cgroups.path_of(origin.cgroup_id, process::cgroup_hint(origin.pid).as_deref())
        })
        .await?
    }

    /// Ids of the cgroups that are an agent's: the topmost of each, so that everything of the agent lies below one of them.
    /// Blocks on the file system.
    #[must_use]
    pub fn cgroups_of(&self, agent: &AgentName) -> Vec<u64> {
        self.0.cgroups.of_agent(agent)
    }

    /// The agent of a cgroup, if it can be told without a search: from what is remembered, from the process, or from the account that
    /// the kernel named, which outlives both. For records of denials, of which there may be many; nothing is decided by it.
    #[must_use]
    pub fn agent_near(&self, cgroup_id: u64, account: Option<u64>, pid: u32) -> Option<AgentName> {
        let Inner { cgroups, .. } = &*self.0;
        let hint = process::cgroup_hint(pid);
        let near = cgroups.path_if_near(cgroup_id, hint.as_deref());
        let path = near.or_else(|| cgroups.account_path(account?))?;
        cgroups.agent_of(&path).ok()
    }

    /// Whether an agent of this name is configured.
    #[must_use]
    pub fn knows(&self, agent: &AgentName) -> bool {
        self.0.slots.contains_key(agent)
    }

    /// Forgets what launchers said of runs whose cgroup is gone. Blocks on two small directories.
    pub fn forget_steps(&self) {
        self.0.steps.forget_gone(self.0.cgroups.mount());
    }

    /// Who an agent is at this moment. Never waits; cheap enough for every request.
    #[must_use]
    pub fn principal(&self, agent: &AgentName) -> Arc<Principal> {
        match self.0.slots.get(agent) {
            Some(slot) => slot.principal(self.0.clock.now()),
            None => Arc::new(Principal {
                agent: agent.clone(),
                identity: Identity::Unidentified { reason: Unidentified::NoSource },
            }),
        }
    }

    /// All agents, in the order of their names.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentStatus> {
        let now = self.0.clock.now();
        let status =
            |slot: &Arc<Slot>| AgentStatus { principal: slot.principal(now), problem: slot.problem() };
        self.0.slots.values().map(status).collect()
    }

    /// Changes of identity from now on. A receiver that lags must read [`Resolver::agents`] and go on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.0.changes.subscribe()
    }
}

type IssuerKey = (String, Option<PathBuf>);

async fn start_issuers(
    settings: &Settings,
    clock: &Clock,
    alive: &watch::Sender<()>,
    shutdown: &Shutdown,
) -> Result<HashMap<IssuerKey, Issuer>, IdentityError> {
    let mut issuers = HashMap::new();
    for source in settings.agents.iter().filter_map(|agent| agent.source.as_ref()) {
        let key = (source.issuer.clone(), source.ca_file.clone());
        if let Entry::Vacant(place) = issuers.entry(key) {
            place.insert(Issuer::new(&source.issuer, source.ca_file.as_deref(), clock)?);
        }
    }
    for issuer in issuers.values() {
        issuer.start(alive.subscribe(), shutdown);
    }
    let all_asked = async {
        for issuer in issuers.values() {
            issuer.asked().await;
        }
    };
    if tokio::time::timeout(FIRST_FETCH_TIMEOUT, all_asked).await.is_err() {
        tracing::warn!("starting before every issuer was asked");
    }
    Ok(issuers)
}

/// Hashing the largest accepted executable from a cold disk takes a few seconds.
const EVIDENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// Two documents, each with its own limit of five seconds, and a little.
const FIRST_FETCH_TIMEOUT: Duration = Duration::from_secs(11);
/// Threads that look for cgroups at a time; a search is rare, a check of a remembered path takes microseconds.
const SEARCHES_MAX: usize = 8;
/// More than one change of every agent in a burst.
const CHANGES_KEPT: usize = 256;
