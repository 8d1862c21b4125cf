use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::Clock;
use crate::model::{UnixMillis, UpstreamTls, UpstreamTlsMode};

use super::*;

/// In 2027.
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).unwrap();
        let path = std::env::temp_dir().join(format!("chaperone-tls-{:016x}", u64::from_ne_bytes(random)));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A resource's own authority.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn server(&self, params: CertificateParams) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key)
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn server(pem: &str, key: &KeyPair) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

fn rules(mode: UpstreamTlsMode, ca_file: Option<PathBuf>) -> UpstreamTls {
    UpstreamTls { mode, ca_file, server_name: None }
}

/// A handshake between our client end and `config`; the binding, or why not.
async fn dial(
    rules: &UpstreamTls,
    config: Arc<ServerConfig>,
    name: &str,
) -> Result<Option<Vec<u8>>, TlsError> {
    let connector = Connector::for_resource(rules, None, &Clock::fixed(NOW))?.with_alpn(b"postgresql");
    let (near, far) = duplex(64 * 1024);
    let (client, server) = tokio::join!(connector.connect(near, name), accept(far, config));
    let mut upstream = client?;
    let mut downstream = server.unwrap();
    upstream.stream.write_all(b"ping").await.unwrap();
    upstream.stream.flush().await.unwrap();
    let mut heard = [0_u8; 4];
    downstream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
    Ok(upstream.binding)
}

fn fault<T: std::fmt::Debug>(result: Result<T, TlsError>) -> Option<CertificateFault> {
    match result {
        Err(TlsError::Certificate { fault, .. }) => Some(fault),
        _ => None,
    }
}

#[tokio::test]
async fn verify_full_wants_the_chain_and_the_name() {
    let (dir, ca) = (Scratch::new(), Ca::new());
    let file = Some(dir.file("ca.pem", &ca.0.pem()));
    let (pem, key) = ca.server(params(&["db.internal", "10.0.0.5"]));
    let full = rules(UpstreamTlsMode::VerifyFull, file);
    let config = server(&pem, &key);
    assert!(dial(&full, Arc::clone(&config), "db.internal").await.is_ok());
    assert!(dial(&full, Arc::clone(&config), "10.0.0.5").await.is_ok());
    for wrong in ["other.internal", "10.0.0.6", "x.db.internal"] {
        let refused = dial(&full, Arc::clone(&config), wrong).await;
        assert_eq!(fault(refused), Some(CertificateFault::NameMismatch), "{wrong}");
    }
    assert!(matches!(dial(&full, config, "not a name").await, Err(TlsError::Name { .. })));
}

#[tokio::test]
async fn the_configured_name_comes_before_the_dialled_one() {
    let (dir, ca) = (Scratch::new(), Ca::new());
    let (pem, key) = ca.server(params(&["db.internal"]));
    let mut full = rules(UpstreamTlsMode::VerifyFull, Some(dir.file("ca.pem", &ca.0.pem())));
    full.server_name = Some("db.internal".into());
    assert!(dial(&full, server(&pem, &key), "10.1.2.3").await.is_ok());
    full.server_name = Some("other".into());
    assert!(fault(dial(&full, server(&pem, &key), "db.internal").await).is_some());
}

#[tokio::test]
async fn verify_ca_wants_the_chain_but_not_the_name() {
    let (dir, ca) = (Scratch::new(), Ca::new());
    let (pem, key) = ca.server(params(&["db.internal"]));
    let mine = rules(UpstreamTlsMode::VerifyCa, Some(dir.file("ca.pem", &ca.0.pem())));
    assert!(dial(&mine, server(&pem, &key), "elsewhere").await.is_ok());
    let foreign = rules(UpstreamTlsMode::VerifyCa, Some(dir.file("foreign.pem", &Ca::new().0.pem())));
    let refused = dial(&foreign, server(&pem, &key), "db.internal").await;
    assert_eq!(fault(refused), Some(CertificateFault::UnknownIssuer));
}

