//! The file as written: every section with its keys and their lines, before anything is judged.
//!
//! Reports wrong types, missing keys and unknown keys. Meaning (names, addresses, users) is judged in `build`.

use std::time::Duration;

use super::error::Problems;
use super::reader::{At, Section};

/// The whole file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) state_dir: Option<At<String>>,
    pub(super) runtime_dir: Option<At<String>>,
    pub(super) policy_dir: Option<At<String>>,
    pub(super) default: Option<At<String>>,
    pub(super) agents: Vec<Agent>,
    pub(super) resources: Vec<Target>,
    pub(super) approvers: Vec<Approver>,
    pub(super) intercept: Intercept,
    pub(super) jail: Jail,
    pub(super) dns: Dns,
    pub(super) sync_every: Option<Duration>,
    pub(super) checkpoint_every: Option<Duration>,
    pub(super) workers: Option<At<u64>>,
    pub(super) connections_per_agent: Option<At<u64>>,
    pub(super) metrics: Option<At<String>>,
}

/// `[[agent]]`.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) name: At<String>,
    pub(super) matches: Option<Match>,
    pub(super) run_by: Vec<At<String>>,
    pub(super) run_as: Option<At<String>>,
    pub(super) processes: Option<At<u64>>,
    pub(super) identity: Option<Identity>,
}

/// `match = { unit = ".." }` or `{ cgroup = ".." }`.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) line: usize,
    pub(super) unit: Option<At<String>>,
    pub(super) cgroup: Option<At<String>>,
}

/// `identity = { .. }`.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) issuer: At<String>,
    pub(super) audience: At<String>,
    pub(super) token_file: At<String>,
    pub(super) ca_file: Option<At<String>>,
    pub(super) subject: Option<At<String>>,
    pub(super) groups_claim: Option<At<String>>,
    pub(super) lifetime_max: Option<Duration>,
}

/// `[[resource]]`.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) name: At<String>,
    pub(super) protocol: At<String>,
    pub(super) addresses: Vec<At<String>>,
    pub(super) labels: Vec<(String, At<String>)>,
    pub(super) line: usize,
    pub(super) credential: Option<Credential>,
    pub(super) tls: Option<Tls>,
    pub(super) hold: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) agent_auth: Option<At<String>>,
    pub(super) sync_reads: Option<At<bool>>,
}

/// `credential = { .. }`.
#[derive(Debug)]
pub(super) struct Credential {
    pub(super) line: usize,
    pub(super) user: At<String>,
    pub(super) password_file: Option<At<String>>,
    pub(super) client_cert_file: Option<At<String>>,
    pub(super) client_key_file: Option<At<String>>,
}

/// `tls = { .. }`.
#[derive(Debug, Default)]
pub(super) struct Tls {
    pub(super) line: usize,
    pub(super) mode: Option<At<String>>,
    pub(super) ca_file: Option<At<String>>,
    pub(super) server_name: Option<At<String>>,
}

/// `[[approver]]`.
#[derive(Debug)]
pub(super) struct Approver {
    pub(super) name: At<String>,
    pub(super) user: At<String>,
    pub(super) groups: Vec<At<String>>,
}

/// `[intercept]`.
#[derive(Debug, Default)]
pub(super) struct Intercept {
    pub(super) parent: Option<At<String>>,
    pub(super) port: Option<At<u64>>,
    pub(super) pin_dir: Option<At<String>>,
    pub(super) sentinel: Option<At<bool>>,
    pub(super) unix_sockets: Option<At<String>>,
    pub(super) ingress: Option<At<String>>,
    pub(super) security_hooks: Option<At<bool>>,
}

/// `[jail]`.
#[derive(Debug, Default)]
pub(super) struct Jail {
    pub(super) keep: Vec<At<String>>,
    pub(super) private_tmp: Option<At<bool>>,
    pub(super) io_uring: Option<At<bool>>,
}

