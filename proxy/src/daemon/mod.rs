//! The composition root: builds the rooms, wires capture to sessions, and ends in order.
//!
//! Start-up order: lock and record first, so that nothing happens unrecorded and two daemons cannot meet; kernel guard next;
//! listener last, when every answer it needs is there. On the way down: stop accepting, let sessions finish, cut what stays,
//! close the record. The kernel guard stays in place throughout. INVARIANT: nothing is accepted before the record is open.

mod arrivals;
mod descriptors;
mod guarding;
mod leaving;
mod mending;
mod names;
mod namespaces;
mod notify;
mod placing;
mod services;
mod stopping;
mod watchers;
mod watching;

use std::fs::{File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use self::guarding::run as guard;
pub use self::watching::recorded;

use self::arrivals::Arrivals;
use self::namespaces::Signs;
use self::notify::Notifier;
use self::services::{OutOfReach, Resolved, Running};
use crate::abort::{self, Errands};
use crate::approval::Queue;
use crate::audit::{Event, Log};
use crate::clock::Clock;
use crate::config::{Config, MetricsAddress};
use crate::control::{Metrics, MetricsListener, Server, Services};
use crate::dns::{Asker, Names};
use crate::gate::{Gate, Turned};
use crate::identity::{ProcessOrigin, Resolver, Steps};
use crate::intercept::{Connection, Guard, Origin, voice_of};
use crate::net::reset_on_close;
use crate::policy::Live;
use crate::protocol::contract::Serve;
use crate::protocol::opaque::Opaque;
use crate::protocol::postgres::Postgres;
use crate::protocol::registry::Registry as Protocols;
use crate::session::{Arrival, Asked, Lanes, Quarantine, Registry, Sessions, Slots, Targets};
use crate::shutdown::{Phase, Shutdown};
use crate::sql::Analyzer;
use crate::tls::Authority;

/// How long nothing may arrive before the port is closed; a loopback handshake takes microseconds.
const LAST_CALL: Duration = Duration::from_millis(20);
/// How long sessions may take to finish after SIGTERM; systemd's default stop timeout is 90 s.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(20);
/// How long sessions that did not finish have for their last words.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(3);
/// How long tasks may take to stop once they are told to.
const FORCE_TIME_MAX: Duration = Duration::from_secs(5);

/// Why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A directory cannot be made.
    #[error("cannot make directory `{path}`: {source}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Another daemon has the runtime directory.
    #[error("another daemon runs already: it holds `{path}`")]
    Running {
        /// The lock.
        path: String,
    },
    /// The record cannot be opened.
    #[error("the record cannot be opened: {0}")]
    Audit(#[from] crate::audit::AuditError),
    /// Policy does not load.
    #[error("policy does not load: {0}")]
    Policy(#[from] crate::policy::PolicyError),
    /// Tickets cannot be opened.
    #[error("tickets cannot be opened: {0}")]
    Approval(#[from] crate::approval::ApprovalError),
    /// Identity cannot be set up.
    #[error("identity cannot be set up: {0}")]
    Identity(#[from] crate::identity::IdentityError),
    /// The local authority cannot be opened.
    #[error("the local authority cannot be opened: {0}")]
    Tls(#[from] crate::tls::TlsError),
    /// The parser cannot be started.
    #[error("the statement parser cannot be started: {0}")]
    Sql(#[from] crate::sql::SqlError),
    /// The kernel guard cannot be installed.
    #[error("the kernel guard cannot be installed: {0}")]
    Intercept(#[from] crate::intercept::InterceptError),
    /// The resolver's ports cannot be had.
    #[error("the resolver cannot be started: {0}")]
    Names(#[from] crate::intercept::DatagramError),
    /// No randomness.
    #[error("the system has no randomness: {0}")]
    Random(#[from] getrandom::Error),
    /// A socket or signal cannot be set up.
    #[error("cannot set up {what}: {source}")]
    Io {
        /// What.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// Who holds the kernel guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The guard process; without one the daemon does not start.
    GuardProcess,
    /// The guard process if there is one, else the daemon itself.
    Whoever,
}

/// Does the daemon's errands in the guard process for as long as that lives. Nobody else does while the file that comes back is
/// open.
///
/// # Errors
/// When another guard process does them, or the socket cannot be made.
pub fn errands(config: &Config) -> Result<File, DaemonError> {
    let desk = abort::desk_of(&config.runtime_dir);
    let folder = desk.parent().unwrap_or(Path::new("/"));
    directory(folder, 0o700)?;
    let only = sole(&folder.join("errands.lock"))?;
    let failed = |source| DaemonError::Io { what: "the guard's errands", source };
    Errands::open(&desk, &config.intercept).and_then(Errands::serve).map_err(failed)?;
    Ok(only)
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// When it cannot start. What was guarded before still is.
pub async fn run(config: Config, holder: Holder) -> Result<(), DaemonError> {
    let clock = Clock::system();
    let shutdown = Shutdown::default();
    let notifier = Notifier::from_environment();
    directory(&config.state_dir, 0o700)?;
    directory(&config.runtime_dir, 0o755)?;
    let _sole = sole(&config.runtime_dir.join("daemon.lock"))?;
    directory(&config.identity.steps, 0o700)?;
    let log = Log::open(&config.audit, &clock, &shutdown)?;
    let guard = Arc::new(guard_of(&config, holder)?);
    let (sessions, running) = build(&config, &clock, &shutdown, &log, &guard).await?;
    let (namespaces, elsewhere, askers) = guard.namespaces(&shutdown)?;
    let mut arrivals = Arrivals::new(guard.listen()?, namespaces.clone(), elsewhere);
    let signs = Signs { sights: guard.sights()?, births: guard.births()? };
    namespaces::start((&namespaces, signs), &running, &shutdown).await?;
    let resolver = Names::new(&config.dns, asker(&sessions, &running));
    let streams = names::start(&resolver, (guard.name_ports()?, askers), &shutdown);
    watchers::start(&sessions, &running, (&guard, &resolver))?;
    // Before anybody can see that the daemon runs, and tell it to stop.
    let mut signals = Signals::listen()?;
    let server = Server::new(
        Arc::clone(&running) as Arc<dyn Services>,
        running.queue.clone(),
        sessions.registry.clone(),
    );
    let control = |source| DaemonError::Io { what: "the control socket", source };
    server.start(&config.runtime_dir, &shutdown).map_err(control)?;
    if let Some(address) = &config.metrics {
        let metrics = Arc::clone(&running) as Arc<dyn Metrics>;
        metrics_listener(address).await?.start(metrics, &shutdown);
    }
    if guard.counts_are_new() {
        running.note(&Event::CountingStarted { parent: guard.parent().id() });
    }
    running.note(&Event::DaemonStarted {
        version: env!("CARGO_PKG_VERSION").into(),
        policy: running.policy.current().hash().clone(),
        features: running.features(),
    });
    notifier.ready();
    tracing::info!(port = config.intercept.port, "chaperone is ready");
    let why = accept(&mut arrivals, (&sessions, streams.as_ref()), &running, &mut signals, &notifier).await;
    take_the_rest(arrivals, &sessions, &guard).await;
    notifier.stopping();
    drain(&sessions, &shutdown).await;
    resolver.close();
    running.note(&Event::DaemonStopped { reason: why.into() });
    log.close().await;
    Ok(())
}

/// The kernel guard, held by one process: this one, or the one that is followed.
fn guard_of(config: &Config, holder: Holder) -> Result<Guard, DaemonError> {
    let socket = voice_of(&config.runtime_dir);
    match (Guard::follow(&config.intercept, &socket)?, holder) {
        (Some(guard), Holder::GuardProcess | Holder::Whoever) => Ok(guard),
        (None, Holder::Whoever) => Ok(Guard::install(&config.intercept)?),
        (None, Holder::GuardProcess) => {
            let source =
                std::io::Error::new(std::io::ErrorKind::NotFound, "it does not run: start `chaperone guard`");
            Err(DaemonError::Io { what: "the kernel guard", source })
        }
    }
}

/// Builds every room.
async fn build(
    config: &Config,
    clock: &Clock,
    shutdown: &Shutdown,
    log: &Log,
    guard: &Arc<Guard>,
) -> Result<(Sessions, Arc<Running>), DaemonError> {
    let policy = Live::open(&config.policy)?;
    let queue = Queue::open(&config.approval, clock)?;
    services::record_tickets(&queue, &log.appender());
    let authority = Arc::new(Authority::open(&config.tls, clock)?);
    let analyzer = Analyzer::start(&config.sql, shutdown)?;
    let resolver = Resolver::start(&config.identity, clock, shutdown).await?;
    let targets = Targets::new(config.resources.clone());
    targets.look_up().await;
    let principals = Arc::new(Resolved(resolver.clone()));
    let gate = Gate::new(policy.clone(), queue.clone(), log.appender(), principals, clock.clone());
    let postgres: Arc<dyn Serve> = Arc::new(Postgres::new(analyzer, authority, clock.clone())?);
    let opaque: Arc<dyn Serve> = Arc::new(Opaque::new(clock.clone()));
    let sessions = Sessions {
        resolver: resolver.clone(),
        targets,
        asked: Asked::default(),
        unregistered: config.unregistered.clone(),
        protocols: Protocols::new(vec![postgres, opaque]),
        gate: gate.clone(),
        unreached: Arc::new(OutOfReach { table: guard.unreachable()?, clock: clock.clone() }),
        slots: Slots::new(config.connections_per_agent, descriptors::connections()),
        registry: Registry::default(),
        quarantine: Quarantine::open(&config.state_dir)
            .map_err(|source| DaemonError::Io { what: "the list of quarantined agents", source })?,
        clock: clock.clone(),
        lanes: Lanes::start().map_err(|source| DaemonError::Io { what: "the session threads", source })?,
        shutdown: shutdown.clone(),
    };
    let running = Arc::new(Running {
        policy,
        queue,
        gate,
        resolver,
        registry: sessions.registry.clone(),
        quarantine: sessions.quarantine.clone(),
        guard: Arc::clone(guard),
        appender: log.appender(),
        intercept: config.intercept.clone(),
        desk: abort::desk_of(&config.runtime_dir),
        no_abort: abort::probe().err().map(|error| error.to_string()),
        launchers: config.jail.launchers.clone(),
        processes: config.jail.processes.clone(),
        steps: Steps::new(&config.identity.steps, &config.identity.parent),
        started_at: clock.now(),
    });
    Ok((sessions, running))
}

/// Accepts until a signal says stop; returns why.
async fn accept(
    arrivals: &mut Arrivals,
    (sessions, streams): (&Sessions, Option<&names::Streams>),
    running: &Running,
    signals: &mut Signals,
    notifier: &Notifier,
) -> &'static str {
    let mut alive = tokio::time::interval(notifier.interval());
    loop {
        // Signals first. Dropping `accept` loses no connection: it is either returned or still queued.
        tokio::select! {
            biased;
            _ = signals.terminate.recv() => return "SIGTERM",
            _ = signals.interrupt.recv() => return "SIGINT",
            _ = signals.hangup.recv() => match running.reload("SIGHUP") {
                Ok(what) => tracing::info!(%what, "reloaded"),
                Err(problem) => tracing::error!(%problem, "reload refused; the old policy stays"),
            },
            _ = alive.tick() => notifier.alive(),
            accepted = arrivals.accept() => match accepted {
                Ok(connection) => serve(connection, (sessions, streams), running),
                Err(error) => {
                    tracing::error!(%error, "connections are not accepted at the moment");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// Turns away what is on its way and closes the port. Nothing is counted by the kernel that is not recorded here.
async fn take_the_rest(mut arrivals: Arrivals, sessions: &Sessions, guard: &Guard) {
    let draining = guard.drain(true);
    while let Ok(Ok(Connection { stream, origin })) = tokio::time::timeout(LAST_CALL, arrivals.accept()).await
    {
        let arrived = sessions.gate.arrived(origin.account, origin.destination);
        reset_on_close(&stream);
        let (destination, account) = (origin.destination, origin.account);
        let reason = "the daemon is stopping".to_owned();
        arrived.turned_away(&Turned { destination, account, known: None, reason });
        if draining.is_err() {
            break;
        }
    }
    drop(arrivals);
    // Agents are told "connection refused" from here on, as when there is no daemon at all.
    if let Err(error) = draining.and_then(|()| guard.drain(false)) {
        tracing::warn!(%error, "connections that came while the port was closed may be missing in the record");
    }
}

/// Hands a connection to whom it is for: questions to a resolver are no session.
fn serve(
    connection: Connection,
    (sessions, streams): (&Sessions, Option<&names::Streams>),
    running: &Running,
) {
    let destination = connection.origin.destination;
    match streams.filter(|_| destination.port() == names::PORT) {
        Some(streams) => {
            let account = connection.origin.account;
            let arrived = sessions.gate.arrived(account, destination);
            // Not answered unless it is recorded; dropped, it is turned away, and that is tried to be recorded.
            match running.appender.append(&Event::ResolverConnected { account, destination }) {
                Ok(_) => {
                    arrived.is_recorded();
                    streams.serve(connection);
                }
                Err(error) => {
                    tracing::error!(%error, "a connection to a resolver is refused: it cannot be recorded");
                    reset_on_close(&connection.stream);
                }
            }
        }
        None => {
            let Connection { stream, origin } = connection;
            sessions.serve(Arrival { stream, destination, origin: origin_of(&origin) });
        }
    }
}

/// What the kernel stamped, as the room of identities wants it.
fn origin_of(origin: &Origin) -> ProcessOrigin {
    ProcessOrigin {
        cgroup_id: origin.cgroup_id,
        account: origin.account,
        pid: origin.pid,
        uid: origin.uid,
        connected_ns: origin.connected_ns,
        netns: origin.netns,
    }
}

/// What the resolver shares with the rest.
fn asker(sessions: &Sessions, running: &Running) -> Asker {
    Asker {
        resolver: running.resolver.clone(),
        policy: running.policy.clone(),
        targets: sessions.targets.clone(),
        asked: sessions.asked.clone(),
        quarantine: sessions.quarantine.clone(),
        appender: running.appender.clone(),
        clock: sessions.clock.clone(),
    }
}

/// Lets sessions finish, then cuts what is left.
async fn drain(sessions: &Sessions, shutdown: &Shutdown) {
    shutdown.advance(Phase::Draining);
    if tokio::time::timeout(DRAIN_TIME_MAX, emptied(sessions)).await.is_err() {
        tracing::warn!(sessions = sessions.registry.count(), "sessions did not finish in time and are cut");
        for session in sessions.registry.list() {
            if !sessions.registry.kill(session.id, "the daemon is shutting down") {
                tracing::debug!(id = %session.id, "session ended by itself");
            }
        }
        if tokio::time::timeout(FAREWELL_TIME_MAX, emptied(sessions)).await.is_err() {
            tracing::warn!(sessions = sessions.registry.count(), "sessions end without a word");
        }
    }
    shutdown.advance(Phase::Forced);
    if tokio::time::timeout(FORCE_TIME_MAX, shutdown.drained()).await.is_err() {
        tracing::warn!(tasks = shutdown.tasks(), "tasks did not stop in time");
    }
}

/// Returns when no session is open.
async fn emptied(sessions: &Sessions) {
    while sessions.registry.count() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, DaemonError> {
        let on = |kind| signal(kind).map_err(|source| DaemonError::Io { what: "signal handling", source });
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }
}

async fn metrics_listener(address: &MetricsAddress) -> Result<MetricsListener, DaemonError> {
    let failed = |source| DaemonError::Io { what: "the metrics listener", source };
    match address {
        MetricsAddress::Unix(path) => {
            remove_stale(path).map_err(failed)?;
            UnixListener::bind(path).map(MetricsListener::Unix).map_err(failed)
        }
        MetricsAddress::Loopback(address) => {
            TcpListener::bind(address).await.map(MetricsListener::Tcp).map_err(failed)
        }
    }
}

fn remove_stale(path: &PathBuf) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes sure that no other daemon serves this runtime directory while the lock lives. Only root can open it: an agent that
/// could would keep the daemon from starting.
fn sole(path: &Path) -> Result<File, DaemonError> {
    let failed = |source| DaemonError::Io { what: "the daemon's lock", source };
    let lock =
        File::options().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DaemonError::Running { path: path.display().to_string() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn directory(path: &Path, mode: u32) -> Result<(), DaemonError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| DaemonError::Directory { path: path.display().to_string(), source })
}
