//! Registered targets, judged: protocol, addresses, labels, credential and TLS rules.
//!
//! Refuses two resources that could be taken for each other, keys that mean nothing for a protocol, and the words that stand
//! for destinations nobody registered.

use std::sync::Arc;
use std::time::Duration;

use super::build::{Once, optional_path};
use super::error::Problems;
use super::reader::At;
use super::{file, value};
use crate::model::{AddressPattern, Credential, Protocol, RESOLVER, Resource, UpstreamTls, UpstreamTlsMode};

/// Agents' tools give up after 60 seconds; they should see our answer, not their own timeout.
const HOLD: Duration = Duration::from_secs(50);
/// Longer than common keep-alive intervals, shorter than what firewalls between forget.
const IDLE: Duration = Duration::from_mins(15);

/// Every resource; what is wrong with one is reported and the others are judged all the same.
pub(super) fn build(raw: &[file::Target], problems: &mut Problems) -> Vec<Arc<Resource>> {
    let mut names = Once::new();
    let mut taken: Vec<(AddressPattern, usize, usize)> = Vec::new();
    let mut resources = Vec::new();
    for (index, target) in raw.iter().enumerate() {
        let what = format!("resource name `{}`", target.name.value);
        names.claim(&target.name.value, target.name.line, &what, problems);
        let mut addresses = Vec::new();
        for text in &target.addresses {
            match AddressPattern::parse(&text.value) {
                Ok(pattern) => {
                    let rival =
                        taken.iter().find(|(other, owner, _)| *owner != index && overlap(other, &pattern));
                    if let Some((_, _, line)) = rival {
                        let message = format!(
                            "address `{}` overlaps with another resource's on line {line}",
                            text.value
                        );
                        problems.add(text.line, message);
                    }
                    taken.push((pattern.clone(), index, text.line));
                    addresses.push(pattern);
                }
                Err(error) => problems.add(text.line, error.to_string()),
            }
        }
        if let Some(resource) = resource(target, addresses, problems) {
            resources.push(Arc::new(resource));
        }
    }
    resources
}

fn resource(raw: &file::Target, addresses: Vec<AddressPattern>, problems: &mut Problems) -> Option<Resource> {
    let name = value::name("a resource", &raw.name, problems);
    if name.as_deref() == Some(Resource::UNREGISTERED) {
        problems.add(raw.name.line, "`unregistered` stands for what is no resource; take another name");
    }
    if raw.name.value == RESOLVER {
        let message = format!("`{RESOLVER}` is what policies call the resolver; choose another name");
        problems.add(raw.name.line, message);
    }
    let labels = raw.labels.iter().filter_map(|(key, text)| label(key, text, problems)).collect();
    let hold = raw.hold.unwrap_or(HOLD);
    match raw.protocol.value.as_str() {
        "postgres" => {
            if raw.idle.is_some() {
                problems.add(raw.line, "`idle` is for `protocol = \"opaque\"` alone");
            }
            Some(Resource { name: name?, addresses, labels, hold, ..postgres(raw, problems)? })
        }
        "opaque" => {
            refuse_extras(raw, problems);
            let idle = raw.idle.unwrap_or(IDLE);
            Some(Resource { name: name?, addresses, labels, ..Resource::unregistered(hold, idle) })
        }
        other => {
            let message = format!("protocol `{other}` is not spoken here; known are postgres and opaque");
            problems.add(raw.protocol.line, message);
            None
        }
    }
}

/// What stands for every destination that is no resource.
pub(super) fn unregistered() -> Resource {
    Resource::unregistered(HOLD, IDLE)
}

fn label(key: &str, text: &At<String>, problems: &mut Problems) -> Option<(String, String)> {
    if key == Resource::REGISTERED {
        problems.add(text.line, "label `registered` tells what is no resource; take another name");
        return None;
    }
    value::label(key, text, problems)
}

/// Where nobody reads the bytes, nothing can be put into them.
fn refuse_extras(raw: &file::Target, problems: &mut Problems) {
    let lines = [
        ("credential", raw.credential.as_ref().map(|credential| credential.line)),
        ("tls", raw.tls.as_ref().map(|tls| tls.line)),
        ("agent_auth", raw.agent_auth.as_ref().map(|text| text.line)),
        ("sync_reads", raw.sync_reads.as_ref().map(|flag| flag.line)),
    ];
    for (key, line) in lines {
        if let Some(line) = line {
            problems.add(line, format!("`{key}` has no effect with `protocol = \"opaque\"`"));
        }
    }
}

