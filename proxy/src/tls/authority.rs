//! The local authority: one ECDSA P-256 key that signs short-lived leaves for intercepted servers.
//!
//! Made when missing, made anew by [`Authority::open`] when its end is near. A leaf has its own key, is
//! signed with SHA-256 (so that it has a channel binding), is for servers only, and never outlives the authority.
//! Refuses a key file that others can read, and files that do not belong together.
//! INVARIANT: the authority's private key is never written anywhere but `ca.key`, and never returned.
//! Known limits: renewal happens at start only; after it, agents started earlier must be restarted to trust it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{DnsName, PrivatePkcs8KeyDer};

use crate::clock::Clock;
use crate::model::UnixMillis;

use super::error::TlsError;
use super::{ClockTime, Settings, binding, provider};

mod store;

/// What an agent may have dialled: the names one leaf carries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafNames {
    dns: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl LeafNames {
    /// Names for one server: at least one, at most 32 together.
    ///
    /// # Errors
    /// [`TlsError::Name`] for text that is no DNS name, for none at all, and for too many.
    pub fn new<'a>(
        dns: impl IntoIterator<Item = &'a str>,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, TlsError> {
        let dns = dns
            .into_iter()
            .take(LEAF_NAMES_MAX.saturating_add(1))
            .map(|name| match DnsName::try_from(name) {
                Ok(valid) => Ok(valid.as_ref().trim_end_matches('.').to_ascii_lowercase()),
                Err(_invalid) => Err(TlsError::Name { name: name.to_owned() }),
            })
            .collect::<Result<BTreeSet<_>, _>>()?;
        let addresses: BTreeSet<_> = addresses
            .into_iter()
            .take(LEAF_NAMES_MAX.saturating_add(1))
            .map(|address| address.to_canonical())
            .collect();
        let names = Self { dns, addresses };
        match names.dns.len().saturating_add(names.addresses.len()) {
            1..=LEAF_NAMES_MAX => Ok(names),
            _ => Err(TlsError::Name { name: names.to_string() }),
        }
    }
}

impl fmt::Display for LeafNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.addresses.iter().map(ToString::to_string);
        let all: Vec<String> = self.dns.iter().cloned().chain(addresses).collect();
        f.write_str(&all.join(", "))
    }
}

/// A certificate for one set of names, with its key.
#[derive(Debug)]
pub struct Leaf {
    certified: Arc<CertifiedKey>,
    end_point: Vec<u8>,
    expires_at: UnixMillis,
    clock: Clock,
}

impl Leaf {
    /// A server configuration that shows this leaf; `alpn` is the only application protocol accepted, if given.
    /// Resumption is off: every connection is a full handshake.
    ///
    /// # Errors
    /// [`TlsError::Config`] if the library refuses.
    pub fn server_config(&self, alpn: Option<&[u8]>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config =
            ServerConfig::builder_with_details(provider(), Arc::new(ClockTime(self.clock.clone())))
                .with_safe_default_protocol_versions()
                .map_err(|source| TlsError::Config { source })?
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified))));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
        Ok(Arc::new(config))
    }

    /// `tls-server-end-point` of this leaf, for SCRAM-PLUS towards the agent.
    #[must_use]
    pub fn end_point(&self) -> &[u8] {
        &self.end_point
    }

    #[cfg(test)]
    pub(super) fn certificate(&self) -> Vec<u8> {
        self.certified.end_entity_cert().map(|der| der.to_vec()).unwrap_or_default()
    }
}

