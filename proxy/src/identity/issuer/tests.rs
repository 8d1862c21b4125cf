use std::collections::VecDeque;

use super::super::testing::{Signer, key_set};
use super::*;

fn issuer(clock: &Clock) -> Issuer {
    // The system's store may be empty on a build machine; nothing is dialled here.
    let dir = super::super::testing::Scratch::new();
    let key = rcgen::generate_simple_self_signed(["idp.example".to_owned()]).unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, key.cert.pem()).unwrap();
    Issuer::new("https://idp.example", Some(&ca), clock).unwrap()
}

/// Runs `keep_fresh` with scripted answers (the last repeats) for `span`; the seconds at which it asked.
async fn asked_at(
    issuer: &Issuer,
    script: Vec<Result<KeySet, KeysError>>,
    wants: &[u64],
    span: u64,
) -> Vec<u64> {
    let start = tokio::time::Instant::now();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    let log = Arc::clone(&asked);
    let fetch = move || {
        log.lock().push(start.elapsed().as_secs());
        let answer = script.lock().pop_front();
        std::future::ready(answer.unwrap_or_else(|| Ok(key_set(&[Signer::ec("last").jwk()]))))
    };
    let wanting = async {
        for at in wants {
            tokio::time::sleep_until(start + Duration::from_secs(*at)).await;
            issuer.want();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = issuer.keep_fresh(fetch) => {}
        () = wanting => {}
        () = tokio::time::sleep(Duration::from_secs(span)) => {}
    }
    asked.lock().clone()
}

fn down() -> Result<KeySet, KeysError> {
    Err(KeysError::Timeout { host: "idp.example".into() })
}

fn up(kid: &str) -> Result<KeySet, KeysError> {
    Ok(key_set(&[Signer::ec(kid).jwk()]))
}

#[tokio::test(start_paused = true)]
async fn keys_are_refreshed_every_ten_minutes() {
    let clock = Clock::fixed(UnixMillis(0));
    assert_eq!(asked_at(&issuer(&clock), vec![], &[], 1300).await, [0, 600, 1200]);
}

#[tokio::test(start_paused = true)]
async fn unknown_keys_cause_one_fetch_at_once_and_then_at_most_one_a_minute() {
    let clock = Clock::fixed(UnixMillis(0));
    let wants: Vec<u64> = (5..=100).collect();
    assert_eq!(asked_at(&issuer(&clock), vec![], &wants, 200).await, [0, 5, 65, 125]);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_down_is_asked_again_ever_more_slowly_until_it_is_up() {
    let clock = Clock::fixed(UnixMillis(0));
    let issuer = issuer(&clock);
    let script = vec![down(), down(), down(), up("k")];
    assert_eq!(asked_at(&issuer, script, &[], 100).await, [0, 1, 3, 7]);
    assert!(issuer.keys().0.is_some());
    assert_eq!(issuer.problem(), None);
    let outage = (0..10).map(|_| down()).collect();
    assert_eq!(asked_at(&issuer, outage, &[], 250).await, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_outlive_an_outage_of_a_day_but_no_longer() {
    let clock = Clock::fixed(UnixMillis(1_000));
    let issuer = issuer(&clock);
    assert!(issuer.keys().0.is_none());
    issuer.store(up("k"));
    issuer.store(down());
    assert!(issuer.problem().is_some());
    clock.set(UnixMillis(1_000).plus(OUTAGE_MAX));
    assert!(issuer.keys().0.is_some());
    clock.set(UnixMillis(1_001).plus(OUTAGE_MAX));
    assert!(issuer.keys().0.is_none());
    issuer.store(up("k"));
    assert!(issuer.keys().0.is_some());
}

#[test]
fn the_version_changes_with_the_keys_and_only_then() {
    let issuer = issuer(&Clock::fixed(UnixMillis(0)));
    let jwk = Signer::ec("k").jwk();
    issuer.store(Ok(key_set(std::slice::from_ref(&jwk))));
    let version = issuer.keys().1;
    issuer.store(Ok(key_set(&[jwk])));
    issuer.store(down());
    assert_eq!(issuer.keys().1, version);
    issuer.store(up("other"));
    assert_ne!(issuer.keys().1, version);
}

#[test]
fn addresses_that_are_not_plain_https_are_refused() {
    let clock = Clock::fixed(UnixMillis(0));
    for name in [
        "http://idp.example",
        "https://",
        "idp.example",
        "https://u:p@idp.example",
        "https://idp.example#x",
        "https://idp.example/?a=b",
        "file:///etc/passwd",
    ] {
        assert!(matches!(Issuer::new(name, None, &clock), Err(IdentityError::Issuer { .. })), "{name}");
    }
}
