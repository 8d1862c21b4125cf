//! What an approval fits: one question, and no other.
//!
//! A digest over everything that decides what a request does and who asks. INVARIANT: two requests with the same fingerprint
//! do the same thing to the same objects for the same principal under the same bundle.

use super::admit::{Case, subject};
use crate::model::{Decision, Identity};

/// What an approval fits: the same principal, resource, statement, operation, values, transaction state, scope and bundle.
pub(super) fn fingerprint(case: &Case, decision: &Decision) -> String {
    let issuer = match &case.principal.identity {
        Identity::Verified { issuer, .. } => Some(issuer),
        Identity::Unidentified { .. } => None,
    };
    // A JSON array is unambiguous: no field's text can run into the next.
    let canonical = serde_json::json!([
        "chaperone-fingerprint-2",
        case.session.agent,
        issuer,
        subject(&case.principal),
        case.session.resource.name,
        &*case.request.statement,
        case.request.values,
        case.request.in_transaction,
        &*case.request.scope,
        *case.request.operation,
        decision.bundle,
    ]);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, canonical.to_string().as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
