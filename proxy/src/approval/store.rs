//! Tickets on disk: one file each, replaced whole.
//!
//! A save is: write `<id>.tmp`, fsync it, rename it over `<id>.json`, fsync the directory. After it returns `Ok` the
//! new state survives a crash and power loss. A file that cannot be read as a ticket is left alone and grants nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::error::ApprovalError;
use super::ticket::{FORM, Ticket};
use crate::model::TicketId;

/// 16 MiB: far above a ticket of the longest request the queue takes; a larger file is not ours.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The directory of tickets.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the directory, makes it when missing, and removes what a crash left half-written.
    pub(super) fn open(dir: &Path) -> Result<Self, ApprovalError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(file("make directory", dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Every readable ticket.
    pub(super) fn load(&self) -> Result<Vec<Ticket>, ApprovalError> {
        let mut tickets = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(file("list", &self.dir))? {
            let path = entry.map_err(file("list", &self.dir))?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("tmp") => fs::remove_file(&path).map_err(file("remove", &path))?,
                Some("json") => match read(&path) {
                    Ok(ticket) if path == self.path(&ticket.id) => tickets.push(ticket),
                    Ok(_) => {
                        tracing::warn!(path = %path.display(), "ticket file has another ticket's name; ignored")
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "ticket file is unreadable; ignored");
                    }
                },
                Some(_) | None => {}
            }
        }
        Ok(tickets)
    }

    /// Replaces the ticket's file durably.
    pub(super) fn save(&self, ticket: &Ticket) -> Result<(), ApprovalError> {
        let text = serde_json::to_vec(ticket)?;
        let path = self.path(&ticket.id);
        let temporary = path.with_extension("tmp");
        let mut open = OpenOptions::new();
        let mut out = open
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(file("write", &temporary))?;
        out.write_all(&text).and_then(|()| out.sync_all()).map_err(file("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(file("replace", &path))?;
        self.sync()
    }

    /// Whether a file of this id exists, readable or not.
    pub(super) fn holds(&self, id: &TicketId) -> bool {
        self.path(id).symlink_metadata().is_ok()
    }

    /// Removes an old ticket. Not synced: one that comes back is still closed.
    pub(super) fn remove(&self, id: &TicketId) -> Result<(), ApprovalError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", &path)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn path(&self, id: &TicketId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    fn sync(&self) -> Result<(), ApprovalError> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(file("sync", &self.dir))
    }
}

fn read(path: &Path) -> io::Result<Ticket> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let ticket: Ticket = serde_json::from_slice(&bytes)?;
    if ticket.v == FORM {
        Ok(ticket)
    } else {
        Err(io::Error::other(format!("form {} is not known", ticket.v)))
    }
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ApprovalError {
    let path = path.to_owned();
    move |source| ApprovalError::File { action, path, source }
}
