//! Judges the file's meaning and builds each room's `Settings` from it.
//!
//! Refuses what would be ambiguous at run time: two agents, resources or approvers that could be taken for each other.
//! Defaults stand here, each with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::Problems;
use super::reader::At;
use super::{Config, DefaultVerdict, file, names, resources, value};
use crate::identity::{AgentMatch, AgentSettings, TokenSource};
use crate::intercept::{Ingress, UnixSockets};
use crate::model::{AgentName, Resource};
use crate::{approval, audit, identity, intercept, jail, policy, sql, tls};

const STATE_DIR: &str = "/var/lib/chaperone";
const RUNTIME_DIR: &str = "/run/chaperone";
const POLICY_DIR: &str = "/etc/chaperone/policies";
const PIN_DIR: &str = "/sys/fs/bpf/chaperone";
const PARENT: &str = "agents.slice";
/// Beside PostgreSQL's own port, so that a capture shows at a glance what it is.
const PORT: u16 = 15432;
/// Ports from here on are given to outgoing connections by Linux's default, and could be taken when we start.
const PORT_END: u64 = 32768;
/// Ports below this belong to the system's services.
const PORT_START: u64 = 1024;
/// The longest life that common issuers give a workload's token.
const LIFETIME_MAX: Duration = Duration::from_hours(24);
/// Short enough that a crash of the machine loses next to nothing, long enough to share one disk write.
const SYNC_EVERY: Duration = Duration::from_millis(20);
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// One parses while another is restarted.
const WORKERS: usize = 2;
const WORKERS_MAX: u64 = 64;
/// More than an agent's pools hold open, and few enough that a hundred agents fit under a service manager's limit.
const CONNECTIONS_PER_AGENT: usize = 1000;
const CONNECTIONS_PER_AGENT_MAX: u64 = 65_536;
/// A shell that starts a pipe has four.
const PROCESSES_MIN: u32 = 8;
/// The most process ids that a kernel gives.
const PROCESSES_MAX: u32 = 4_194_304;

/// Builds the configuration; `None` when something was reported that leaves a hole in it.
pub(super) fn config(file: file::File, problems: &mut Problems) -> Option<Config> {
    let state_dir = dir("state_dir", file.state_dir.as_ref(), STATE_DIR, problems);
    let runtime_dir = dir("runtime_dir", file.runtime_dir.as_ref(), RUNTIME_DIR, problems);
    let policy_dir = dir("policy_dir", file.policy_dir.as_ref(), POLICY_DIR, problems);
    let default = default_verdict(file.default.as_ref(), problems);
    let intercept = intercept(&file.intercept, problems);
    let port = intercept.as_ref().map(|settings| settings.port);
    let (dns, dns_port) = names::settings(&file.dns, port, problems);
    let jail = jail(&file.jail, &file.agents, problems);
    let agents = agents(&file.agents, problems);
    let resources = resources::build(&file.resources, problems);
    let approvers = approvers(&file.approvers, problems);
    let workers = workers(file.workers.as_ref(), problems);
    let connections_per_agent = connections_per_agent(file.connections_per_agent.as_ref(), problems);
    let metrics = file.metrics.as_ref().map(|text| value::metrics(text, problems));
    let program = std::env::current_exe()
        .map_err(|error| problems.add(0, format!("cannot find this program's own path: {error}")))
        .ok();
    let (state_dir, runtime_dir, policy_dir) = (state_dir?, runtime_dir?, policy_dir?);
    let intercept = intercept::Settings { dns_port: dns_port?, ..intercept? };
    let parent = intercept.parent.clone();
    let own = [&state_dir, &runtime_dir, &policy_dir, &intercept.pin_dir].map(Clone::clone);
    let hidden = own.into_iter().chain(secrets(&resources)).collect();
    Some(Config {
        jail: jail::Settings { hidden, ..jail? },
        policy: policy::Settings { dir: policy_dir },
        default: default?,
        unregistered: (default? == DefaultVerdict::Observe).then(|| Arc::new(resources::unregistered())),
        identity: identity::Settings { agents, parent, steps: runtime_dir.join("steps") },
        resources,
        dns: dns?,
        intercept,
        audit: audit::Settings {
            dir: state_dir.join("audit"),
            sync_every: file.sync_every.unwrap_or(SYNC_EVERY),
            checkpoint_every: file.checkpoint_every.unwrap_or(CHECKPOINT_EVERY),
        },
        approval: approval::Settings { dir: state_dir.join("tickets"), approvers },
        tls: tls::Settings { dir: state_dir.join("ca") },
        connections_per_agent: connections_per_agent?,
        sql: sql::Settings { program: program?, workers: workers? },
        metrics: match metrics {
            Some(metrics) => Some(metrics?),
            None => None,
        },
        state_dir,
        runtime_dir,
    })
}