#[tokio::test]
async fn require_takes_any_certificate_unless_a_ca_file_is_given() {
    let (dir, ca) = (Scratch::new(), Ca::new());
    let (pem, key) = ca.server(params(&["db.internal"]));
    assert!(dial(&rules(UpstreamTlsMode::Require, None), server(&pem, &key), "elsewhere").await.is_ok());
    let foreign = rules(UpstreamTlsMode::Require, Some(dir.file("foreign.pem", &Ca::new().0.pem())));
    let refused = dial(&foreign, server(&pem, &key), "elsewhere").await;
    assert_eq!(fault(refused), Some(CertificateFault::UnknownIssuer));
}

#[tokio::test]
async fn even_require_wants_the_server_to_hold_its_certificates_key() {
    let ca = Ca::new();
    let (pem, _) = ca.server(params(&["db.internal"]));
    let (_, other) = ca.server(params(&["db.internal"]));
    // The library refuses mismatched pairs, so the pair is made below its checks.
    let key = PrivateKeyDer::from_pem_slice(other.serialize_pem().as_bytes()).unwrap();
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
    let pair = Arc::new(rustls::sign::CertifiedKey::new(chain, signer));
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
    let refused = dial(&rules(UpstreamTlsMode::Require, None), Arc::new(config), "db.internal").await;
    assert!(fault(refused).is_some());
}

#[tokio::test]
async fn expired_and_future_certificates_are_told_apart() {
    let (dir, ca) = (Scratch::new(), Ca::new());
    let file = Some(dir.file("ca.pem", &ca.0.pem()));
    let (mut past, mut future) = (params(&["db"]), params(&["db"]));
    past.not_after = rcgen::date_time_ymd(2026, 1, 1);
    future.not_before = rcgen::date_time_ymd(2030, 1, 1);
    for mode in [UpstreamTlsMode::VerifyCa, UpstreamTlsMode::VerifyFull] {
        for (params, expected) in
            [(&past, CertificateFault::Expired), (&future, CertificateFault::NotYetValid)]
        {
            let (pem, key) = ca.server(params.clone());
            assert_eq!(
                fault(dial(&rules(mode, file.clone()), server(&pem, &key), "db").await),
                Some(expected)
            );
        }
    }
}

#[tokio::test]
async fn a_self_signed_server_is_trusted_if_the_file_holds_that_very_certificate() {
    let dir = Scratch::new();
    let key = KeyPair::generate().unwrap();
    let mut own = params(&["db.internal"]);
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = own.self_signed(&key).unwrap().pem();
    let full = rules(UpstreamTlsMode::VerifyFull, Some(dir.file("own.pem", &pem)));
    assert!(dial(&full, server(&pem, &key), "db.internal").await.is_ok());
    assert_eq!(fault(dial(&full, server(&pem, &key), "x").await), Some(CertificateFault::NameMismatch));
    own.not_after = rcgen::date_time_ymd(2026, 1, 1);
    let pem = own.self_signed(&key).unwrap().pem();
    let full = rules(UpstreamTlsMode::VerifyFull, Some(dir.file("old.pem", &pem)));
    assert_eq!(fault(dial(&full, server(&pem, &key), "db.internal").await), Some(CertificateFault::Expired));
}