/// The parts that are PostgreSQL's.
fn postgres(raw: &file::Target, problems: &mut Problems) -> Option<Resource> {
    let tls = upstream_tls(raw.tls.as_ref(), problems);
    let credential = match &raw.credential {
        Some(raw) => credential(raw, tls.as_ref(), problems),
        None => {
            problems.add(raw.line, "[[resource]] has no `credential`");
            None
        }
    };
    let agent_scram = match raw.agent_auth.as_ref().map(|text| (text.value.as_str(), text.line)) {
        None | Some(("none", _)) => Some(false),
        Some(("scram", _)) => Some(true),
        Some((other, line)) => {
            problems.add(line, format!("`agent_auth` must be \"none\" or \"scram\", not `{other}`"));
            None
        }
    };
    Some(Resource {
        protocol: Protocol::Postgres,
        credential: credential?,
        tls: tls?,
        agent_scram: agent_scram?,
        sync_reads: raw.sync_reads.as_ref().is_some_and(|flag| flag.value),
        ..unregistered()
    })
}

fn upstream_tls(raw: Option<&file::Tls>, problems: &mut Problems) -> Option<UpstreamTls> {
    let Some(raw) = raw else {
        return Some(UpstreamTls { mode: UpstreamTlsMode::VerifyFull, ca_file: None, server_name: None });
    };
    let mode = match raw.mode.as_ref().map(|text| (text.value.as_str(), text.line)) {
        None | Some(("verify-full", _)) => Some(UpstreamTlsMode::VerifyFull),
        Some(("verify-ca", _)) => Some(UpstreamTlsMode::VerifyCa),
        Some(("require", _)) => Some(UpstreamTlsMode::Require),
        Some(("disable", _)) => Some(UpstreamTlsMode::Disable),
        Some((other, line)) => {
            let message = format!("`mode` must be disable, require, verify-ca or verify-full, not `{other}`");
            problems.add(line, message);
            None
        }
    };
    // A CA that nobody checks against is a belief that is wrong.
    if let (Some(UpstreamTlsMode::Disable | UpstreamTlsMode::Require), Some(ca_file)) = (mode, &raw.ca_file) {
        problems
            .add(ca_file.line, "`ca_file` has no effect with this `mode`; write verify-ca or verify-full");
    }
    if let Some(name) = &raw.server_name
        && (name.value.contains(['/', ':', '*']) || name.value.contains(char::is_whitespace))
    {
        problems.add(name.line, format!("`server_name` must be a host name, not `{}`", name.value));
    }
    let ca_file = optional_path("ca_file", raw.ca_file.as_ref(), problems);
    Some(UpstreamTls {
        mode: mode?,
        ca_file: ca_file?,
        server_name: raw.server_name.as_ref().map(|text| text.value.clone()),
    })
}

fn credential(
    raw: &file::Credential,
    tls: Option<&UpstreamTls>,
    problems: &mut Problems,
) -> Option<Credential> {
    let password_file = optional_path("password_file", raw.password_file.as_ref(), problems);
    let certificate = optional_path("client_cert_file", raw.client_cert_file.as_ref(), problems);
    let key = optional_path("client_key_file", raw.client_key_file.as_ref(), problems);
    if raw.client_cert_file.is_some() != raw.client_key_file.is_some() {
        problems.add(raw.line, "`client_cert_file` and `client_key_file` are needed together");
    }
    if raw.client_cert_file.is_some() && tls.is_some_and(|tls| tls.mode == UpstreamTlsMode::Disable) {
        problems.add(raw.line, "a client certificate needs TLS, but `mode` is disable");
    }
    Some(Credential {
        user: raw.user.value.clone(),
        password_file: password_file?,
        client_certificate: certificate?.zip(key?),
    })
}

/// Whether some destination belongs to both.
fn overlap(left: &AddressPattern, right: &AddressPattern) -> bool {
    let within = |outer: &AddressPattern, inner: &AddressPattern| match (outer, inner) {
        (
            AddressPattern::Network { bits: outer_bits, .. },
            AddressPattern::Network { address, bits, port },
        ) => outer_bits <= bits && outer.contains((*address, *port).into()),
        _ => false,
    };
    left == right || within(left, right) || within(right, left)
}
