//! The daemon's end of the control socket.
//!
//! A connection may make many calls, one line each. Bounded: line length, connections, time without a call.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::api::{AccountState, Answer, Call, StatusReport};
use crate::approval::{Queue, Vote};
use crate::model::{AgentName, SelftestResult};
use crate::session::Registry;
use crate::shutdown::{Phase, Shutdown};

/// Longest call: a vote with a reason.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Connections at a time. People and scripts, not load.
const CONNECTIONS_MAX: usize = 64;
/// Longest silence.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What the server needs of the daemon.
pub trait Services: fmt::Debug + Send + Sync {
    /// The daemon's state.
    fn status(&self) -> StatusReport;
    /// Reads policy again; the sentence says what happened.
    ///
    /// # Errors
    /// With what was wrong; the old bundle stays.
    fn reload(&self, by: &str) -> Result<String, String>;
    /// Stops an agent, its processes too when `freeze`; the sentence says what was done.
    ///
    /// # Errors
    /// With what was not done; what could be stopped is.
    fn quarantine(&self, agent: &AgentName, freeze: bool, by: &str) -> Result<String, String>;
    /// Lets an agent go again.
    ///
    /// # Errors
    /// With what was not done.
    fn release(&self, agent: &AgentName, by: &str) -> Result<String, String>;
    /// What the kernel counted for each account.
    ///
    /// # Errors
    /// When it cannot be read.
    fn accounts(&self) -> Result<Vec<AccountState>, String>;
    /// Notes an operator's act in the record.
    fn acted(&self, by: &str, action: &str, target: &str);
    /// Places the calling process into a guarded cgroup of its own; the answer is its path below the cgroup2 mount.
    ///
    /// # Errors
    /// With why it is not one of this agent's, in words for the caller.
    fn place(&self, caller: Peer, agent: &AgentName, step: Option<&str>) -> Result<String, String>;
    /// Puts the result of a self-test into the record.
    ///
    /// # Errors
    /// With why it is not in the record.
    fn selftest(&self, by: &str, result: &SelftestResult) -> Result<String, String>;
    /// Whether a process is inside the agents' cgroup, or cannot be shown not to be.
    fn is_agent(&self, pid: Option<i32>) -> bool;
}

/// A process at the other end of the socket, by the kernel's word.
#[derive(Debug)]
pub struct Peer {
    /// Its account.
    pub uid: u32,
    /// Its number, which may come to mean another process.
    pub pid: u32,
    /// A handle that never does; kernels before 6.5 give none.
    pub handle: Option<OwnedFd>,
}

/// The control socket.
#[derive(Debug, Clone)]
pub struct Server {
    services: Arc<dyn Services>,
    queue: Queue,
    registry: Registry,
    places: Arc<Semaphore>,
}

/// Where the socket is.
pub(super) fn socket_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("control.sock")
}

impl Server {
    /// Over the rooms it speaks for.
    #[must_use]
    pub fn new(services: Arc<dyn Services>, queue: Queue, registry: Registry) -> Self {
        Self { services, queue, registry, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    /// Opens the socket in `runtime_dir` and serves it until the daemon drains. The caller holds the daemon's lock, so a socket
    /// that is there belongs to a dead daemon.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(self, runtime_dir: &Path, shutdown: &Shutdown) -> std::io::Result<()> {
        let path = socket_path(runtime_dir);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let listener = UnixListener::bind(&path)?;
        // Anybody may knock: the kernel says who it is, and that decides.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        let end = shutdown.clone();
        shutdown.spawn("control", async move {
            tokio::select! {
                biased;
                () = end.reached(Phase::Draining) => {}
                () = self.accept(listener, &end) => {}
            }
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::debug!(%error, "control socket was gone already");
            }
        });
        Ok(())
    }

