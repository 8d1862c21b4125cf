//! The check of a token: signature first, then every claim, against our own clock.
//!
//! The library only decodes and verifies the signature; its claim checks are off, because their defaults (60 s
//! leeway, `nbf` unchecked, missing claims accepted) are not ours. Skew is applied once per claim.
//! INVARIANT: a `Verified` was signed by the issuer's one fitting key and meets every rule of its source.

use std::collections::{BTreeSet, HashSet};

use aws_lc_rs::digest;
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

use crate::model::{Identity, UnixMillis};

use super::TokenSource;
use super::error::TokenError;
use super::keys::KeySet;

/// Checks `token` by the rules of `source`; an [`Identity::Verified`] or why not.
pub(super) fn verify(
    token: &str,
    source: &TokenSource,
    keys: &KeySet,
    now: UnixMillis,
) -> Result<Identity, TokenError> {
    let claims = signed_claims(token, keys)?;
    if claims.get("iss").and_then(Value::as_str) != Some(source.issuer.as_str()) {
        return Err(TokenError::Claim("iss"));
    }
    if !names_audience(claims.get("aud"), &source.audience) {
        return Err(TokenError::Claim("aud"));
    }
    let subject = claims.get("sub").and_then(Value::as_str).filter(|subject| is_plain(subject));
    let subject = subject.ok_or(TokenError::Claim("sub"))?;
    if source.subject.as_deref().is_some_and(|wanted| wanted != subject) {
        return Err(TokenError::Claim("sub"));
    }
    let expires_at = check_times(&claims, source, now)?;
    Ok(Identity::Verified {
        issuer: source.issuer.clone(),
        subject: subject.to_owned(),
        groups: groups(claims.get(&source.groups_claim))?,
        expires_at,
        token_sha256: hex(digest::digest(&digest::SHA256, token.as_bytes()).as_ref()),
    })
}

/// The claims, once the signature holds.
fn signed_claims(token: &str, keys: &KeySet) -> Result<Map<String, Value>, TokenError> {
    let malformed = |error: jsonwebtoken::errors::Error| TokenError::Malformed(error.to_string());
    let header = jsonwebtoken::decode_header(token).map_err(malformed)?;
    if !ACCEPTED.contains(&header.alg) {
        return Err(TokenError::Algorithm);
    }
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(TokenError::Critical);
    }
    let key = keys.select(header.kid.as_deref(), header.alg)?;
    let mut rules = Validation::new(header.alg);
    rules.required_spec_claims = HashSet::new();
    rules.validate_exp = false;
    rules.validate_nbf = false;
    rules.validate_aud = false;
    match jsonwebtoken::decode::<Map<String, Value>>(token, key, &rules) {
        Ok(decoded) => Ok(decoded.claims),
        Err(error) => match error.kind() {
            jsonwebtoken::errors::ErrorKind::Json(_) | jsonwebtoken::errors::ErrorKind::Utf8(_) => {
                Err(malformed(error))
            }
            // Whatever else the library reports about this step means: not proven to be the issuer's.
            _ => Err(TokenError::Signature),
        },
    }
}

/// `exp` plus skew, once all times hold.
fn check_times(
    claims: &Map<String, Value>,
    source: &TokenSource,
    now: UnixMillis,
) -> Result<UnixMillis, TokenError> {
    let time = |name: &'static str| match claims.get(name) {
        None => Ok(None),
        Some(value) => millis(value).map(Some).ok_or(TokenError::Claim(name)),
    };
    let expires = time("exp")?.ok_or(TokenError::Claim("exp"))?;
    let issued = time("iat")?.ok_or(TokenError::Claim("iat"))?;
    let latest_start = now.0.saturating_add(SKEW_MILLIS);
    if issued > latest_start || time("nbf")?.is_some_and(|not_before| not_before > latest_start) {
        return Err(TokenError::NotYet);
    }
    let end = expires.saturating_add(SKEW_MILLIS);
    if now.0 >= end {
        return Err(TokenError::Expired);
    }
    let lifetime = expires.checked_sub(issued).ok_or(TokenError::Claim("exp"))?;
    if u128::from(lifetime) > source.lifetime_max.as_millis() {
        return Err(TokenError::Lifetime);
    }
    Ok(UnixMillis(end))
}

/// A NumericDate (RFC 7519): seconds, whole or with a fraction. Fractions are dropped.
fn millis(value: &Value) -> Option<u64> {
    if let Some(seconds) = value.as_u64() {
        return seconds.checked_mul(1000);
    }
    let seconds = value.as_f64().filter(|seconds| (0.0..SECONDS_MAX).contains(seconds))?;
    // Text is the one lossless way from a float to an integer without a cast.
    format!("{seconds:.0}", seconds = seconds.floor()).parse::<u64>().ok()?.checked_mul(1000)
}

fn names_audience(claim: Option<&Value>, wanted: &str) -> bool {
    match claim {
        Some(Value::String(one)) => one == wanted,
        Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(wanted)),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => false,
    }
}

fn groups(claim: Option<&Value>) -> Result<BTreeSet<String>, TokenError> {
    let fault = TokenError::Claim("groups");
    let list = match claim {
        None => return Ok(BTreeSet::new()),
        Some(Value::Array(list)) if list.len() <= GROUPS_MAX => list,
        Some(_) => return Err(fault),
    };
    list.iter()
        .map(|group| group.as_str().filter(|name| is_plain(name)).map(str::to_owned))
        .collect::<Option<BTreeSet<_>>>()
        .ok_or(fault)
}

/// Names go into policy, records and terminals: bounded, and without control characters.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asymmetric only: an HMAC secret shared with the issuer would let us forge, and a public key used as one lets
/// anybody forge. `none` is not known to the decoder at all.
const ACCEPTED: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// What clocks kept by NTP stay well within.
const SKEW_MILLIS: u64 = 30_000;
/// The year 5138; beyond it is a unit mistake, not a time.
const SECONDS_MAX: f64 = 1.0e11;
/// The largest directories send 200 and then a reference instead.
const GROUPS_MAX: usize = 256;
/// RFC 7519 and OpenID say 255 for `sub`; some groups are distinguished names.
const NAME_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests;
