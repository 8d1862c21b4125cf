//! A small authority for tests: certificates for servers and clients, good or expired on purpose.
//!
//! Every [`Ca`] has its own name and key, so that two never pass for each other. Keys live in memory and in the
//! folder a test asks for; nothing is trusted outside the test.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// An authority.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ca(..)")
    }
}

/// A certificate signed by a [`Ca`], with its key.
pub struct Issued {
    certificate_pem: String,
    key_pem: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Issued(..)")
    }
}

/// Whether a certificate's time is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Valid for as long as anybody tests.
    Current,
    /// Over since 2021.
    Expired,
}

impl Ca {
    /// A new authority whose certificate says `name`.
    ///
    /// # Errors
    /// If the key or the certificate cannot be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes its certificate to `dir` as `name`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
        let path = dir.join(name);
        std::fs::write(&path, self.pem()).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(path)
    }

    /// A certificate for a server with these DNS names and addresses.
    ///
    /// # Errors
    /// If a name is not one.
    pub fn server(&self, names: &[&str], validity: Validity) -> anyhow::Result<Issued> {
        self.issue(names, validity, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client; `name` becomes its common name, which is what PostgreSQL reads.
    ///
    /// # Errors
    /// If the name is not one.
    pub fn client(&self, name: &str) -> anyhow::Result<Issued> {
        self.issue(&[name], Validity::Current, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        names: &[&str],
        validity: Validity,
        usage: ExtendedKeyUsagePurpose,
    ) -> anyhow::Result<Issued> {
        let owned: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(owned)?;
        params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nobody"));
        params.extended_key_usages = vec![usage];
        match validity {
            Validity::Current => {}
            Validity::Expired => {
                params.not_before = rcgen::date_time_ymd(2020, 1, 1);
                params.not_after = rcgen::date_time_ymd(2021, 1, 1);
            }
        }
        let key = KeyPair::generate()?;
        Ok(Issued { certificate_pem: params.signed_by(&key, &self.0)?.pem(), key_pem: key.serialize_pem() })
    }
}

impl Issued {
    /// The certificate.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Writes `<stem>.crt` and `<stem>.key` (0600) to `dir`; their paths.
    ///
    /// # Errors
    /// If a file is there already or cannot be written.
    pub fn write(&self, dir: &Path, stem: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
        let place = |suffix: &str, mode: u32, text: &str| -> anyhow::Result<PathBuf> {
            let path = dir.join(format!("{stem}.{suffix}"));
            let mut options = OpenOptions::new();
            let opened = options.write(true).create_new(true).mode(mode).open(&path);
            let mut file = opened.with_context(|| format!("cannot create `{}`", path.display()))?;
            file.write_all(text.as_bytes())?;
            Ok(path)
        };
        Ok((place("crt", 0o644, &self.certificate_pem)?, place("key", 0o600, &self.key_pem)?))
    }

    /// A server configuration that shows this certificate and asks clients for none.
    ///
    /// # Errors
    /// If the library refuses.
    pub fn server_config(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let chain = vec![CertificateDer::from_pem_slice(self.certificate_pem.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Arc::new(config))
    }
}