    async fn accept(&self, listener: UnixListener, shutdown: &Shutdown) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { continue };
                    let server = self.clone();
                    shutdown.spawn("control-connection", async move {
                        if let Err(error) = server.converse(stream).await {
                            tracing::debug!(%error, "control connection ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket does not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn converse(&self, stream: UnixStream) -> std::io::Result<()> {
        let credentials = stream.peer_cred()?;
        let agent = self.services.is_agent(credentials.pid());
        let handle = getsockopt(&stream, sockopt::PeerPidfd).ok();
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        let uid = credentials.uid();
        let mut caller = Caller { uid, agent, peer: pid.map(|pid| Peer { uid, pid, handle }) };
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            let read =
                (&mut stream).take(LINE_BYTES_MAX).read_line(&mut line).await_within(SILENCE_MAX).await??;
            if read == 0 {
                return Ok(());
            }
            let answer = match serde_json::from_str::<Call>(&line) {
                Ok(call) => self.answer(&mut caller, call),
                Err(error) => Answer::Refused { why: format!("the call cannot be read: {error}") },
            };
            let mut text = serde_json::to_string(&answer)?;
            text.push('\n');
            stream.write_all(text.as_bytes()).await?;
        }
    }

    fn answer(&self, caller: &mut Caller, call: Call) -> Answer {
        let refuse = |why: &str| Answer::Refused { why: why.to_owned() };
        if caller.agent {
            return refuse("agents have no business here");
        }
        if let Call::Place { agent, step } = &call {
            return self.place(caller, agent, step.as_deref());
        }
        let voter = self.queue.voter(caller.uid);
        if caller.uid != 0 && voter.is_none() {
            return refuse("only root and configured approvers may call");
        }
        match call {
            Call::Status => Answer::Status(Box::new(self.services.status())),
            Call::Sessions if caller.uid == 0 => Answer::Sessions { sessions: self.registry.list() },
            Call::Kill { session } if caller.uid == 0 => {
                if !self.registry.kill(session, "ended by an operator") {
                    return refuse("there is no such session");
                }
                self.services.acted(&caller.name(), "kill", &session.to_string());
                Answer::Done { what: format!("session {session} is told to end") }
            }
            Call::Reload if caller.uid == 0 => done(self.services.reload(&caller.name())),
            Call::Quarantine { agent, freeze } if caller.uid == 0 => {
                done(self.services.quarantine(&agent, freeze, &caller.name()))
            }
            Call::Release { agent } if caller.uid == 0 => done(self.services.release(&agent, &caller.name())),
            Call::Selftest { result } if caller.uid == 0 => {
                done(self.services.selftest(&caller.name(), &result))
            }
            Call::Accounts if caller.uid == 0 => match self.services.accounts() {
                Ok(accounts) => Answer::Accounts { accounts },
                Err(why) => Answer::Refused { why },
            },
            Call::Sessions
            | Call::Accounts
            | Call::Selftest { .. }
            | Call::Kill { .. }
            | Call::Reload
            | Call::Quarantine { .. }
            | Call::Release { .. }
            | Call::Place { .. } => refuse("only root may do that"),
            Call::Tickets { all } => {
                let tickets =
                    self.queue.list().into_iter().filter(|ticket| all || ticket.state.is_open()).collect();
                Answer::Tickets { tickets }
            }
            Call::Ticket { id } => match self.queue.show(&id) {
                Some(ticket) => Answer::Ticket(Box::new(ticket)),
                None => refuse("there is no such ticket"),
            },
            Call::Vote { id, vote, reason } => match voter {
                Some(voter) => self.vote(&id, &voter, vote, reason),
                None => refuse("this account is no configured approver"),
            },
        }
    }

    /// Once for each connection: after it the caller is an agent.
    fn place(&self, caller: &mut Caller, agent: &AgentName, step: Option<&str>) -> Answer {
        let Some(peer) = caller.peer.take() else {
            return Answer::Refused { why: "the kernel does not say which process calls".to_owned() };
        };
        caller.agent = true;
        match self.services.place(peer, agent, step) {
            Ok(cgroup) => Answer::Placed { cgroup },
            Err(why) => Answer::Refused { why },
        }
    }

    fn vote(
        &self,
        id: &crate::model::TicketId,
        voter: &crate::approval::Voter,
        vote: Vote,
        reason: Option<String>,
    ) -> Answer {
        match self.queue.vote(id, voter, vote, reason) {
            Ok(ticket) => Answer::Ticket(Box::new(ticket)),
            Err(error) => Answer::Refused { why: error.to_string() },
        }
    }
}

fn done(result: Result<String, String>) -> Answer {
    match result {
        Ok(what) => Answer::Done { what },
        Err(why) => Answer::Refused { why },
    }
}

struct Caller {
    uid: u32,
    agent: bool,
    peer: Option<Peer>,
}

impl Caller {
    fn name(&self) -> String {
        format!("uid:{}", self.uid)
    }
}

/// A deadline on any future, as a method, so that the order of reading is the order of doing.
trait Within: Future + Sized {
    async fn await_within(self, limit: Duration) -> std::io::Result<Self::Output> {
        tokio::time::timeout(limit, self)
            .await
            .map_err(|late| std::io::Error::new(std::io::ErrorKind::TimedOut, late))
    }
}

impl<F: Future> Within for F {}