#[test]
fn disabled_unreadable_and_empty_settings_have_no_connector() {
    let (dir, clock) = (Scratch::new(), Clock::fixed(NOW));
    let make = |mode, file: Option<PathBuf>| Connector::for_resource(&rules(mode, file), None, &clock);
    assert!(matches!(make(UpstreamTlsMode::Disable, None), Err(TlsError::Disabled)));
    let missing = make(UpstreamTlsMode::VerifyFull, Some(dir.0.join("missing")));
    assert!(matches!(missing, Err(TlsError::Read { .. })));
    for text in ["", "not pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let refused = make(UpstreamTlsMode::VerifyCa, Some(dir.file("bad.pem", text)));
        assert!(matches!(refused, Err(TlsError::Content { .. })), "{text}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_server_that_asks() {
    let (dir, ca) = (Scratch::new(), Ca::new());
    let (pem, key) = ca.server(params(&["db"]));
    let mut client = params(&["svc"]);
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let (client_pem, client_key) = ca.server(client);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.0.der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let files = (dir.file("client.pem", &client_pem), dir.file("client.key", &client_key.serialize_pem()));
    let full = rules(UpstreamTlsMode::VerifyFull, Some(dir.file("ca.pem", &ca.0.pem())));
    // The certificate's default start is 1975 and its end 4096, so the server's own clock does not matter.
    let connector = Connector::for_resource(&full, Some(&files), &Clock::fixed(NOW)).unwrap();
    let (near, far) = duplex(64 * 1024);
    let (client, server) = tokio::join!(connector.connect(near, "db"), accept(far, Arc::new(config)));
    client.unwrap();
    assert_eq!(server.unwrap().get_ref().1.peer_certificates().unwrap().len(), 1);
}

#[tokio::test]
async fn the_binding_is_the_hash_of_the_servers_certificate() {
    let (dir, ca) = (Scratch::new(), Ca::new());
    let (pem, key) = ca.server(params(&["db"]));
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let expected = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let full = rules(UpstreamTlsMode::VerifyFull, Some(dir.file("ca.pem", &ca.0.pem())));
    assert_eq!(dial(&full, server(&pem, &key), "db").await.unwrap().unwrap(), expected.as_ref());
}

#[test]
fn bindings_follow_the_signatures_hash_and_ed25519_has_none() {
    let made = |algorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        params(&["db"]).self_signed(&key).unwrap().der().to_vec()
    };
    let length = |algorithm| server_end_point(&made(algorithm)).map(|hash| hash.len());
    assert_eq!(length(&rcgen::PKCS_ECDSA_P256_SHA256), Some(32));
    assert_eq!(length(&rcgen::PKCS_ECDSA_P384_SHA384), Some(48));
    assert_eq!(length(&rcgen::PKCS_RSA_SHA256), Some(32));
    assert_eq!(length(&rcgen::PKCS_RSA_SHA512), Some(64));
    assert_eq!(length(&rcgen::PKCS_ED25519), None);
    assert_eq!(server_end_point(b"not a certificate"), None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_on_both_ends() {
    let connector =
        Connector::for_resource(&rules(UpstreamTlsMode::Require, None), None, &Clock::fixed(NOW)).unwrap();
    let (near, _kept) = duplex(1024);
    assert!(matches!(connector.connect(near, "db").await, Err(TlsError::Timeout { .. })));
    let dir = Scratch::new();
    let config = authority(&dir.0).server_config(&names(&["db"], &[]), None).unwrap();
    let (near, _kept) = duplex(1024);
    assert!(matches!(accept(near, config).await, Err(TlsError::Timeout { .. })));
}

fn authority(dir: &Path) -> Authority {
    authority_at(dir, NOW).unwrap()
}

fn authority_at(dir: &Path, at: UnixMillis) -> Result<Authority, TlsError> {
    Authority::open(&Settings { dir: dir.join("authority") }, &Clock::fixed(at))
}

fn names(dns: &[&str], addresses: &[&str]) -> LeafNames {
    LeafNames::new(dns.iter().copied(), addresses.iter().map(|text| text.parse::<IpAddr>().unwrap())).unwrap()
}

#[tokio::test]
async fn an_agent_that_trusts_the_authority_accepts_its_leaves() {
    let dir = Scratch::new();
    let authority = authority(&dir.0);
    let full = rules(UpstreamTlsMode::VerifyFull, Some(dir.file("ca.pem", authority.ca_pem())));
    let leaf =
        authority.leaf(&names(&["DB.internal."], &["10.0.0.5", "::ffff:10.0.0.6", "fd00::1"])).unwrap();
    for alpn in [None, Some(b"postgresql".as_slice())] {
        for name in ["db.internal", "10.0.0.5", "10.0.0.6", "fd00::1"] {
            let binding = dial(&full, leaf.server_config(alpn).unwrap(), name).await.unwrap();
            assert_eq!(binding.as_deref(), Some(leaf.end_point()), "{name}");
        }
    }
    let refused = dial(&full, leaf.server_config(None).unwrap(), "elsewhere").await;
    assert_eq!(fault(refused), Some(CertificateFault::NameMismatch));
    let stranger = rules(UpstreamTlsMode::VerifyCa, Some(dir.file("foreign.pem", &Ca::new().0.pem())));
    let refused = dial(&stranger, leaf.server_config(None).unwrap(), "db.internal").await;
    assert_eq!(fault(refused), Some(CertificateFault::UnknownIssuer));
}

#[tokio::test]
async fn an_agent_that_does_not_trust_the_authority_is_a_handshake_error_and_not_a_stream() {
    let dir = Scratch::new();
    let config = authority(&dir.0).server_config(&names(&["db"], &[]), None).unwrap();
    let foreign = rules(UpstreamTlsMode::VerifyCa, Some(dir.file("foreign.pem", &Ca::new().0.pem())));
    let connector = Connector::for_resource(&foreign, None, &Clock::fixed(NOW)).unwrap();
    let (near, far) = duplex(64 * 1024);
    let (client, server) = tokio::join!(connector.connect(near, "db"), accept(far, config));
    assert!(client.is_err());
    assert!(matches!(server, Err(TlsError::Handshake { .. })));
}

#[tokio::test]
async fn a_wrong_application_protocol_is_refused() {
    let dir = Scratch::new();
    let authority = authority(&dir.0);
    let full = rules(UpstreamTlsMode::VerifyFull, Some(dir.file("ca.pem", authority.ca_pem())));
    let config = authority.server_config(&names(&["db"], &[]), Some(b"other")).unwrap();
    assert!(matches!(dial(&full, config, "db").await, Err(TlsError::Handshake { .. })));
}

#[test]
fn the_authority_survives_a_restart_and_its_files_are_private() {
    let dir = Scratch::new();
    let first = authority(&dir.0);
    let mode = |name: &str| std::fs::metadata(dir.0.join("authority").join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode(""), mode("ca.key"), mode("ca.pem")), (0o700, 0o600, 0o644));
    assert_eq!(first.ca_pem(), authority(&dir.0).ca_pem());
    assert!(!format!("{first:?}").contains("PRIVATE"));
}

#[tokio::test]
async fn leaves_signed_after_a_restart_still_chain_to_the_first_certificate() {
    let dir = Scratch::new();
    let pem = authority(&dir.0).ca_pem().to_owned();
    let full = rules(UpstreamTlsMode::VerifyFull, Some(dir.file("ca.pem", &pem)));
    let config = authority(&dir.0).server_config(&names(&["db"], &[]), None).unwrap();
    assert!(dial(&full, config, "db").await.is_ok());
}

#[test]
fn an_authority_near_its_end_is_made_anew() {
    let dir = Scratch::new();
    let first = authority(&dir.0);
    let days = |count: u64| UnixMillis(NOW.0 + count * DAY_MILLIS);
    assert_eq!(authority_at(&dir.0, days(290)).unwrap().ca_pem(), first.ca_pem());
    let renewed = authority_at(&dir.0, days(301)).unwrap();
    assert_ne!(renewed.ca_pem(), first.ca_pem());
    assert!(renewed.expires_at() > first.expires_at());
    // A clock that went back behind its start must not use it either.
    assert_ne!(authority(&dir.0).ca_pem(), renewed.ca_pem());
}

#[test]
fn damaged_exposed_and_mismatched_files_are_refused() {
    let dir = Scratch::new();
    let damaged = || matches!(authority_at(&dir.0, NOW), Err(TlsError::Authority { .. }));
    authority(&dir.0);
    let (key, pem) = (dir.0.join("authority/ca.key"), dir.0.join("authority/ca.pem"));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(damaged());
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(!damaged());
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(damaged());
    std::fs::write(&key, "garbage").unwrap();
    assert!(damaged());
    std::fs::write(&key, good).unwrap();
    std::fs::write(&pem, Ca::new().0.pem()).unwrap();
    assert!(damaged());
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let dir = Scratch::new();
    let own = dir.0.join("authority");
    std::fs::create_dir(&own).unwrap();
    std::fs::set_permissions(&own, PermissionsExt::from_mode(0o777)).unwrap();
    assert!(matches!(authority_at(&dir.0, NOW), Err(TlsError::Authority { .. })));
    assert!(!own.join("ca.key").exists());
}

#[test]
fn a_leaf_is_for_servers_short_lived_and_no_authority() {
    let dir = Scratch::new();
    let leaf = authority(&dir.0).leaf(&names(&["db"], &[])).unwrap();
    let der = leaf.certificate();
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    let span = parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp();
    assert!(span <= 30 * 24 * 3600);
    assert!(!parsed.is_ca());
    let usage = parsed.extended_key_usage().unwrap().unwrap();
    assert!(usage.value.server_auth && !usage.value.client_auth && !usage.value.any);
}

#[test]
fn a_leaf_never_outlives_its_authority_and_is_renewed_before_its_end() {
    let dir = Scratch::new();
    let clock = Clock::fixed(NOW);
    let authority = Authority::open(&Settings { dir: dir.0.join("authority") }, &clock).unwrap();
    let wanted = names(&["db"], &[]);
    let first = authority.leaf(&wanted).unwrap();
    clock.set(UnixMillis(NOW.0 + 10 * DAY_MILLIS));
    assert!(Arc::ptr_eq(&first, &authority.leaf(&wanted).unwrap()));
    clock.set(UnixMillis(NOW.0 + 12 * DAY_MILLIS));
    assert!(!Arc::ptr_eq(&first, &authority.leaf(&wanted).unwrap()));
    clock.set(UnixMillis(authority.expires_at().0 - DAY_MILLIS));
    let der = authority.leaf(&wanted).unwrap().certificate();
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap() * 1000;
    assert_eq!(end, authority.expires_at().0);
}

#[test]
fn remembered_leaves_are_bounded() {
    let dir = Scratch::new();
    let authority = authority(&dir.0);
    for number in 0..1030_u32 {
        authority.leaf(&names(&[], &[&std::net::Ipv4Addr::from(number).to_string()])).unwrap();
    }
    assert_eq!(authority.remembered(), 1024);
}

#[test]
fn odd_names_get_no_leaf() {
    let make = |dns: &[&str]| LeafNames::new(dns.iter().copied(), std::iter::empty::<IpAddr>());
    for wrong in [vec![], vec![""], vec!["a b"], vec!["*.internal"], vec!["a\0b"]] {
        assert!(matches!(make(&wrong), Err(TlsError::Name { .. })), "{wrong:?}");
    }
    let many: Vec<String> = (0..40).map(|number| format!("n{number}")).collect();
    assert!(make(&many.iter().map(String::as_str).collect::<Vec<_>>()).is_err());
    assert_eq!(make(&["B", "a", "b."]).unwrap().to_string(), "a, b");
}

#[tokio::test]
async fn a_slow_but_finished_handshake_is_fine() {
    let dir = Scratch::new();
    let authority = authority(&dir.0);
    let config = authority.server_config(&names(&["db"], &[]), None).unwrap();
    let full = rules(UpstreamTlsMode::VerifyFull, Some(dir.file("ca.pem", authority.ca_pem())));
    let connector = Connector::for_resource(&full, None, &Clock::fixed(NOW)).unwrap();
    // Seven bytes at a time.
    let (near, far) = duplex(7);
    let late = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        accept(far, config).await
    };
    let (client, server) = tokio::join!(connector.connect(near, "db"), late);
    assert!(client.is_ok() && server.is_ok());
}
