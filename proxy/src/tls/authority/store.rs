//! The authority's two files: `ca.pem` (0644) and `ca.key` (0600).
//!
//! Each is written beside its place, synced and renamed. A missing file means "make a new authority"; files that
//! are there but damaged, mismatched or open to others are errors, never silently replaced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::UnixMillis;
use crate::tls::error::TlsError;
use crate::tls::roots::read;

use super::AUTHORITY_NAME;

/// An authority as read from disk.
pub(super) struct Kept {
    pub(super) key: KeyPair,
    pub(super) pem: String,
    pub(super) not_before: UnixMillis,
    pub(super) expires_at: UnixMillis,
}

/// Reads both files; `None` if either is missing.
pub(super) fn load(dir: &Path) -> Result<Option<Kept>, TlsError> {
    let damaged = |problem: String| TlsError::Authority { dir: dir.to_owned(), problem };
    let (Some(pem), Some(key)) = (read_if_there(&dir.join(CERTIFICATE))?, read_if_there(&dir.join(KEY))?)
    else {
        return Ok(None);
    };
    let key_path = dir.join(KEY);
    let metadata =
        fs::metadata(&key_path).map_err(|source| TlsError::Read { path: key_path.clone(), source })?;
    if metadata.mode() & 0o077 != 0 {
        return Err(damaged("its key can be read by others".to_owned()));
    }
    let key = zeroize::Zeroizing::new(key);
    let key = std::str::from_utf8(&key).map_err(|error| damaged(format!("its key is not text: {error}")))?;
    let key = KeyPair::from_pem(key).map_err(|error| damaged(format!("its key does not parse: {error}")))?;
    let pem =
        String::from_utf8(pem).map_err(|error| damaged(format!("its certificate is not text: {error}")))?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| damaged(format!("its certificate does not parse: {error}")))?;
    let (not_before, expires_at) = check(&certificate, &key).map_err(damaged)?;
    Ok(Some(Kept { key, pem, not_before, expires_at }))
}

/// That the certificate is ours and is the key's; its times.
fn check(certificate: &CertificateDer<'_>, key: &KeyPair) -> Result<(UnixMillis, UnixMillis), String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err("its key is not the key of its certificate".to_owned());
    }
    let named = parsed
        .subject()
        .iter_common_name()
        .any(|name| name.as_str().is_ok_and(|name| name == AUTHORITY_NAME));
    if !named || parsed.subject() != parsed.issuer() || !parsed.is_ca() {
        return Err("its certificate was not made by Chaperone".to_owned());
    }
    let millis = |seconds: i64| UnixMillis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let validity = parsed.validity();
    Ok((millis(validity.not_before.timestamp()), millis(validity.not_after.timestamp())))
}

/// Writes both files.
pub(super) fn save(dir: &Path, pem: &str, key: &KeyPair) -> Result<(), TlsError> {
    let fail = |source| TlsError::Write { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
    let metadata = fs::metadata(dir).map_err(fail)?;
    if metadata.mode() & 0o022 != 0 {
        return Err(TlsError::Authority {
            dir: dir.to_owned(),
            problem: "others can write to its directory".to_owned(),
        });
    }
    let key_pem = zeroize::Zeroizing::new(key.serialize_pem());
    // Without its certificate an old key is harmless, so the certificate goes first and comes back last.
    match fs::remove_file(dir.join(CERTIFICATE)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(TlsError::Write { path: dir.join(CERTIFICATE), source }),
    }
    place(dir, KEY, key_pem.as_bytes(), 0o600)?;
    place(dir, CERTIFICATE, pem.as_bytes(), 0o644)?;
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(fail)
}

fn place(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let target = dir.join(name);
    let beside = dir.join(format!(".{name}.new"));
    let written = write_new(&beside, bytes, mode).and_then(|()| fs::rename(&beside, &target));
    written.map_err(|source| TlsError::Write { path: target, source })
}

fn write_new(path: &PathBuf, bytes: &[u8], mode: u32) -> io::Result<()> {
    // A leftover of an interrupted run must not lend its mode to the new file.
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, TlsError> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(TlsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
