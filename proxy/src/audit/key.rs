//! The log's Ed25519 key: the private half in `audit.key` (0600), the public half in `audit.pub`.
//!
//! The public file is one line in the form of a C2SP signed-note verifier key, `name+id+base64`; name and key check
//! each other through the id. It refuses a private key that others may read, and refuses to make a new key where a
//! log exists: that would hide the loss of the old one. Known limit: keys are not rotated.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::chain::sha256;

/// The private half.
pub(super) const PRIVATE_FILE: &str = "audit.key";
/// The public half.
pub(super) const PUBLIC_FILE: &str = "audit.pub";
/// A key file is some hundred bytes; more is something else.
const KEY_BYTES_MAX: u64 = 4096;
/// Signed notes number their algorithms; 1 is Ed25519.
const ALGORITHM: u8 = 1;
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----\n";
const PEM_END: &str = "\n-----END PRIVATE KEY-----\n";
/// Mode bits of group and others.
const OTHERS: u32 = 0o077;

/// The name and public key of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    name: String,
    key: Vec<u8>,
}

impl PublicKey {
    /// A log is named by its key, so that no two logs share a name.
    fn new(key: &[u8]) -> Self {
        let digest = sha256(&[b"chaperone audit name 1\n", key]).hex();
        Self {
            name: format!("chaperone-audit-{}", digest.get(..16).unwrap_or_default()),
            key: key.to_owned(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// First four bytes of a hash over name and key, as signed notes define it.
    pub(super) fn id(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = sha256(&[self.name.as_bytes(), b"\n", &[ALGORITHM], &self.key]).0;
        [a, b, c, d]
    }

    /// The verifier key, as in `audit.pub` without the line feed.
    pub(super) fn text(&self) -> String {
        let id = self.id().map(|byte| format!("{byte:02x}")).concat();
        let mut key = vec![ALGORITHM];
        key.extend_from_slice(&self.key);
        format!("{}+{id}+{}", self.name, STANDARD.encode(key))
    }

    /// Reads a verifier key; accepts only the form that [`PublicKey::text`] writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let encoded = text.splitn(3, '+').nth(2)?;
        let bytes = STANDARD.decode(encoded).ok()?;
        let key = bytes.strip_prefix(&[ALGORITHM]).filter(|key| key.len() == 32)?;
        let found = Self::new(key);
        (found.text() == text).then_some(found)
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.key).verify(message, signature).is_ok()
    }
}

/// Reads `audit.pub` of a log.
pub(super) fn read_public(dir: &Path) -> io::Result<Option<PublicKey>> {
    let text = read_small(&dir.join(PUBLIC_FILE))?;
    Ok(text.strip_suffix('\n').and_then(PublicKey::parse))
}

/// The private half.
pub(super) struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Whether a key may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// There is no log yet.
    Make,
    /// There is a log, so there must be its key.
    Refuse,
}

impl Signer {
    /// Opens the key of the log in `dir`. Errors are text: they all mean that the key cannot be used.
    pub(super) fn open(dir: &Path, missing: Missing) -> Result<Self, String> {
        let private = dir.join(PRIVATE_FILE);
        let pem = match read_private(&private) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::Make => {
                let pem = generate()?;
                write_new(&private, 0o600, pem.as_bytes()).map_err(|error| error.to_string())?;
                pem
            }
            Err(error) => return Err(error.to_string()),
        };
        let body = pem.strip_prefix(PEM_BEGIN).and_then(|rest| rest.strip_suffix(PEM_END));
        let bytes =
            STANDARD.decode(body.ok_or("not a PEM private key")?).map_err(|error| error.to_string())?;
        let pair = Ed25519KeyPair::from_pkcs8(&Zeroizing::new(bytes)).map_err(|error| error.to_string())?;
        let public = PublicKey::new(pair.public_key().as_ref());
        match read_public(dir) {
            Ok(Some(found)) if found == public => {}
            Ok(_) => return Err(format!("`{PUBLIC_FILE}` belongs to another key")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::Make => {
                let text = format!("{}\n", public.text());
                write_new(&dir.join(PUBLIC_FILE), 0o644, text.as_bytes())
                    .map_err(|error| error.to_string())?;
            }
            Err(error) => return Err(format!("`{PUBLIC_FILE}`: {error}")),
        }
        Ok(Self { pair, public })
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_owned()
    }
}

fn generate() -> Result<Zeroizing<String>, String> {
    let document =
        Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).map_err(|error| error.to_string())?;
    Ok(Zeroizing::new(format!("{PEM_BEGIN}{}{PEM_END}", STANDARD.encode(document.as_ref()))))
}

fn read_private(path: &Path) -> io::Result<Zeroizing<String>> {
    let mode = fs::symlink_metadata(path)?.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(io::Error::other(format!(
            "mode {:o} lets others read it; it must be 0600",
            mode & 0o777
        )));
    }
    read_small(path).map(Zeroizing::new)
}

fn read_small(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    file.take(KEY_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a file that does not exist yet: whole or, if a crash comes between, not at all.
fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_key_with_any_other_byte_is_refused() {
        let text = PublicKey::new(&[7; 32]).text();
        assert_eq!(PublicKey::parse(&text).map(|key| key.text()), Some(text.clone()));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert_eq!(PublicKey::parse(&changed), None, "{changed}");
            }
        }
    }
}