fn dir(key: &str, text: Option<&At<String>>, default: &str, problems: &mut Problems) -> Option<PathBuf> {
    match text {
        Some(text) => value::path(key, text, problems),
        None => Some(PathBuf::from(default)),
    }
}

/// What is captured; every mistake is reported before a hole is found.
fn intercept(file: &file::Intercept, problems: &mut Problems) -> Option<intercept::Settings> {
    let pin_dir = dir("pin_dir", file.pin_dir.as_ref(), PIN_DIR, problems);
    let parent = match &file.parent {
        Some(text) => value::cgroup("parent", text, problems),
        None => Some(PARENT.to_owned()),
    };
    let port = port(file.port.as_ref(), problems);
    // On unless refused: it costs a host's other connections one comparison, and closes a way around.
    let sentinel = match &file.sentinel {
        Some(flag) if !flag.value => intercept::Sentinel::Off,
        Some(_) | None => intercept::Sentinel::On,
    };
    let security_hooks = match &file.security_hooks {
        Some(flag) if !flag.value => intercept::SecurityHooks::Off,
        Some(_) | None => intercept::SecurityHooks::On,
    };
    let unix_sockets = unix_sockets(file.unix_sockets.as_ref(), problems);
    let ingress = ingress(file.ingress.as_ref(), problems);
    Some(intercept::Settings {
        parent: parent?.into(),
        pin_dir: pin_dir?,
        port: port?,
        // Judged with the resolver's own keys.
        dns_port: None,
        sentinel,
        unix_sockets: unix_sockets?,
        ingress: ingress?,
        security_hooks,
    })
}

/// The jail, but for what it hides.
fn jail(file: &file::Jail, agents: &[file::Agent], problems: &mut Problems) -> Option<jail::Settings> {
    let launchers = launchers(agents, problems);
    let accounts = accounts(agents, problems);
    let processes = processes(agents, problems);
    let keep = file.keep.iter().map(|text| kept(text, problems)).collect::<Vec<_>>();
    Some(jail::Settings {
        keep: keep.into_iter().collect::<Option<_>>()?,
        // Private unless shared: others' sockets and half-written files lie there.
        tmp: match &file.private_tmp {
            Some(flag) if !flag.value => jail::Tmp::Shared,
            Some(_) | None => jail::Tmp::Private,
        },
        // Refused unless allowed: no filter sees what it does.
        uring: match &file.io_uring {
            Some(flag) if flag.value => jail::Uring::Allowed,
            Some(_) | None => jail::Uring::Refused,
        },
        hidden: Vec::new(),
        launchers,
        accounts,
        processes,
    })
}

fn default_verdict(text: Option<&At<String>>, problems: &mut Problems) -> Option<DefaultVerdict> {
    let Some(text) = text else { return Some(DefaultVerdict::Deny) };
    match text.value.as_str() {
        "deny" => Some(DefaultVerdict::Deny),
        "observe" => Some(DefaultVerdict::Observe),
        other => {
            problems.add(text.line, format!("`default` must be \"deny\" or \"observe\", not `{other}`"));
            None
        }
    }
}

/// Denied unless the operator says otherwise: what an agent reaches by a unix socket, it reaches past every policy.
fn unix_sockets(text: Option<&At<String>>, problems: &mut Problems) -> Option<UnixSockets> {
    let Some(text) = text else { return Some(UnixSockets::DeniedUnlessRoot) };
    match text.value.as_str() {
        "open" => Some(UnixSockets::Open),
        "audited" => Some(UnixSockets::Audited),
        "denied-unless-root" => Some(UnixSockets::DeniedUnlessRoot),
        "denied" => Some(UnixSockets::Denied),
        other => {
            let message = format!(
                "`unix_sockets` must be \"open\", \"audited\", \"denied-unless-root\" or \"denied\", not `{other}`"
            );
            problems.add(text.line, message);
            None
        }
    }
}

/// Closed unless the operator says otherwise: what reaches an agent can tell it what to do.
fn ingress(text: Option<&At<String>>, problems: &mut Problems) -> Option<Ingress> {
    match text.map(|text| (text.line, text.value.as_str())) {
        None | Some((_, "closed")) => Some(Ingress::Closed),
        Some((_, "open")) => Some(Ingress::Open),
        Some((line, other)) => {
            problems.add(line, format!("`ingress` must be \"open\" or \"closed\", not `{other}`"));
            None
        }
    }
}

