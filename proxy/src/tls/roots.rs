//! Accepted authorities: certificates from a PEM file, or from the system's store.
//!
//! A file that holds no certificate, or one that does not parse, is an error: a shorter list than the operator
//! wrote is never used in silence. The system's store is read once per connector; entries it cannot parse are
//! counted and skipped, as they are not the operator's words.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::error::TlsError;

/// 4 MiB: the system's whole bundle is a quarter of a megabyte.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The authorities a connection accepts.
#[derive(Debug)]
pub(super) struct Roots {
    /// For building chains.
    pub(super) store: RootCertStore,
    /// The certificates of the operator's file: a server that shows one of these very certificates is trusted,
    /// as with OpenSSL. Empty for the system's store.
    pub(super) exact: Vec<CertificateDer<'static>>,
}

impl Roots {
    pub(super) fn load(ca_file: Option<&Path>) -> Result<Self, TlsError> {
        match ca_file {
            Some(path) => Self::from_file(path),
            None => Self::from_system(),
        }
    }

    fn from_file(path: &Path) -> Result<Self, TlsError> {
        let exact = certificates(path)?;
        let mut store = RootCertStore::empty();
        for certificate in &exact {
            store.add(certificate.clone()).map_err(|error| TlsError::Content {
                path: path.to_owned(),
                problem: format!("a certificate in it is not a usable authority: {error}"),
            })?;
        }
        Ok(Self { store, exact })
    }

    fn from_system() -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (added, skipped) = store.add_parsable_certificates(found.certs);
        if added == 0 {
            let problem =
                found.errors.first().map_or_else(|| "no certificates".to_owned(), ToString::to_string);
            return Err(TlsError::NoRoots { problem });
        }
        tracing::debug!(added, skipped, "system authorities loaded");
        Ok(Self { store, exact: Vec::new() })
    }
}

/// All certificates of a PEM file, in order; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(list) if list.is_empty() => Err(TlsError::Content {
            path: path.to_owned(),
            problem: "it holds no PEM certificate".to_owned(),
        }),
        Ok(list) => Ok(list),
        Err(error) => Err(TlsError::Content { path: path.to_owned(), problem: error.to_string() }),
    }
}

/// The private key of a PEM file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = zeroize::Zeroizing::new(read(path)?);
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|error| TlsError::Content { path: path.to_owned(), problem: error.to_string() })
}

/// A whole file, within the limit.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let fail = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(FILE_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes).map_err(fail)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(TlsError::Content {
            path: path.to_owned(),
            problem: format!("it is larger than {FILE_BYTES_MAX} bytes"),
        });
    }
    Ok(bytes)
}
