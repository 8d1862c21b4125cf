//! The proxy in other network namespaces: containers, and whatever an agent makes for itself.
//!
//! A namespace gets listeners of the daemon's and a scope in the kernel's table when a process of an agent is seen in it; until
//! then, and whenever that fails, every program denies there. It loses both when no such process was in it at two looks in a
//! row: the listeners would keep it alive for ever.
//! INVARIANT: listeners first, scope second; on the way back the scope first. Sessions dial from the host's namespace, always.
//! Refuses: more namespaces than [`PER_ACCOUNT_MAX`] of one account, more than the kernel's table holds; the others go on.
//! Known limit: a namespace that only a descriptor or a mount holds is given up, and met anew when a process enters it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, SkStorage};
use parking_lot::Mutex;
use proxy_common::flow::Stamp;
use proxy_common::limits::SCOPES_MAX;
use proxy_common::scope::{EVERYWHERE, Scope};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::cgroup::Tree;
use super::datagrams::{Flows, NamePort};
use super::entry::{self, Found, Inside, Place};
use super::error::InterceptError;
use super::listener::{Connection, Listener};
use super::maps::{SCOPES, Tables};
use super::sights::Sight;
use crate::shutdown::Shutdown;

/// Namespaces of one account. Each costs the daemon some twenty descriptors and as many tasks; a host's agent rarely has a dozen containers.
pub const PER_ACCOUNT_MAX: usize = 128;
/// Namespaces in all: the host's own scope and the one for everywhere need their place in the table.
const ALL_MAX: usize = SCOPES_MAX - 2;
/// Looks at which no agent's process may be in a namespace before it is given up.
const EMPTY_LOOKS: u8 = 2;
/// Looks for which a namespace that could not be had is left alone.
const REFUSED_LOOKS: u8 = 3;
/// How many connections of all namespaces may wait for the accept loop; the kernel queues the rest.
const WAITING_MAX: usize = 64;
/// How long nothing may arrive in a namespace that is given up; a loopback handshake takes microseconds.
const LAST_CALL: Duration = Duration::from_millis(20);
/// Pause after the kernel refused to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a namespace has no proxy. All of them leave it as it was: denied.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The process cannot be looked at; as a rule it is gone.
    #[error("could not look at `{}`", path.display())]
    Process {
        /// Its directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The process is not below the agents' parent.
    #[error("`{}` is not an agent's", path.display())]
    NotAnAgent {
        /// Its directory.
        path: PathBuf,
    },
    /// The account has its share.
    #[error("the agent uses {max} network namespaces already")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// The kernel's table is full.
    #[error("{max} network namespaces are in use already")]
    Full {
        /// The limit.
        max: usize,
    },
    /// Somebody in the namespace has the port.
    #[error("port {port} cannot be had in it")]
    Port {
        /// The proxy's port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error("could not {action}")]
    Enter {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's table could not be written.
    #[error("could not announce it")]
    Table(#[from] InterceptError),
}

/// What became of a namespace.
#[derive(Debug)]
pub struct Met {
    /// Name of the cgroup right below the agents' parent whose process was seen in it; empty where it is not known.
    pub account: String,
    /// Process id.
    pub pid: u32,
    /// Cookie of the namespace that now has a proxy; or why it has none.
    pub outcome: Result<u64, NamespaceError>,
}

/// All namespaces that have a proxy, the host's own aside. Clones share them.
#[derive(Debug, Clone)]
pub struct Namespaces(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parent: PathBuf,
    port: u16,
    scope: Scope,
    host: (Place, u64),
    tables: Tables,
    sockets: Arc<SkStorage<MapData, Stamp>>,
    flows: Flows,
    waiting: mpsc::Sender<Connection>,
    asking: mpsc::UnboundedSender<Askers>,
    shutdown: Shutdown,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<Place, Open>,
    /// What could not be had, and for how many looks it is left alone.
    refused: HashMap<(Place, String), u8>,
    /// Nothing is opened any more.
    closed: bool,
}

/// A namespace with a proxy. Dropping it closes the listeners.
#[derive(Debug)]
struct Open {
    cookie: u64,
    account: String,
    empty_looks: u8,
    _listening: watch::Sender<()>,
}

/// The resolver's ports in one namespace, to be served until it is given up.
#[derive(Debug)]
pub struct Askers {
    /// The ports.
    pub ports: Vec<NamePort>,
    /// Nothing is ever sent: an error says that the namespace was given up.
    pub until: watch::Receiver<()>,
}

/// Where the resolver's ports of all of them come from.
#[derive(Debug)]
pub struct AskersElsewhere(mpsc::UnboundedReceiver<Askers>);

impl AskersElsewhere {
    /// The next namespace's. Cancel-safe. None when nothing can come any more.
    pub async fn next(&mut self) -> Option<Askers> {
        self.0.recv().await
    }
}

/// Where the connections from all of them arrive.
#[derive(Debug)]
pub struct Elsewhere(mpsc::Receiver<Connection>);

impl Elsewhere {
    /// The next connection. Cancel-safe. Waits for ever when nothing can come any more.
    pub async fn next(&mut self) -> Connection {
        match self.0.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }
}

impl Namespaces {
    pub(super) fn open(
        (parent, scope): (&Path, Scope),
        host_netns: u64,
        tables: &Tables,
        shutdown: &Shutdown,
    ) -> Result<(Self, Elsewhere, AskersElsewhere), InterceptError> {
        let place = entry::own().map_err(|source| InterceptError::Kernel {
            action: "look at the own network namespace",
            source,
        })?;
        let (waiting, elsewhere) = mpsc::channel(WAITING_MAX);
        let (asking, askers) = mpsc::unbounded_channel();
        let inner = Inner {
            parent: parent.to_owned(),
            port: scope.proxy_port,
            scope,
            host: (place, host_netns),
            tables: tables.clone(),
            sockets: Arc::new(tables.sockets()?),
            flows: Flows::open(tables)?,
            waiting,
            asking,
            shutdown: shutdown.clone(),
            state: Mutex::default(),
        };
        Ok((Self(Arc::new(inner)), Elsewhere(elsewhere), AskersElsewhere(askers)))
    }

    /// Puts a proxy where an agent's process was seen, if there is none. `None` when nothing had to be done. Blocks; needs a
    /// tokio runtime.
    #[must_use]
    pub fn meet(&self, sight: &Sight) -> Option<Met> {
        let mut state = self.0.state.lock();
        if state.closed || state.open.values().any(|open| open.cookie == sight.netns_cookie) {
            return None;
        }
        let Sight { pid, tid, .. } = *sight;
        self.0.provide(&mut state, pid, Path::new(&format!("/proc/{pid}/task/{tid}")))
    }

    /// Looks through all processes of agents and gives a proxy to namespaces that were not seen yet. Blocks; needs a tokio runtime.
    ///
    /// # Errors
    /// When the tree of cgroups cannot be read.
    pub fn glance(&self) -> Result<Vec<Met>, InterceptError> {
        let pids = pids_below(Tree::find()?.open(&self.0.parent)?.path());
        Ok(self.0.provide_all(&mut self.0.state.lock(), &pids).0)
    }

    /// The same, and takes the proxy from namespaces that no process is in any more. To be called at an even pace.
    ///
    /// # Errors
    /// When the kernel's table or the tree of cgroups cannot be read; what has a proxy keeps it.
    pub fn look(&self) -> Result<Vec<Met>, InterceptError> {
        let pids = pids_below(Tree::find()?.open(&self.0.parent)?.path());
        let mut state = self.0.state.lock();
        state.refused.retain(|_, looks| {
            *looks = looks.saturating_sub(1);
            *looks > 0
        });
        let (met, inhabited) = self.0.provide_all(&mut state, &pids);
        self.0.give_up_empty(&mut state, &pids, inhabited)?;
        Ok(met)
    }

    /// Takes the scopes away that an earlier daemon left and nobody uses: no listener is behind them.
    ///
    /// # Errors
    /// When the kernel's table cannot be used.
    pub fn forget_stale(&self) -> Result<usize, InterceptError> {
        let state = self.0.state.lock();
        let mut scopes = self.0.tables.scopes()?;
        let ours = |cookie: &u64| {
            [EVERYWHERE, self.0.host.1].contains(cookie)
                || state.open.values().any(|open| open.cookie == *cookie)
        };
        let stale: Vec<u64> = scopes.keys().filter_map(Result::ok).filter(|cookie| !ours(cookie)).collect();
        for cookie in &stale {
            scopes.remove(cookie).map_err(table)?;
        }
        Ok(stale.len())
    }

    /// How many have a proxy.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.state.lock().open.len()
    }

    /// Closes all listeners, for good. Scopes stay: agents are told "connection refused" from here on.
    pub fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        state.open.clear();
    }
}

impl Inner {
    /// Gives a proxy to the namespaces of these processes; what came of it, and which namespaces they are in.
    fn provide_all(&self, state: &mut State, pids: &[u32]) -> (Vec<Met>, HashSet<Place>) {
        let (mut met, mut inhabited) = (Vec::new(), HashSet::new());
        for pid in pids {
            let directory = PathBuf::from(format!("/proc/{pid}"));
            let Ok(place) = entry::place_of(&directory.join("ns/net")) else { continue };
            if place != self.host.0 && inhabited.insert(place) && !state.open.contains_key(&place) {
                met.extend(self.provide(state, *pid, &directory));
            }
        }
        (met, inhabited)
    }

    fn provide(&self, state: &mut State, pid: u32, directory: &Path) -> Option<Met> {
        let found = match Found::of(directory, &self.parent) {
            Ok(found) => found,
            // Who is gone needs no proxy, and who is no agent gets none; the kernel told of the denial.
            Err(outcome) => return Some(Met { account: String::new(), pid, outcome: Err(outcome) }),
        };
        let (place, account) = (found.place, found.account.clone());
        if state.closed || place == self.host.0 || state.open.contains_key(&place) {
            return None;
        }
        // By account as well: the number of a namespace that is gone is given to the next one, which may be another agent's.
        let refusal = (place, account.clone());
        if state.refused.contains_key(&refusal) {
            return None;
        }
        let room = self.room(state, &account);
        let inside =
            room.and_then(|()| found.open(self.port, self.names())).and_then(|inside| self.announce(inside));
        let outcome = inside.map(|(cookie, listening)| {
            let open = Open { cookie, account: account.clone(), empty_looks: 0, _listening: listening };
            state.open.insert(place, open);
            cookie
        });
        if outcome.is_err() && state.refused.len() < ALL_MAX {
            state.refused.insert(refusal, REFUSED_LOOKS);
        }
        Some(Met { account, pid, outcome })
    }

    fn names(&self) -> Option<u16> {
        (self.scope.dns_port != 0).then_some(self.scope.dns_port)
    }

    fn room(&self, state: &State, account: &str) -> Result<(), NamespaceError> {
        if state.open.values().filter(|open| open.account == account).count() >= PER_ACCOUNT_MAX {
            return Err(NamespaceError::TooMany { max: PER_ACCOUNT_MAX });
        }
        if state.open.len() >= ALL_MAX { Err(NamespaceError::Full { max: ALL_MAX }) } else { Ok(()) }
    }

    /// Accepts in the namespace and tells the programs so.
    fn announce(&self, inside: Inside) -> Result<(u64, watch::Sender<()>), NamespaceError> {
        let Inside { cookie, v4, v6, names } = inside;
        let watched = |source| NamespaceError::Enter { action: "watch its port", source };
        let v4 = TcpListener::from_std(v4).map_err(watched)?;
        let v6 = v6.map(TcpListener::from_std).transpose().map_err(watched)?;
        let listener = Listener::of((v4, v6), Arc::clone(&self.sockets), self.host.1);
        let (ends, first) = ((cookie, self.host.1), self.scope.dns_port);
        let ports = names.into_iter().map(|socket| NamePort::inside(socket, ends, first, &self.flows));
        // Without marks questions are not answered, and connections are all the same.
        let ports =
            ports.filter_map(io::Result::transpose).collect::<io::Result<Vec<_>>>().map_err(watched)?;
        self.tables.scopes()?.insert(cookie, self.scope, 0).map_err(table)?;
        let (open, closed) = watch::channel(());
        if !ports.is_empty() && self.asking.send(Askers { ports, until: closed.clone() }).is_err() {
            tracing::warn!(netns = cookie, "nobody answers questions to resolvers there");
        }
        let waiting = self.waiting.clone();
        self.shutdown.spawn("namespace", pass_on(listener, waiting, closed));
        Ok((cookie, open))
    }

    fn give_up_empty(
        &self,
        state: &mut State,
        pids: &[u32],
        mut inhabited: HashSet<Place>,
    ) -> Result<(), InterceptError> {
        let doubtful = |open: &Open, inhabited: &HashSet<Place>, place: &Place| {
            !inhabited.contains(place) && open.empty_looks.saturating_add(1) >= EMPTY_LOOKS
        };
        // A thread may be elsewhere than its process. That is rare, and looked at only before it matters.
        if state.open.iter().any(|(place, open)| doubtful(open, &inhabited, place)) {
            inhabited.extend(pids.iter().flat_map(|pid| places_of_threads(*pid)));
        }
        let mut empty = Vec::new();
        for (place, open) in &mut state.open {
            open.empty_looks = if inhabited.contains(place) { 0 } else { open.empty_looks.saturating_add(1) };
            if open.empty_looks >= EMPTY_LOOKS {
                empty.push((*place, open.cookie));
            }
        }
        if empty.is_empty() {
            return Ok(());
        }
        let mut scopes = self.tables.scopes()?;
        for (place, cookie) in empty {
            scopes.remove(&cookie).map_err(table)?;
            state.open.remove(&place);
            tracing::debug!(netns = cookie, "a network namespace without agents has no proxy any more");
        }
        Ok(())
    }
}

/// Hands on what arrives in one namespace until it is closed; then what was on its way.
async fn pass_on(listener: Listener, waiting: mpsc::Sender<Connection>, mut closed: watch::Receiver<()>) {
    loop {
        let accepted = tokio::select! {
            biased;
            // Nothing is ever sent: an error says that the other end is gone.
            _ = closed.changed() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            // Not to be dropped while it waits: what was accepted must end in the record.
            Ok(connection) => {
                if waiting.send(connection).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "connections of a network namespace are not accepted at the moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while let Ok(Ok(connection)) = tokio::time::timeout(LAST_CALL, listener.accept()).await {
        if waiting.send(connection).await.is_err() {
            return;
        }
    }
}

/// Every process of the cgroup and below it. What cannot be read has none.
pub(super) fn pids_below(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    // A process of a foreign pid namespace is listed as 0.
    let mut pids: Vec<u32> =
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(pids_below(&entry.path()));
        }
    }
    pids
}

fn places_of_threads(pid: u32) -> Vec<Place> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| entry::place_of(&thread.path().join("ns/net")).ok()).collect()
}

fn table(source: aya::maps::MapError) -> InterceptError {
    InterceptError::Map { map: SCOPES, source: Box::new(source) }
}
