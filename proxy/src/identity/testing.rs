//! Doubles for this room's tests: a scratch directory, signing keys and tokens. Never compiled into the product.
//!
//! Tokens are signed with the primitives themselves, not with the library under test.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::TokenSource;
use super::keys::KeySet;

/// A directory that is gone when dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).unwrap();
        let path =
            std::env::temp_dir().join(format!("chaperone-identity-{:016x}", u64::from_ne_bytes(random)));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A signing key with its name.
pub(super) struct Signer {
    kid: String,
    kind: Kind,
}

enum Kind {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    pub(super) fn ec(kid: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid: kid.to_owned(), kind: Kind::Ec(key) }
    }

    pub(super) fn ed(kid: &str) -> Self {
        Self { kid: kid.to_owned(), kind: Kind::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    pub(super) fn rsa(kid: &str) -> Self {
        Self { kid: kid.to_owned(), kind: Kind::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()) }
    }

    pub(super) fn algorithm(&self) -> &'static str {
        match self.kind {
            Kind::Ec(_) => "ES256",
            Kind::Ed(_) => "EdDSA",
            Kind::Rsa(_) => "RS256",
        }
    }

    /// The public key as issuers publish it.
    pub(super) fn jwk(&self) -> Value {
        let mut jwk = match &self.kind {
            Kind::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..]) })
            }
            Kind::Ed(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key().as_ref()) })
            }
            Kind::Rsa(key) => {
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({ "kty": "RSA", "n": encode(&parts.n), "e": encode(&parts.e) })
            }
        };
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }

    /// What a confused verifier might take for an HMAC secret.
    pub(super) fn public_bytes(&self) -> Vec<u8> {
        match &self.kind {
            Kind::Ec(key) => key.public_key().as_ref().to_vec(),
            Kind::Ed(key) => key.public_key().as_ref().to_vec(),
            Kind::Rsa(key) => key.public_key().as_ref().to_vec(),
        }
    }

    /// A token with an ordinary header.
    pub(super) fn token(&self, claims: &Value) -> String {
        self.sign(&json!({ "alg": self.algorithm(), "typ": "JWT", "kid": self.kid }), claims)
    }

    /// A token with any header.
    pub(super) fn sign(&self, header: &Value, claims: &Value) -> String {
        let message =
            format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let chance = SystemRandom::new();
        let signature = match &self.kind {
            Kind::Ec(key) => key.sign(&chance, message.as_bytes()).unwrap().as_ref().to_vec(),
            Kind::Ed(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
            Kind::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let encoding: &'static dyn aws_lc_rs::signature::RsaEncoding =
                    if header["alg"] == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                key.sign(encoding, &chance, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", encode(&signature))
    }
}

pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn key_set(jwks: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": jwks }).to_string().as_bytes()).unwrap()
}

/// A second in 2027; every claim of [`claims`] fits it.
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn claims() -> Value {
    json!({
        "iss": "https://idp.example", "sub": "svc-reporter", "aud": ["other", "chaperone"],
        "iat": NOW - 60, "nbf": NOW - 60, "exp": NOW + 240, "groups": ["readers", "staff"],
    })
}

/// The standard claims with one replaced, or removed by null.
pub(super) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

pub(super) fn source(token_file: &Path) -> TokenSource {
    TokenSource {
        issuer: "https://idp.example".into(),
        audience: "chaperone".into(),
        token_file: token_file.to_owned(),
        ca_file: None,
        subject: None,
        groups_claim: "groups".into(),
        lifetime_max: Duration::from_secs(3600),
    }
}