fn port(port: Option<&At<u64>>, problems: &mut Problems) -> Option<u16> {
    let Some(port) = port else { return Some(PORT) };
    number_of_port(port, problems)
}

/// A port that is neither a system service's nor given to outgoing connections.
pub(super) fn number_of_port(port: &At<u64>, problems: &mut Problems) -> Option<u16> {
    let fits = (PORT_START..PORT_END).contains(&port.value);
    if !fits {
        problems
            .add(port.line, format!("`port` must be from {PORT_START} to {}", PORT_END.saturating_sub(1)));
    }
    u16::try_from(port.value).ok().filter(|_| fits)
}

fn workers(workers: Option<&At<u64>>, problems: &mut Problems) -> Option<usize> {
    bounded("workers", workers, (WORKERS, WORKERS_MAX), problems)
}

fn connections_per_agent(number: Option<&At<u64>>, problems: &mut Problems) -> Option<usize> {
    let bounds = (CONNECTIONS_PER_AGENT, CONNECTIONS_PER_AGENT_MAX);
    bounded("connections_per_agent", number, bounds, problems)
}

/// A number from 1 to a largest one, or what it is where nothing is said.
fn bounded(
    key: &str,
    number: Option<&At<u64>>,
    (default, largest): (usize, u64),
    problems: &mut Problems,
) -> Option<usize> {
    let Some(number) = number else { return Some(default) };
    let fits = (1..=largest).contains(&number.value);
    if !fits {
        problems.add(number.line, format!("`{key}` must be from 1 to {largest}"));
    }
    usize::try_from(number.value).ok().filter(|_| fits)
}

/// Remembers where each thing was first named, and reports the second time.
pub(super) struct Once<K>(BTreeMap<K, usize>);

impl<K: Ord + Hash> Once<K> {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn claim(&mut self, key: K, line: usize, what: &str, problems: &mut Problems) {
        if let Some(first) = self.0.get(&key) {
            problems.add(line, format!("{what} is already used on line {first}"));
        } else {
            self.0.insert(key, line);
        }
    }
}

fn agents(raw: &[file::Agent], problems: &mut Problems) -> Vec<AgentSettings> {
    let (mut names, mut matched, mut tokens) = (Once::new(), Once::new(), Once::new());
    let mut agents = Vec::new();
    for agent in raw {
        let name = value::name("an agent", &agent.name, problems);
        names.claim(
            &agent.name.value,
            agent.name.line,
            &format!("agent name `{}`", agent.name.value),
            problems,
        );
        let matches =
            agent.matches.as_ref().and_then(|raw| agent_match(raw, problems).map(|found| (found, raw.line)));
        if let Some((found, line)) = &matches {
            let key = match found {
                AgentMatch::Unit(unit) => format!("unit {unit}"),
                AgentMatch::Cgroup(glob) => format!("cgroup {glob}"),
            };
            matched.claim(key.clone(), *line, &format!("match `{key}`"), problems);
        }
        let source = agent.identity.as_ref().and_then(|raw| {
            // One token in two cgroups is treated as theft.
            let what = format!("token file `{}`", raw.token_file.value);
            tokens.claim(&raw.token_file.value, raw.token_file.line, &what, problems);
            token_source(raw, problems)
        });
        if let Some(name) = name {
            let matches = matches.map(|(found, _)| found);
            agents.push(AgentSettings { name: AgentName(name), matches, source });
        }
    }
    agents
}

/// A path that stays visible in jails.
fn kept(text: &At<String>, problems: &mut Problems) -> Option<PathBuf> {
    let path = value::path("keep", text, problems)?;
    if path.parent().is_none() {
        problems.add(text.line, "`keep` names what stays of `/run`, `/tmp` and sockets, not all there is");
        return None;
    }
    Some(path)
}

/// Who may start which agent without root. Root always may, and is nobody to be named.
fn launchers(raw: &[file::Agent], problems: &mut Problems) -> BTreeMap<AgentName, BTreeSet<u32>> {
    let mut launchers = BTreeMap::new();
    for agent in raw {
        let mut accounts = BTreeSet::new();
        for text in &agent.run_by {
            match value::user(text, problems) {
                Some(0) => problems.add(text.line, "`run_by` names accounts without root; root may always"),
                Some(uid) => {
                    accounts.insert(uid);
                }
                None => {}
            }
        }
        launchers.insert(AgentName(agent.name.value.clone()), accounts);
    }
    launchers
}

