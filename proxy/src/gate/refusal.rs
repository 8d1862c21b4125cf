//! Why a request was refused, in two voices: facts for the protocol's error, and nothing else.
//!
//! Refuses to carry rule text, credentials or upstream errors.

use crate::model::{TicketId, Unidentified};

/// What kind of refusal it is; protocols map it to their own codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalKind {
    /// Policy denies it.
    Policy,
    /// The agent has no valid identity.
    Unidentified(Unidentified),
    /// A person denied it.
    Person,
    /// Nobody decided within the hold; the ticket stays open for a retry.
    HoldExpired,
    /// The agent cancelled it while it was held.
    Cancelled,
    /// The record could not be written, so nothing with effects may pass.
    NoRecord,
    /// Too many requests of this agent are held already.
    TooManyHeld,
    /// It would carry masked values to where they are not masked.
    MaskedData,
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Kind.
    pub kind: RefusalKind,
    /// Ids of the policies that decided; empty if none permits it.
    pub policies: Vec<String>,
    /// The ticket, if there is one.
    pub ticket: Option<TicketId>,
}

impl Refusal {
    pub(crate) fn plain(kind: RefusalKind) -> Self {
        Self { kind, policies: Vec::new(), ticket: None }
    }

    /// Stable code for programs: the same in every protocol.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.kind {
            RefusalKind::Policy => "denied-by-policy",
            RefusalKind::Unidentified(_) => "unidentified",
            RefusalKind::Person => "denied-by-approver",
            RefusalKind::HoldExpired => "hold-expired",
            RefusalKind::Cancelled => "cancelled",
            RefusalKind::NoRecord => "record-unavailable",
            RefusalKind::TooManyHeld => "too-many-held",
            RefusalKind::MaskedData => "masked-data",
        }
    }

    /// One sentence for the agent.
    #[must_use]
    pub fn message(&self) -> String {
        match &self.kind {
            RefusalKind::Policy if self.policies.is_empty() => "no policy permits this request".to_owned(),
            RefusalKind::Policy => format!("denied by policy {}", quoted(&self.policies)),
            RefusalKind::Unidentified(reason) => reason.to_string(),
            RefusalKind::Person => "denied by an approver".to_owned(),
            RefusalKind::HoldExpired => "held for approval and not decided in time".to_owned(),
            RefusalKind::Cancelled => "cancelled while held for approval".to_owned(),
            RefusalKind::NoRecord => "refused because the record cannot be written".to_owned(),
            RefusalKind::TooManyHeld => "refused because too many requests are held already".to_owned(),
            RefusalKind::MaskedData => {
                "refused because it could carry masked values to where they can be read".to_owned()
            }
        }
    }

    /// What the agent can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        let next = match &self.kind {
            RefusalKind::Policy => "ask the operator for a policy that permits it",
            RefusalKind::Unidentified(Unidentified::NoSource) => {
                "ask the operator to configure an identity for this agent"
            }
            RefusalKind::Unidentified(Unidentified::KeysUnavailable) => {
                "try again later; the operator must see why the issuer does not answer"
            }
            RefusalKind::Unidentified(
                Unidentified::NoToken | Unidentified::Expired | Unidentified::Invalid,
            ) => "the agent needs a fresh token from its issuer",
            RefusalKind::Person => "read the reason on the ticket before you ask again",
            RefusalKind::HoldExpired => "send the same request again once the ticket is approved",
            RefusalKind::Cancelled => "send the request again to ask once more",
            RefusalKind::NoRecord => "try again later; the operator has been told",
            RefusalKind::TooManyHeld => "wait until held requests are decided",
            RefusalKind::MaskedData => {
                "leave the masked columns out, name the columns you need one by one, and make no code"
            }
        };
        match &self.ticket {
            Some(ticket) => format!("{next}; ticket {ticket}, code {}", self.code()),
            None => format!("{next}; code {}", self.code()),
        }
    }
}

fn quoted(policies: &[String]) -> String {
    policies.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_policies_ticket_and_code() {
        let refusal = Refusal {
            kind: RefusalKind::Policy,
            policies: vec!["no-ddl-on-prod".into()],
            ticket: Some(TicketId::from_random(1)),
        };
        assert_eq!(refusal.message(), "denied by policy `no-ddl-on-prod`");
        assert!(refusal.hint().contains("ticket T-10000000"));
        assert!(refusal.hint().contains("denied-by-policy"));
    }

    #[test]
    fn a_fresh_token_is_asked_for_only_where_it_would_help() {
        let hint = |reason| Refusal::plain(RefusalKind::Unidentified(reason)).hint();
        for reason in [Unidentified::NoToken, Unidentified::Expired, Unidentified::Invalid] {
            assert!(hint(reason).contains("fresh token"));
        }
        for reason in [Unidentified::NoSource, Unidentified::KeysUnavailable] {
            assert!(!hint(reason).contains("token") && hint(reason).contains("operator"));
        }
    }
}