/// `[dns]`.
#[derive(Debug, Default)]
pub(super) struct Dns {
    pub(super) enabled: Option<At<bool>>,
    pub(super) port: Option<At<u64>>,
    pub(super) upstreams: Option<Vec<At<String>>>,
    pub(super) denial: Option<At<String>>,
}

/// An agent's tool gives up after a minute or so; an hour is for people at a prompt.
const HOLD_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));
/// Less than a second ends what merely thinks; more than a day keeps what is forgotten.
const IDLE_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));
/// A token that lives longer than a week is not short-lived.
const LIFETIME_BOUNDS: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(168));
/// A plain read may be lost with the machine for at most this long.
const SYNC_BOUNDS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
const CHECKPOINT_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_hours(1));

impl File {
    /// Reads the whole file; `None` when a section is so incomplete that its meaning cannot be judged.
    pub(super) fn read(text: &str, problems: &mut Problems) -> Option<Self> {
        let mut root = Section::root(text, problems);
        let state_dir = root.text("state_dir", problems);
        let runtime_dir = root.text("runtime_dir", problems);
        let policy_dir = root.text("policy_dir", problems);
        let default = root.text("default", problems);
        let agents = collect(root.sections("agent", problems), problems, agent);
        let resources = collect(root.sections("resource", problems), problems, target);
        let approvers = collect(root.sections("approver", problems), problems, approver);
        let intercept = root.section("intercept", problems).map(|section| intercept(section, problems));
        let jail = root.section("jail", problems).map(|section| jail(section, problems));
        let dns = root.section("dns", problems).map(|section| dns(section, problems));
        let (mut sync_every, mut checkpoint_every) = (None, None);
        if let Some(mut section) = root.section("audit", problems) {
            sync_every = section.duration("sync_every", SYNC_BOUNDS, problems);
            checkpoint_every = section.duration("checkpoint_every", CHECKPOINT_BOUNDS, problems);
            section.finish(problems);
        }
        let mut workers = None;
        if let Some(mut section) = root.section("sql", problems) {
            workers = section.number("workers", problems);
            section.finish(problems);
        }
        let mut connections_per_agent = None;
        if let Some(mut section) = root.section("limits", problems) {
            connections_per_agent = section.number("connections_per_agent", problems);
            section.finish(problems);
        }
        let mut metrics = None;
        if let Some(mut section) = root.section("metrics", problems) {
            metrics = section.required("listen", problems);
            section.finish(problems);
        }
        root.finish(problems);
        Some(Self {
            state_dir,
            runtime_dir,
            policy_dir,
            default,
            agents,
            resources,
            approvers,
            intercept: intercept.unwrap_or_default(),
            jail: jail.unwrap_or_default(),
            dns: dns.unwrap_or_default(),
            sync_every,
            checkpoint_every,
            workers,
            connections_per_agent,
            metrics,
        })
    }
}

fn intercept(mut section: Section<'_>, problems: &mut Problems) -> Intercept {
    let read = Intercept {
        parent: section.text("parent", problems),
        port: section.number("port", problems),
        pin_dir: section.text("pin_dir", problems),
        sentinel: section.flag("sentinel", problems),
        unix_sockets: section.text("unix_sockets", problems),
        ingress: section.text("ingress", problems),
        security_hooks: section.flag("security_hooks", problems),
    };
    section.finish(problems);
    read
}

fn jail(mut section: Section<'_>, problems: &mut Problems) -> Jail {
    let read = Jail {
        keep: section.texts("keep", problems).unwrap_or_default(),
        private_tmp: section.flag("private_tmp", problems),
        io_uring: section.flag("io_uring", problems),
    };
    section.finish(problems);
    read
}

fn dns(mut section: Section<'_>, problems: &mut Problems) -> Dns {
    let read = Dns {
        enabled: section.flag("enabled", problems),
        port: section.number("port", problems),
        upstreams: section.texts("upstreams", problems),
        denial: section.text("denial", problems),
    };
    section.finish(problems);
    read
}