/// Under which account `run` starts each agent for root, where it is said. One that comes to be later may be named by its number.
fn accounts(raw: &[file::Agent], problems: &mut Problems) -> BTreeMap<AgentName, String> {
    let mut accounts = BTreeMap::new();
    for agent in raw {
        let Some(text) = &agent.run_as else { continue };
        match value::user(text, problems) {
            Some(0) => {
                problems
                    .add(text.line, "`run_as` names an account of the agent's own; leave it out for root");
            }
            // As it is written: two names may share a number and not a group.
            Some(_) => {
                accounts.insert(AgentName(agent.name.value.clone()), text.value.clone());
            }
            None => {}
        }
    }
    accounts
}

/// How many processes a run of each agent may have; the program itself and what clears up after it need a few.
fn processes(raw: &[file::Agent], problems: &mut Problems) -> BTreeMap<AgentName, u32> {
    let mut processes = BTreeMap::new();
    for agent in raw {
        let Some(many) = &agent.processes else { continue };
        match u32::try_from(many.value) {
            Ok(number) if (PROCESSES_MIN..=PROCESSES_MAX).contains(&number) => {
                processes.insert(AgentName(agent.name.value.clone()), number);
            }
            Ok(_) | Err(_) => problems.add(
                many.line,
                format!("`processes` must be from {PROCESSES_MIN} to {PROCESSES_MAX}, not {}", many.value),
            ),
        }
    }
    processes
}

/// Files that hold what the daemon shows to servers in an agent's place.
fn secrets(resources: &[Arc<Resource>]) -> Vec<PathBuf> {
    let of = |resource: &Arc<Resource>| {
        let credential = resource.credential.clone();
        [credential.password_file, credential.client_certificate.map(|(_, key)| key)]
    };
    resources.iter().flat_map(of).flatten().collect()
}

fn agent_match(raw: &file::Match, problems: &mut Problems) -> Option<AgentMatch> {
    match (&raw.unit, &raw.cgroup) {
        (Some(unit), None) => {
            let fits = !unit.value.contains('/') && unit.value.contains('.');
            if !fits {
                let message =
                    format!("`unit` must be a systemd unit such as reporter.service, not `{}`", unit.value);
                problems.add(unit.line, message);
            }
            fits.then(|| AgentMatch::Unit(unit.value.clone()))
        }
        (None, Some(cgroup)) => value::cgroup("cgroup", cgroup, problems).map(AgentMatch::Cgroup),
        (Some(_), Some(_)) | (None, None) => {
            problems.add(raw.line, "`match` needs exactly one of `unit` and `cgroup`");
            None
        }
    }
}

fn token_source(raw: &file::Identity, problems: &mut Problems) -> Option<TokenSource> {
    let issuer = value::issuer(&raw.issuer, problems);
    let token_file = value::path("token_file", &raw.token_file, problems);
    let ca_file = optional_path("ca_file", raw.ca_file.as_ref(), problems);
    Some(TokenSource {
        issuer: issuer?,
        audience: raw.audience.value.clone(),
        token_file: token_file?,
        ca_file: ca_file?,
        subject: raw.subject.as_ref().map(|text| text.value.clone()),
        groups_claim: raw
            .groups_claim
            .as_ref()
            .map_or_else(|| "groups".to_owned(), |text| text.value.clone()),
        lifetime_max: raw.lifetime_max.unwrap_or(LIFETIME_MAX),
    })
}

/// `None` when the path was given and wrong; `Some(None)` when it was not given.
pub(super) fn optional_path(
    key: &str,
    text: Option<&At<String>>,
    problems: &mut Problems,
) -> Option<Option<PathBuf>> {
    match text {
        Some(text) => value::path(key, text, problems).map(Some),
        None => Some(None),
    }
}

fn approvers(raw: &[file::Approver], problems: &mut Problems) -> Vec<approval::Approver> {
    let (mut names, mut uids) = (Once::new(), Once::new());
    let mut approvers = Vec::new();
    for approver in raw {
        let name = value::name("an approver", &approver.name, problems);
        let what = format!("approver name `{}`", approver.name.value);
        names.claim(&approver.name.value, approver.name.line, &what, problems);
        let uid = value::user(&approver.user, problems);
        if let Some(uid) = uid {
            // Otherwise one person could make a quorum of two.
            uids.claim(uid, approver.user.line, &format!("account `{}`", approver.user.value), problems);
        }
        let groups: BTreeSet<String> = approver.groups.iter().map(|group| group.value.clone()).collect();
        if let (Some(name), Some(uid)) = (name, uid) {
            approvers.push(approval::Approver { name, uid, groups });
        }
    }
    approvers
}
