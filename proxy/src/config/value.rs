//! Typed reading of TOML values with their places in the file.
//!
//! Reports a wrong type or an unknown key with its line and goes on, so that all problems come out together.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use super::MetricsAddress;
use super::error::Problems;
use super::reader::At;

/// Names stand in policies, records, file names and terminal tables.
const NAME_CHARS_MAX: usize = 64;

/// Agents, approvers and resources: lower-case letters, digits, `-` and `_`.
pub(super) fn name(what: &str, text: &At<String>, problems: &mut Problems) -> Option<String> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let fits = (1..=NAME_CHARS_MAX).contains(&text.value.len()) && text.value.bytes().all(allowed);
    if !fits {
        let message = format!(
            "`{}` is not a name of {what}; use 1 to {NAME_CHARS_MAX} of a-z, 0-9, `-` and `_`",
            text.value
        );
        problems.add(text.line, message);
    }
    fits.then(|| text.value.clone())
}

/// Label keys and values become `Label::"key=value"`.
pub(super) fn label(key: &str, value: &At<String>, problems: &mut Problems) -> Option<(String, String)> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    let fits = |text: &str| (1..=NAME_CHARS_MAX).contains(&text.len()) && text.bytes().all(allowed);
    if fits(key) && fits(&value.value) {
        return Some((key.to_owned(), value.value.clone()));
    }
    let message = format!(
        "label `{key} = {}`: use 1 to {NAME_CHARS_MAX} letters, digits, `-`, `_`, `.` and `/` on each side",
        value.value
    );
    problems.add(value.line, message);
    None
}

/// An absolute path without `..`.
pub(super) fn path(key: &str, text: &At<String>, problems: &mut Problems) -> Option<PathBuf> {
    let path = Path::new(&text.value);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || climbs {
        problems
            .add(text.line, format!("`{key}` must be an absolute path without `..`, not `{}`", text.value));
        return None;
    }
    Some(path.to_owned())
}

/// A cgroup path below the cgroup2 mount: relative, without `.` and `..`.
pub(super) fn cgroup(key: &str, text: &At<String>, problems: &mut Problems) -> Option<String> {
    let plain = Path::new(&text.value).components().all(|part| matches!(part, Component::Normal(_)));
    let tidy = plain && !text.value.ends_with('/') && !text.value.contains("//");
    if !tidy {
        let message = format!(
            "`{key}` must be a path below the cgroup2 mount such as agents.slice, not `{}`",
            text.value
        );
        problems.add(text.line, message);
    }
    tidy.then(|| text.value.clone())
}

/// `https://host[:port][/path]`, without user, query or fragment.
pub(super) fn issuer(text: &At<String>, problems: &mut Problems) -> Option<String> {
    let host = text.value.strip_prefix("https://").map(|rest| rest.split('/').next().unwrap_or_default());
    let fits = host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
        && !text.value.contains(['?', '#'])
        && !text.value.contains(char::is_whitespace);
    if !fits {
        problems.add(text.line, format!("`issuer` must be an https URL without query, not `{}`", text.value));
    }
    fits.then(|| text.value.clone())
}

/// `unix:/path` or a loopback address with a port.
pub(super) fn metrics(text: &At<String>, problems: &mut Problems) -> Option<MetricsAddress> {
    if let Some(socket) = text.value.strip_prefix("unix:") {
        let socket = At { value: socket.to_owned(), line: text.line };
        return path("listen", &socket, problems).map(MetricsAddress::Unix);
    }
    match text.value.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() && address.port() != 0 => {
            Some(MetricsAddress::Loopback(address))
        }
        Ok(_) | Err(_) => {
            let message = format!(
                "`listen` must be unix:/path or a loopback address with a port, not `{}`",
                text.value
            );
            problems.add(text.line, message);
            None
        }
    }
}

/// The uid of a local account, given by name or number.
pub(super) fn user(text: &At<String>, problems: &mut Problems) -> Option<u32> {
    if let Ok(uid) = text.value.parse::<u32>() {
        return Some(uid);
    }
    match nix::unistd::User::from_name(&text.value) {
        Ok(Some(user)) => Some(user.uid.as_raw()),
        Ok(None) => {
            problems.add(text.line, format!("there is no user `{}` on this machine", text.value));
            None
        }
        Err(error) => {
            problems.add(text.line, format!("cannot look up user `{}`: {error}", text.value));
            None
        }
    }
}
