use serde_json::json;

use super::super::error::TokenError;
use super::super::testing::{NOW, Signer, claims, claims_with, encode, key_set, source};
use super::*;

fn rules() -> TokenSource {
    source("/nowhere".as_ref())
}

/// The verdict on `token` when `signer`'s key is the issuer's only one.
fn judge(token: &str, signer: &Signer) -> Result<Identity, TokenError> {
    verify(token, &rules(), &key_set(&[signer.jwk()]), UnixMillis(NOW * 1000))
}

fn judge_claims(claims: &Value) -> Result<Identity, TokenError> {
    let signer = Signer::ec("k");
    judge(&signer.token(claims), &signer)
}

#[test]
fn a_good_token_yields_its_claims_for_every_key_type() {
    for signer in [Signer::ec("k"), Signer::ed("k"), Signer::rsa("k")] {
        let token = signer.token(&claims());
        let expected = Identity::Verified {
            issuer: "https://idp.example".into(),
            subject: "svc-reporter".into(),
            groups: ["readers".to_owned(), "staff".to_owned()].into(),
            expires_at: UnixMillis((NOW + 240 + 30) * 1000),
            token_sha256: hex(digest::digest(&digest::SHA256, token.as_bytes()).as_ref()),
        };
        assert_eq!(judge(&token, &signer), Ok(expected), "{}", signer.algorithm());
    }
    let rsa = Signer::rsa("k");
    assert!(judge(&rsa.sign(&json!({ "alg": "PS256", "kid": "k" }), &claims()), &rsa).is_ok());
}

#[test]
fn times_are_checked_with_thirty_seconds_of_skew_and_no_more() {
    let cases = [
        ("exp", NOW - 29, Ok(())),
        ("exp", NOW - 30, Err(TokenError::Expired)),
        ("nbf", NOW + 30, Ok(())),
        ("nbf", NOW + 31, Err(TokenError::NotYet)),
        ("iat", NOW + 30, Ok(())),
        ("iat", NOW + 31, Err(TokenError::NotYet)),
    ];
    for (name, at, expected) in cases {
        assert_eq!(judge_claims(&claims_with(name, json!(at))).map(drop), expected, "{name} {at}");
    }
}

