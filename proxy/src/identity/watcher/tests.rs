use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::super::testing::{NOW, Scratch, Signer, claims, claims_with, key_set, source};
use super::*;

struct Bench {
    dir: Scratch,
    clock: Clock,
    issuer: Issuer,
    slot: Arc<Slot>,
    watcher: Watcher,
    changes: broadcast::Receiver<Change>,
}

impl Bench {
    fn new() -> Self {
        let dir = Scratch::new();
        let clock = Clock::fixed(UnixMillis(NOW * 1000));
        let ca = dir.path().join("ca.pem");
        let key = rcgen::generate_simple_self_signed(["idp.example".to_owned()]).unwrap();
        fs::write(&ca, key.cert.pem()).unwrap();
        let issuer = Issuer::new("https://idp.example", Some(&ca), &clock).unwrap();
        let slot = Arc::new(Slot::new(&AgentName("reporter".into())));
        let (sender, changes) = broadcast::channel(8);
        let token = dir.path().join("token");
        let watcher = Watcher::new(Arc::clone(&slot), source(&token), issuer.clone(), sender, clock.clone());
        Self { dir, clock, issuer, slot, watcher, changes }
    }

    fn hold(&self, jwks: &[Value]) {
        self.issuer.store(Ok(key_set(jwks)));
    }

    fn place(&self, token: &str) {
        swap(self.dir.path(), token);
    }

    async fn verdict(&mut self) -> Result<String, Unidentified> {
        self.watcher.look().await;
        self.read()
    }

    fn read(&self) -> Result<String, Unidentified> {
        match &self.slot.principal(self.clock.now()).identity {
            Identity::Verified { subject, .. } => Ok(subject.clone()),
            Identity::Unidentified { reason } => Err(*reason),
        }
    }
}

fn swap(dir: &Path, token: &str) {
    fs::write(dir.join("next"), token).unwrap();
    fs::rename(dir.join("next"), dir.join("token")).unwrap();
}

#[tokio::test]
async fn each_missing_piece_has_its_own_reason() {
    let mut bench = Bench::new();
    let signer = Signer::ec("k");
    assert_eq!(bench.read(), Err(Unidentified::NoSource));
    assert_eq!(bench.verdict().await, Err(Unidentified::NoToken));
    bench.place("garbage");
    assert_eq!(bench.verdict().await, Err(Unidentified::KeysUnavailable));
    bench.hold(&[signer.jwk()]);
    assert_eq!(bench.verdict().await, Err(Unidentified::NoToken));
    bench.place(&Signer::ec("k").token(&claims()));
    assert_eq!(bench.verdict().await, Err(Unidentified::Invalid));
    bench.place(&signer.token(&claims_with("exp", json!(NOW - 31))));
    assert_eq!(bench.verdict().await, Err(Unidentified::Expired));
    assert!(bench.slot.problem().is_some());
    bench.place(&signer.token(&claims()));
    assert_eq!(bench.verdict().await.as_deref(), Ok("svc-reporter"));
    assert_eq!(bench.slot.problem(), None);
}

#[tokio::test]
async fn an_identity_ends_at_its_deadline_even_if_nobody_looks() {
    let mut bench = Bench::new();
    let signer = Signer::ec("k");
    bench.hold(&[signer.jwk()]);
    bench.place(&signer.token(&claims()));
    assert!(bench.verdict().await.is_ok());
    let end = UnixMillis((NOW + 270) * 1000);
    bench.clock.set(UnixMillis(end.0 - 1));
    assert!(bench.read().is_ok());
    bench.clock.set(end);
    assert_eq!(bench.read(), Err(Unidentified::Expired));
    assert_eq!(bench.verdict().await, Err(Unidentified::Expired));
}

#[tokio::test]
async fn a_token_swapped_atomically_is_taken_and_announced_once() {
    let mut bench = Bench::new();
    let signer = Signer::ec("k");
    bench.hold(&[signer.jwk()]);
    bench.place(&signer.token(&claims()));
    assert!(bench.verdict().await.is_ok());
    assert!(bench.verdict().await.is_ok());
    bench.place(&signer.token(&claims_with("sub", json!("second"))));
    assert_eq!(bench.verdict().await.as_deref(), Ok("second"));
    let mut seen = Vec::new();
    while let Ok(change) = bench.changes.try_recv() {
        seen.push(matches!(change.principal.identity, Identity::Verified { .. }));
    }
    assert_eq!(seen, [true, true]);
}

#[tokio::test]
async fn a_removed_token_removes_the_identity() {
    let mut bench = Bench::new();
    let signer = Signer::ec("k");
    bench.hold(&[signer.jwk()]);
    bench.place(&signer.token(&claims()));
    assert!(bench.verdict().await.is_ok());
    fs::remove_file(bench.dir.path().join("token")).unwrap();
    assert_eq!(bench.verdict().await, Err(Unidentified::NoToken));
}

#[tokio::test]
async fn a_token_that_comes_early_is_accepted_when_its_time_has_come() {
    let mut bench = Bench::new();
    let signer = Signer::ec("k");
    bench.hold(&[signer.jwk()]);
    bench.place(&signer.token(&claims_with("nbf", json!(NOW + 60))));
    assert_eq!(bench.verdict().await, Err(Unidentified::Expired));
    bench.clock.set(UnixMillis((NOW + 30) * 1000));
    assert!(bench.verdict().await.is_ok());
}

#[tokio::test]
async fn rotation_takes_the_new_key_and_drops_tokens_of_a_withdrawn_one() {
    let mut bench = Bench::new();
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    bench.hold(&[old.jwk()]);
    bench.place(&old.token(&claims()));
    assert!(bench.verdict().await.is_ok());
    bench.hold(&[old.jwk(), new.jwk()]);
    assert!(bench.verdict().await.is_ok());
    bench.hold(&[new.jwk()]);
    assert_eq!(bench.verdict().await, Err(Unidentified::Invalid));
    bench.place(&new.token(&claims()));
    assert!(bench.verdict().await.is_ok());
}

#[tokio::test]
async fn a_day_without_the_issuer_ends_even_long_tokens() {
    let mut bench = Bench::new();
    bench.watcher.source.lifetime_max = Duration::from_secs(10 * 24 * 3600);
    let signer = Signer::ec("k");
    bench.hold(&[signer.jwk()]);
    bench.place(&signer.token(&claims_with("exp", json!(NOW + 5 * 24 * 3600))));
    assert!(bench.verdict().await.is_ok());
    bench.clock.set(UnixMillis((NOW + 24 * 3600 + 1) * 1000));
    assert_eq!(bench.verdict().await, Err(Unidentified::KeysUnavailable));
}
