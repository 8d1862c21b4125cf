//! `[dns]`: whether names are answered, on which ports, and whom the daemon asks.
//!
//! Refuses ports that meet the proxy's own, and upstreams that are not addresses: a resolver that is found by name would have
//! to be asked for first.

use std::net::{IpAddr, SocketAddr};

use super::build::number_of_port;
use super::error::Problems;
use super::file;
use super::reader::At;
use crate::dns::{Denial, Settings};
use crate::intercept::SLOTS;

/// Right after the proxy's own port.
const PORT: u16 = 15433;
/// The port of resolvers that are written without one.
const UPSTREAM_PORT: u16 = 53;
/// As many as are ever asked; more only make a client wait longer.
const UPSTREAMS_MAX: usize = 8;

/// The resolver's settings, and the first of its ports; `None` each where something was reported.
pub(super) fn settings(
    raw: &file::Dns,
    proxy: Option<u16>,
    problems: &mut Problems,
) -> (Option<Settings>, Option<Option<u16>>) {
    let enabled = raw.enabled.as_ref().is_none_or(|flag| flag.value);
    let port = if enabled { port(raw.port.as_ref(), proxy, problems).map(Some) } else { Some(None) };
    let upstreams = match &raw.upstreams {
        None => Some(None),
        Some(texts) => upstreams(texts, problems).map(Some),
    };
    // A client that is told "refused" takes it for a fault that passes, and stops looking through its search list.
    let denial = match raw.denial.as_ref().map(|text| (text.value.as_str(), text.line)) {
        None | Some(("nxdomain", _)) => Some(Denial::NxDomain),
        Some(("refused", _)) => Some(Denial::Refused),
        Some((other, line)) => {
            problems.add(line, format!("`denial` must be \"nxdomain\" or \"refused\", not `{other}`"));
            None
        }
    };
    let settings = upstreams.zip(denial).map(|(upstreams, denial)| Settings { upstreams, denial });
    (settings, port)
}

fn port(raw: Option<&At<u64>>, proxy: Option<u16>, problems: &mut Problems) -> Option<u16> {
    let slots = u16::try_from(SLOTS).unwrap_or(u16::MAX);
    let meets = |first: u16| proxy.is_some_and(|proxy| (first..first.saturating_add(slots)).contains(&proxy));
    let Some(raw) = raw else {
        // Not written: the ports after the proxy's, should it have been put on the usual ones.
        return Some(proxy.filter(|_| meets(PORT)).map_or(PORT, |proxy| proxy.saturating_add(1)));
    };
    let first = number_of_port(raw, problems)?;
    if meets(first) {
        let last = first.saturating_add(slots.saturating_sub(1));
        problems.add(raw.line, format!("the resolver's ports {first} to {last} include the proxy's own"));
        return None;
    }
    Some(first)
}

fn upstreams(texts: &[At<String>], problems: &mut Problems) -> Option<Vec<SocketAddr>> {
    let mut all = Vec::new();
    for text in texts {
        let bare = text.value.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, UPSTREAM_PORT));
        match bare.or_else(|_| text.value.parse::<SocketAddr>()) {
            Ok(address) if address.port() != 0 => all.push(address),
            Ok(_) | Err(_) => problems.add(
                text.line,
                format!("`{}` is not a resolver's address; write ip, ip:port or [ip6]:port", text.value),
            ),
        }
    }
    if let Some(text) = texts.get(UPSTREAMS_MAX) {
        problems.add(text.line, format!("more than {UPSTREAMS_MAX} `upstreams`"));
    }
    (all.len() == texts.len() && texts.len() <= UPSTREAMS_MAX).then_some(all)
}