#[test]
fn missing_or_odd_times_are_refused() {
    for (name, value) in [
        ("exp", json!(null)),
        ("iat", json!(null)),
        ("exp", json!("1800000240")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("iat", json!(u64::MAX)),
        ("nbf", json!([1])),
        ("exp", json!(NOW - 61)),
    ] {
        assert!(judge_claims(&claims_with(name, value.clone())).is_err(), "{name} {value}");
    }
    assert!(judge_claims(&claims_with("nbf", json!(null))).is_ok());
    #[expect(clippy::cast_precision_loss, reason = "seconds fit a float for millions of years")]
    let fraction = NOW as f64 + 240.7;
    let Ok(Identity::Verified { expires_at, .. }) = judge_claims(&claims_with("exp", json!(fraction))) else {
        panic!("a fraction is a time too");
    };
    assert_eq!(expires_at, UnixMillis((NOW + 270) * 1000));
}

#[test]
fn a_lifetime_beyond_the_configured_longest_is_refused() {
    let at = |exp: u64| judge_claims(&claims_with("exp", json!(exp))).map(drop);
    assert_eq!(at(NOW - 60 + 3600), Ok(()));
    assert_eq!(at(NOW - 60 + 3601), Err(TokenError::Lifetime));
    assert_eq!(at(u64::MAX), Err(TokenError::Claim("exp")));
}

#[test]
fn foreign_audiences_issuers_and_subjects_are_refused() {
    for (name, value) in [
        ("aud", json!("chaperone2")),
        ("aud", json!(["a", "b"])),
        ("aud", json!(null)),
        ("aud", json!({ "chaperone": true })),
        ("iss", json!("https://idp.example/")),
        ("iss", json!("https://idp.example.evil")),
        ("iss", json!(["https://idp.example"])),
        ("iss", json!(null)),
        ("sub", json!(null)),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("sub", json!("a\u{1b}[31mb")),
        ("sub", json!("x".repeat(513))),
    ] {
        let expected = Err(TokenError::Claim(match name {
            "aud" => "aud",
            "iss" => "iss",
            _ => "sub",
        }));
        assert_eq!(judge_claims(&claims_with(name, value.clone())), expected, "{name} {value}");
    }
    assert!(judge_claims(&claims_with("aud", json!("chaperone"))).is_ok());
    let signer = Signer::ec("k");
    let mut narrow = rules();
    narrow.subject = Some("another".into());
    let verdict =
        verify(&signer.token(&claims()), &narrow, &key_set(&[signer.jwk()]), UnixMillis(NOW * 1000));
    assert_eq!(verdict, Err(TokenError::Claim("sub")));
}

#[test]
fn groups_must_be_a_bounded_list_of_plain_names() {
    for wrong in
        [json!("readers"), json!([1]), json!(["a\nb"]), json!([""]), json!(vec!["g"; 257]), json!({})]
    {
        assert_eq!(judge_claims(&claims_with("groups", wrong)), Err(TokenError::Claim("groups")));
    }
    let Ok(Identity::Verified { groups, .. }) = judge_claims(&claims_with("groups", json!(null))) else {
        panic!("groups are optional");
    };
    assert!(groups.is_empty());
}

#[test]
fn forged_and_altered_signatures_are_refused() {
    let (good, evil) = (Signer::ec("k"), Signer::ec("k"));
    assert_eq!(judge(&evil.token(&claims()), &good), Err(TokenError::Signature));
    let token = good.token(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    let altered = encode(claims_with("sub", json!("root")).to_string().as_bytes());
    assert_eq!(judge(&format!("{}.{altered}.{}", parts[0], parts[2]), &good), Err(TokenError::Signature));
    assert_eq!(judge(&format!("{}.{}.", parts[0], parts[1]), &good), Err(TokenError::Signature));
}

#[test]
fn an_unsigned_token_is_refused() {
    let signer = Signer::ec("k");
    for name in ["none", "None", "NONE", ""] {
        let header = encode(json!({ "alg": name, "kid": "k" }).to_string().as_bytes());
        let body = encode(claims().to_string().as_bytes());
        for tail in ["", "AAAA"] {
            assert!(judge(&format!("{header}.{body}.{tail}"), &signer).is_err(), "{name}");
        }
    }
}

#[test]
fn a_public_key_is_never_an_hmac_secret() {
    let signer = Signer::rsa("k");
    for secret in [signer.public_bytes(), signer.jwk().to_string().into_bytes()] {
        for name in ["HS256", "HS384", "HS512"] {
            let message = format!(
                "{}.{}",
                encode(json!({ "alg": name, "kid": "k" }).to_string().as_bytes()),
                encode(claims().to_string().as_bytes())
            );
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
            let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
            let token = format!("{message}.{}", encode(tag.as_ref()));
            assert_eq!(judge(&token, &signer), Err(TokenError::Algorithm), "{name}");
        }
    }
}

#[test]
fn a_symmetric_key_in_the_set_is_not_used() {
    let jwks =
        [json!({ "kty": "oct", "k": encode(b"secret"), "kid": "k", "alg": "HS256" }), Signer::ec("e").jwk()];
    let message = format!(
        "{}.{}",
        encode(json!({ "alg": "HS256", "kid": "k" }).to_string().as_bytes()),
        encode(claims().to_string().as_bytes())
    );
    let tag = aws_lc_rs::hmac::sign(
        &aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"secret"),
        message.as_bytes(),
    );
    let token = format!("{message}.{}", encode(tag.as_ref()));
    let verdict = verify(&token, &rules(), &key_set(&jwks), UnixMillis(NOW * 1000));
    assert_eq!(verdict, Err(TokenError::Algorithm));
}

#[test]
fn the_header_must_fit_the_key() {
    let rsa = Signer::rsa("k");
    let mut jwk = rsa.jwk();
    jwk["alg"] = json!("RS256");
    let token = rsa.sign(&json!({ "alg": "PS256", "kid": "k" }), &claims());
    let verdict = verify(&token, &rules(), &key_set(&[jwk]), UnixMillis(NOW * 1000));
    assert_eq!(verdict, Err(TokenError::Algorithm));
    let ec = Signer::ec("k");
    let crossed = ec.sign(&json!({ "alg": "RS256", "kid": "k" }), &claims());
    assert_eq!(judge(&crossed, &ec), Err(TokenError::Algorithm));
}

#[test]
fn unknown_and_ambiguous_key_ids_are_refused() {
    let (one, two) = (Signer::ec("k"), Signer::ec("k"));
    let now = UnixMillis(NOW * 1000);
    let token = one.token(&claims());
    assert_eq!(
        verify(&token, &rules(), &key_set(&[Signer::ec("x").jwk()]), now),
        Err(TokenError::UnknownKey)
    );
    let collision = key_set(&[one.jwk(), two.jwk()]);
    assert_eq!(verify(&token, &rules(), &collision, now), Err(TokenError::AmbiguousKey));
    // The same id for keys of other types is no ambiguity.
    let mixed = key_set(&[Signer::ed("k").jwk(), one.jwk(), Signer::rsa("k").jwk()]);
    assert!(verify(&token, &rules(), &mixed, now).is_ok());
    let unnamed = one.sign(&json!({ "alg": "ES256" }), &claims());
    assert!(verify(&unnamed, &rules(), &key_set(&[one.jwk(), Signer::ed("e").jwk()]), now).is_ok());
    assert_eq!(verify(&unnamed, &rules(), &collision, now), Err(TokenError::AmbiguousKey));
}

#[test]
fn keys_for_other_uses_are_skipped() {
    let signer = Signer::ec("k");
    let token = signer.token(&claims());
    for (name, value) in [("use", json!("enc")), ("key_ops", json!(["sign"])), ("alg", json!("ES384"))] {
        let mut jwk = signer.jwk();
        jwk[name] = value;
        let keys = key_set(&[jwk, Signer::ed("other").jwk()]);
        assert_eq!(
            verify(&token, &rules(), &keys, UnixMillis(NOW * 1000)),
            Err(TokenError::UnknownKey),
            "{name}"
        );
    }
}

#[test]
fn headers_that_demand_understanding_or_bring_their_own_key_do_not_help() {
    let (good, evil) = (Signer::ec("k"), Signer::ec("k"));
    let critical =
        good.sign(&json!({ "alg": "ES256", "kid": "k", "crit": ["b64"], "b64": false }), &claims());
    assert_eq!(judge(&critical, &good), Err(TokenError::Critical));
    let carried = evil.sign(&json!({ "alg": "ES256", "kid": "k", "jwk": evil.jwk() }), &claims());
    assert_eq!(judge(&carried, &good), Err(TokenError::Signature));
}

#[test]
fn garbage_is_not_a_token() {
    let signer = Signer::ec("k");
    for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "é.é.é", "eyJhbGciOiJFUzI1NiJ9"] {
        assert!(matches!(judge(text, &signer), Err(TokenError::Malformed(_))), "{text}");
    }
    let list = signer.token(&json!([1, 2]));
    assert!(matches!(judge(&list, &signer), Err(TokenError::Malformed(_))));
}

#[test]
fn key_sets_without_a_usable_key_do_not_parse() {
    for text in
        ["", "{}", "[]", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#, r#"{"keys":[7]}"#]
    {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
    }
    let many = json!({ "keys": vec![Signer::ec("k").jwk(); 101] });
    assert!(KeySet::parse(many.to_string().as_bytes()).is_err());
}
