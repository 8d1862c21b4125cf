//! What the agent is told, in PostgreSQL's own error channel.
//!
//! SQLSTATEs are standard ones that drivers know; the stable code of ours stands in the hint. Nothing here quotes a rule, a
//! credential or the server's words on a failed login.

use super::dial::DialError;
use super::engine::EngineError;
use super::greeting::GreetingError;
use super::parameters::ParameterError;
use super::wire::{Notice, Severity};
use crate::gate::{HoldNews, Refusal, RefusalKind};

/// A refused request; the session goes on.
pub(super) fn error(refusal: &Refusal) -> Notice {
    Notice {
        severity: Severity::Error,
        sqlstate: sqlstate(refusal),
        message: format!("chaperone: {}", refusal.message()),
        hint: Some(refusal.hint()),
    }
}

/// A refused session.
pub(super) fn fatal(refusal: &Refusal) -> Notice {
    Notice { severity: Severity::Fatal, ..error(refusal) }
}

fn sqlstate(refusal: &Refusal) -> &'static str {
    match refusal.kind {
        // insufficient_privilege
        RefusalKind::Policy | RefusalKind::Person | RefusalKind::MaskedData => "42501",
        // invalid_authorization_specification
        RefusalKind::Unidentified(_) => "28000",
        // query_canceled
        RefusalKind::HoldExpired | RefusalKind::Cancelled => "57014",
        // disk_full
        RefusalKind::NoRecord => "53100",
        // configuration_limit_exceeded
        RefusalKind::TooManyHeld => "53400",
    }
}

/// A held request: said at once and again while it waits.
pub(super) fn held(news: &HoldNews) -> Notice {
    let who = if news.approvers.is_empty() { "an approver".to_owned() } else { news.approvers.join(" and ") };
    Notice {
        severity: Severity::Notice,
        sqlstate: "01000",
        message: format!("chaperone: held for approval by {who}, ticket {}", news.ticket),
        hint: Some(format!(
            "waiting up to {} s; after that send the same request again once the ticket is approved",
            news.limit.as_secs()
        )),
    }
}

/// A start-up parameter that is not allowed.
pub(super) fn parameter(error: &ParameterError) -> Notice {
    plain(Severity::Fatal, "42501", format!("chaperone: {error}"))
}

/// An opening that cannot be understood.
pub(super) fn opening(error: &GreetingError) -> Notice {
    plain(Severity::Fatal, "08P01", format!("chaperone: {error}"))
}

/// The placeholder was not proven.
pub(super) fn placeholder() -> Notice {
    let mut notice =
        plain(Severity::Fatal, "28P01", "chaperone: the placeholder password was not accepted".to_owned());
    notice.hint =
        Some(format!("agents hold no credential; use the password `{}`", super::scram::PLACEHOLDER_PASSWORD));
    notice
}

/// The resource could not be reached or refused its credential. Upstream authentication errors are not passed on.
pub(super) fn unreachable(error: &DialError) -> Notice {
    let (sqlstate, what) = match error {
        DialError::Connect { .. } => ("08001", "the resource cannot be reached"),
        DialError::NoTls(_) | DialError::Tls { .. } => ("08001", "the resource's TLS does not meet its rule"),
        DialError::Credential { .. } => ("08004", "the resource's credential is not available"),
        DialError::Login { .. } => ("08004", "the resource did not accept the session"),
    };
    plain(Severity::Fatal, sqlstate, format!("chaperone: {what}; the operator's log says why"))
}

/// The session cannot go on.
pub(super) fn broken(error: &EngineError) -> Notice {
    let (sqlstate, message) = match error {
        EngineError::Client(_) | EngineError::ClientOrder(_) => ("08P01", format!("chaperone: {error}")),
        EngineError::Server(_) | EngineError::ServerOrder(_) => {
            ("08006", "chaperone: the resource broke the protocol".to_owned())
        }
        EngineError::Setting(_) => ("42501", format!("chaperone: {error}")),
    };
    plain(Severity::Fatal, sqlstate, message)
}

/// The resource ended the session.
pub(super) fn lost() -> Notice {
    plain(Severity::Fatal, "08006", "chaperone: the resource closed the connection".to_owned())
}

/// The daemon ends, or an operator ended the session.
pub(super) fn ended(why: &str) -> Notice {
    plain(Severity::Fatal, "57P01", format!("chaperone: {why}"))
}

fn plain(severity: Severity, sqlstate: &'static str, message: String) -> Notice {
    Notice { severity, sqlstate, message, hint: None }
}