/// The local authority. Cheap to clone.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    expires_at: UnixMillis,
    clock: Clock,
    leaves: Mutex<HashMap<LeafNames, Arc<Leaf>>>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("expires_at", &self.0.expires_at).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority in `settings.dir`, making or renewing it when needed. Reads and writes files.
    ///
    /// # Errors
    /// [`TlsError::Read`], [`TlsError::Write`], [`TlsError::Authority`] or [`TlsError::Mint`].
    pub fn open(settings: &Settings, clock: &Clock) -> Result<Self, TlsError> {
        let now = clock.now();
        let kept = store::load(&settings.dir)?
            .filter(|kept| kept.not_before <= now && now.plus(AUTHORITY_RENEW_BEFORE) < kept.expires_at);
        let kept = match kept {
            Some(kept) => kept,
            None => {
                let (pem, key) = mint_authority(now)?;
                store::save(&settings.dir, &pem, &key)?;
                tracing::info!(dir = %settings.dir.display(), "made a new local authority");
                store::load(&settings.dir)?.ok_or_else(|| TlsError::Authority {
                    dir: settings.dir.clone(),
                    problem: "its files vanished after they were written".to_owned(),
                })?
            }
        };
        Ok(Self(Arc::new(Inner {
            issuer: Issuer::new(authority_params(kept.not_before, kept.expires_at), kept.key),
            pem: kept.pem,
            expires_at: kept.expires_at,
            clock: clock.clone(),
            leaves: Mutex::new(HashMap::new()),
        })))
    }

    /// The authority's certificate, for agents' trust stores.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.0.pem
    }

    /// When the authority ends; the daemon must be restarted before.
    #[must_use]
    pub fn expires_at(&self) -> UnixMillis {
        self.0.expires_at
    }

    /// The leaf for `names`: remembered, or minted now (about a millisecond).
    ///
    /// # Errors
    /// [`TlsError::Mint`] or [`TlsError::Config`].
    pub fn leaf(&self, names: &LeafNames) -> Result<Arc<Leaf>, TlsError> {
        let fresh_until = self.0.clock.now().plus(LEAF_RENEW_BEFORE);
        let remembered = self.0.leaves.lock().get(names).map(Arc::clone);
        if let Some(leaf) = remembered.filter(|leaf| fresh_until < leaf.expires_at) {
            return Ok(leaf);
        }
        // Minted outside the lock; two at once cost one wasted leaf, not a stalled daemon.
        let leaf = Arc::new(self.mint(names)?);
        let mut leaves = self.0.leaves.lock();
        if leaves.len() >= LEAVES_MAX {
            let oldest =
                leaves.iter().min_by_key(|(_, leaf)| leaf.expires_at).map(|(names, _)| names.clone());
            if let Some(oldest) = oldest {
                leaves.remove(&oldest);
            }
        }
        leaves.insert(names.clone(), Arc::clone(&leaf));
        Ok(leaf)
    }

    /// [`Leaf::server_config`] of the leaf for `names`.
    ///
    /// # Errors
    /// As [`Authority::leaf`].
    pub fn server_config(
        &self,
        names: &LeafNames,
        alpn: Option<&[u8]>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        self.leaf(names)?.server_config(alpn)
    }

    /// [`Leaf::end_point`] of the leaf for `names`. Take both from one [`Authority::leaf`] where they must agree.
    ///
    /// # Errors
    /// As [`Authority::leaf`].
    pub fn leaf_end_point_hash(&self, names: &LeafNames) -> Result<Vec<u8>, TlsError> {
        Ok(self.leaf(names)?.end_point().to_vec())
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.0.leaves.lock().len()
    }

    fn mint(&self, names: &LeafNames) -> Result<Leaf, TlsError> {
        let fail = |source| TlsError::Mint { subject: names.to_string(), source };
        let now = self.0.clock.now();
        let expires_at = now.plus(LEAF_LIFETIME).min(self.0.expires_at);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
        let certificate = leaf_params(names, before(now), expires_at)
            .map_err(fail)?
            .signed_by(&key, &self.0.issuer)
            .map_err(fail)?;
        let end_point = binding::server_end_point(certificate.der()).ok_or(TlsError::Mint {
            subject: names.to_string(),
            source: rcgen::Error::UnsupportedSignatureAlgorithm,
        })?;
        let certified = CertifiedKey::from_der(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            &provider(),
        )
        .map_err(|source| TlsError::Config { source })?;
        Ok(Leaf { certified: Arc::new(certified), end_point, expires_at, clock: self.0.clock.clone() })
    }
}

fn mint_authority(now: UnixMillis) -> Result<(String, KeyPair), TlsError> {
    let fail = |source| TlsError::Mint { subject: "the local authority".to_owned(), source };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
    let params = authority_params(before(now), now.plus(AUTHORITY_LIFETIME));
    let certificate = params.self_signed(&key).map_err(fail)?;
    Ok((certificate.pem(), key))
}

/// INVARIANT: the name depends on nothing, so that a reloaded authority signs as the one that was made.
fn authority_params(not_before: UnixMillis, not_after: UnixMillis) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(AUTHORITY_NAME);
    set_times(&mut params, not_before, not_after);
    // No authority below this one.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn leaf_params(
    names: &LeafNames,
    not_before: UnixMillis,
    not_after: UnixMillis,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("Chaperone intercepted server");
    set_times(&mut params, not_before, not_after);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in &names.dns {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    params.subject_alt_names.extend(names.addresses.iter().map(|address| SanType::IpAddress(*address)));
    Ok(params)
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn set_times(params: &mut CertificateParams, not_before: UnixMillis, not_after: UnixMillis) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(not_before.0);
    params.not_after = epoch + Duration::from_millis(not_after.0);
}

fn before(now: UnixMillis) -> UnixMillis {
    UnixMillis(now.0.saturating_sub(u64::try_from(BACKDATE.as_millis()).unwrap_or(0)))
}

/// Common name of every local authority's certificate.
const AUTHORITY_NAME: &str = "Chaperone local authority";
/// A server has few names; a certificate with more is a mistake.
const LEAF_NAMES_MAX: usize = 32;
/// Far more than resources on one host; each costs about 2 KiB.
const LEAVES_MAX: usize = 1024;
/// Clients with clocks a little behind must not refuse a new leaf.
const BACKDATE: Duration = Duration::from_secs(60 * 60);
/// Under the 30 days promised, backdating included.
const LEAF_LIFETIME: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// A leaf handed out lasts at least this long.
const LEAF_RENEW_BEFORE: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// Just under the 398 days clients accept.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(390 * 24 * 60 * 60);
/// A daemon may run this long between restarts before its authority ends.
const AUTHORITY_RENEW_BEFORE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
