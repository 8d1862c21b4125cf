//! What the daemon asks the guard process to do: end sockets in a namespace that the daemon has a netlink socket in.
//!
//! A unix socket in the guard process's folder, for root alone. One connection, one errand: the ids of an agent's topmost cgroups
//! in JSON, with the netlink socket; back comes what was done. The guard process looks below the agents' parent itself, so that a
//! daemon which was taken over can end agents' sockets and no others. Refuses: other accounts, other kinds of socket, errands that
//! are longer than [`ERRAND_BYTES_MAX`] or late.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};
use serde::{Deserialize, Serialize};

use super::netlink::Sockets;
use super::{AbortError, Count, below};
use crate::intercept::{Settings, Tree, raw, voice_of};

/// Ids of thousands of cgroups.
const ERRAND_BYTES_MAX: usize = 65_536;
/// How long either side waits for the other. Listing hundred thousand sockets takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after the kernel refused to accept.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Errand {
    cgroups: BTreeSet<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Done(Count),
    Failed(String),
}

/// Where the guard process of a daemon with this runtime directory takes errands.
#[must_use]
pub fn desk_of(runtime_dir: &Path) -> PathBuf {
    voice_of(runtime_dir).with_file_name("errands.sock")
}

/// Has the guard process end sockets.
pub(super) fn send(desk: &Path, tops: &BTreeSet<u64>, sockets: &Sockets) -> Result<Count, AbortError> {
    let reply = dial(desk, tops, sockets).map_err(|source| AbortError::Guard { source })?;
    match reply {
        Reply::Done(count) => Ok(count),
        Reply::Failed(why) => Err(AbortError::Refused(why)),
    }
}

fn dial(desk: &Path, tops: &BTreeSet<u64>, sockets: &Sockets) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(desk)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let errand = serde_json::to_vec(&Errand { cgroups: tops.clone() })?;
    let (first, rest) = errand.split_at_checked(1).ok_or(io::ErrorKind::InvalidData)?;
    let control = raw::rights(&[sockets.as_fd()]);
    raw::send(&stream, raw::Outgoing { payload: first, control: &control, ..raw::Outgoing::default() })?;
    stream.write_all(rest)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = Vec::new();
    stream.take(u64::try_from(ERRAND_BYTES_MAX).unwrap_or(u64::MAX)).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// The guard process's side.
#[derive(Debug)]
pub struct Errands {
    listener: UnixListener,
    settings: Settings,
}

impl Errands {
    /// Listens at `desk`. The caller is the only guard process of that folder.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(desk: &Path, settings: &Settings) -> io::Result<Self> {
        match fs::remove_file(desk) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(desk)?;
        fs::set_permissions(desk, Permissions::from_mode(0o600))?;
        Ok(Self { listener, settings: settings.clone() })
    }

    /// Does errands for as long as the process lives, one after the other, on a thread of its own.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn serve(self) -> io::Result<()> {
        let serve = move || loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Err(error) = self.attend(stream) {
                        tracing::warn!(%error, "an errand was not done");
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "errands are not taken at the moment");
                    std::thread::sleep(PAUSE);
                }
            }
        };
        std::thread::Builder::new().name("errands".into()).spawn(serve).map(drop)
    }

    fn attend(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
        if peer.uid() != 0 {
            return Err(io::Error::other("only root's daemon sends errands"));
        }
        let (errand, handed) = taken(&mut stream)?;
        let reply = match self.run(&errand, handed) {
            Ok(count) => {
                tracing::info!(ended = count.ended, "ended sockets of an agent");
                Reply::Done(count)
            }
            Err(error) => Reply::Failed(error.to_string()),
        };
        stream.write_all(&serde_json::to_vec(&reply)?)
    }

    fn run(&self, errand: &Errand, handed: OwnedFd) -> Result<Count, AbortError> {
        let sockets = Sockets::of(handed)?;
        let parent = Tree::find()?.open(&self.settings.parent)?;
        sockets.end(&below(&parent, &errand.cgroups))
    }
}

fn taken(stream: &mut UnixStream) -> io::Result<(Errand, OwnedFd)> {
    let mut text = vec![0; 1];
    let received = raw::receive(stream, &mut text)?;
    let [handed] = <[OwnedFd; 1]>::try_from(received.descriptors)
        .map_err(|_others| io::Error::new(io::ErrorKind::InvalidData, "an errand brings one socket"))?;
    // A guard process that becomes another program takes nothing along.
    fcntl(&handed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let limit = u64::try_from(ERRAND_BYTES_MAX).unwrap_or(u64::MAX);
    stream.take(limit).read_to_end(&mut text)?;
    Ok((serde_json::from_slice(&text)?, handed))
}
