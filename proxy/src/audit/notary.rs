//! Signs and checks checkpoints: Ed25519 over a note of origin, size and head hash.
//!
//! Refuses a note of another form, origin or key. Known limit: whoever holds the key can sign another history.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::chain::{Chain, Head, sha256};
use super::checkpoint::{CHECKPOINT_FILE, Checkpoint, Notes};
use super::key::Signer;
use super::storage::{Medium, Storage, cut_behind, write_whole};
use crate::clock::Clock;

/// The end of the checkpoint file.
#[derive(Debug)]
pub(super) struct Notary {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    medium: Arc<dyn Medium>,
    signer: Signer,
    clock: Clock,
    length: u64,
    last: Head,
    signed: Option<u64>,
}

impl Notary {
    /// Opens the file after `notes` and cuts whatever follows them.
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        dir: &std::path::Path,
        signer: Signer,
        clock: Clock,
        notes: &Notes,
    ) -> io::Result<Self> {
        let path = dir.join(CHECKPOINT_FILE);
        let medium = storage.open(&path)?;
        let signed = notes.list.last().map(|(note, _)| note.chain.records());
        let mut notary =
            Self { storage, path, medium, signer, clock, length: notes.length, last: notes.last, signed };
        notary.reopen()?;
        Ok(notary)
    }

    /// Opens the file anew after a failure and cuts what the failure left.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.medium = self.storage.open(&self.path)?;
        if self.medium.length()? < self.length {
            return Err(io::Error::other("checkpoints were removed"));
        }
        self.medium.truncate(self.length)?;
        self.medium.sync()
    }

    /// Records that the last checkpoint covers; `None` before the first.
    pub(super) fn signed(&self) -> Option<u64> {
        self.signed
    }

    /// Signs `chain`, which must be on disk.
    pub(super) fn sign(&mut self, chain: Chain) -> io::Result<()> {
        let note = Checkpoint { chain, time: self.clock.now(), prior: self.last }.sign(&self.signer);
        let written = write_whole(self.medium.as_ref(), note.as_bytes(), self.length);
        if let Err(error) = written.and_then(|()| self.medium.sync()) {
            if let Err(error) = cut_behind(self.medium.as_ref(), self.length) {
                tracing::debug!(%error, "the failed checkpoint could not be cut; it is cut at the next try");
            }
            return Err(error);
        }
        self.length = self.length.saturating_add(u64::try_from(note.len()).unwrap_or(u64::MAX));
        self.last = sha256(&[note.as_bytes()]);
        self.signed = Some(chain.records());
        Ok(())
    }
}