/// Reads every section and finishes it; what could not be read has been reported.
fn collect<'i, T>(
    sections: Vec<Section<'i>>,
    problems: &mut Problems,
    read: impl Fn(&mut Section<'i>, &mut Problems) -> Option<T>,
) -> Vec<T> {
    let mut all = Vec::new();
    for mut section in sections {
        all.extend(read(&mut section, problems));
        section.finish(problems);
    }
    all
}

fn agent(section: &mut Section<'_>, problems: &mut Problems) -> Option<Agent> {
    let name = section.required("name", problems);
    let matches = section.section("match", problems).map(|mut section| {
        let matches = Match {
            line: section.line,
            unit: section.text("unit", problems),
            cgroup: section.text("cgroup", problems),
        };
        section.finish(problems);
        matches
    });
    let identity = section.section("identity", problems).and_then(|mut section| {
        let identity = identity(&mut section, problems);
        section.finish(problems);
        identity
    });
    let run_by = section.texts("run_by", problems).unwrap_or_default();
    let run_as = section.text("run_as", problems);
    let processes = section.number("processes", problems);
    Some(Agent { name: name?, matches, run_by, run_as, processes, identity })
}

fn identity(section: &mut Section<'_>, problems: &mut Problems) -> Option<Identity> {
    let issuer = section.required("issuer", problems);
    let audience = section.required("audience", problems);
    let token_file = section.required("token_file", problems);
    let ca_file = section.text("ca_file", problems);
    let subject = section.text("subject", problems);
    let groups_claim = section.text("groups_claim", problems);
    let lifetime_max = section.duration("lifetime_max", LIFETIME_BOUNDS, problems);
    Some(Identity {
        issuer: issuer?,
        audience: audience?,
        token_file: token_file?,
        ca_file,
        subject,
        groups_claim,
        lifetime_max,
    })
}

fn target(section: &mut Section<'_>, problems: &mut Problems) -> Option<Target> {
    let name = section.required("name", problems);
    let protocol = section.required("protocol", problems);
    let addresses = section.texts("addresses", problems).unwrap_or_default();
    if addresses.is_empty() {
        problems.add(section.line, "[[resource]] has no `addresses`");
    }
    let labels = section.pairs("labels", problems);
    let credential = section.section("credential", problems).map(|mut section| {
        let credential = credential(&mut section, problems);
        section.finish(problems);
        credential
    });
    let tls = section.section("tls", problems).map(|mut section| {
        let tls = Tls {
            line: section.line,
            mode: section.text("mode", problems),
            ca_file: section.text("ca_file", problems),
            server_name: section.text("server_name", problems),
        };
        section.finish(problems);
        tls
    });
    let hold = section.duration("hold", HOLD_BOUNDS, problems);
    let idle = section.duration("idle", IDLE_BOUNDS, problems);
    let agent_auth = section.text("agent_auth", problems);
    let sync_reads = section.flag("sync_reads", problems);
    Some(Target {
        name: name?,
        protocol: protocol?,
        addresses,
        labels,
        line: section.line,
        // A credential that is there and incomplete has been reported.
        credential: match credential {
            Some(credential) => Some(credential?),
            None => None,
        },
        tls,
        hold,
        idle,
        agent_auth,
        sync_reads,
    })
}

fn credential(section: &mut Section<'_>, problems: &mut Problems) -> Option<Credential> {
    let line = section.line;
    let user = section.required("user", problems);
    let password_file = section.text("password_file", problems);
    let client_cert_file = section.text("client_cert_file", problems);
    let client_key_file = section.text("client_key_file", problems);
    Some(Credential { line, user: user?, password_file, client_cert_file, client_key_file })
}

fn approver(section: &mut Section<'_>, problems: &mut Problems) -> Option<Approver> {
    let name = section.required("name", problems);
    let user = section.text_or_number("user", problems);
    let groups = section.texts("groups", problems).unwrap_or_default();
    Some(Approver { name: name?, user: user?, groups })
}
