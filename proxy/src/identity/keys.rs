//! An issuer's key set, and the choice of the one key that may have signed a token.
//!
//! Only public signature keys for pinned asymmetric algorithms are kept; others in the set are skipped, as
//! issuers publish keys for many uses. A key verifies only the algorithms of its own type and, if it says so,
//! only the one it names: a public key can never act as an HMAC secret.
//! INVARIANT: a token selects exactly one key or none; two keys that both fit are refused, not tried in turn.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::error::{KeysError, TokenError};

/// The public keys of one issuer.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    jwk: Jwk,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads a JWKS document. A document without one usable key is an error, so that it cannot displace a good one.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeysError> {
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| KeysError::KeySet(error.to_string()))?;
        if document.keys.len() > KEYS_MAX {
            return Err(KeysError::KeySet(format!("it holds more than {KEYS_MAX} keys")));
        }
        let keys: Vec<Key> = document.keys.into_iter().filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err(KeysError::KeySet("it holds no usable signature key".to_owned()));
        }
        Ok(Self { keys })
    }

    /// The key for a token's header.
    pub(super) fn select(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&DecodingKey, TokenError> {
        let mut named = self
            .keys
            .iter()
            .filter(|key| kid.is_none() || key.jwk.common.key_id.as_deref() == kid)
            .peekable();
        if named.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        let mut fitting = named.filter(|key| key.algorithms.contains(&algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(&key.decoding),
            (Some(_), Some(_)) => Err(TokenError::AmbiguousKey),
            (None, _) => Err(TokenError::Algorithm),
        }
    }

    /// Whether both sets hold the same keys in the same order.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.keys.iter().map(|key| &key.jwk).eq(other.keys.iter().map(|key| &key.jwk))
    }
}

impl Key {
    fn read(value: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let for_signatures = match &jwk.common.public_key_use {
            None | Some(PublicKeyUse::Signature) => true,
            Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_)) => false,
        };
        let for_verifying =
            jwk.common.key_operations.as_ref().is_none_or(|uses| uses.contains(&KeyOperations::Verify));
        if !for_signatures || !for_verifying {
            return None;
        }
        let mut algorithms: Vec<Algorithm> = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA.to_vec(),
            AlgorithmParameters::EllipticCurve(point) => match point.curve {
                EllipticCurve::P256 => vec![Algorithm::ES256],
                EllipticCurve::P384 => vec![Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(point) if point.curve == EllipticCurve::Ed25519 => {
                vec![Algorithm::EdDSA]
            }
            // Symmetric keys, other curves, and whatever the library adds to its open enum.
            _ => return None,
        };
        if let Some(named) = jwk.common.key_algorithm {
            let named: Algorithm = named.to_string().parse().ok()?;
            algorithms.retain(|algorithm| *algorithm == named);
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then_some(Self { jwk, algorithms, decoding })
    }
}

const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
/// The largest public issuers publish about a dozen.
const KEYS_MAX: usize = 100;
