//! One running session: bytes between agent and resource, through engine and gate.
//!
//! One task, four buffers. While a request waits (for its analysis, the catalog, the disk or people) replies keep flowing and
//! the agent's end is still watched; what the agent pipelines meanwhile waits in its buffer, up to a limit.
//! INVARIANT: a frame leaves the agent's buffer only when the engine has accounted for it.

mod agent;
mod turn;

use std::collections::HashMap;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use self::turn::{Turn, turn};
use super::cancel::{CancelCall, Enrolled};
use super::catalog::Catalog;
use super::dial::{DialError, Dialer};
use super::engine::{Engine, EngineError, Note, View};
use super::greeting::Client;
use super::wire::{self, CancelKey, Notice, next_frame};
use super::{Postgres, notices};
use crate::gate::{Guarded, HoldNews, Pending, Permit, Refusal, RefusalKind, Released, Upstream};
use crate::mask::Keys;
use crate::model::Principal;
use crate::net::poll_drain;
use crate::policy::Set;
use crate::protocol::contract::{Incoming, SessionEnd};
use crate::shutdown::Phase;
use crate::sql::Analysis;

/// Bytes an agent may send ahead while a request waits. Past it reading stops, and TCP tells the agent.
const AHEAD_BYTES_MAX: usize = 256 * 1024;
/// Bytes kept for a slow agent before reading from the resource stops.
const BEHIND_BYTES_MAX: usize = 512 * 1024;
/// Longest frame from the server that must be in memory as a whole: one row with a masked column.
const SERVER_FRAME_BYTES_MAX: usize = 64 << 20;
/// Longest frame at all: PostgreSQL's own limit is 1 GiB.
const SERVER_LENGTH_MAX: u32 = 1 << 30;
/// How often a held agent is told that it still waits. Middleboxes drop idle connections after a minute or so.
const HELD_NOTICE_EVERY: Duration = Duration::from_secs(12);
/// Oldest catalog that a statement is judged by.
const CATALOG_AGE_MAX: Duration = Duration::from_secs(60);
/// After a statement that changed objects, or names an unknown relation, a snapshot must be at least this young.
const CATALOG_AGE_WHEN_IN_DOUBT: Duration = Duration::from_millis(500);
/// Buffers above this are given back when the session falls idle, so that idle sessions stay small.
const IDLE_BUFFER_BYTES: usize = 0;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a session starts with.
pub(super) struct SessionParts {
    pub(super) client: Client,
    pub(super) upstream: Upstream<Guarded>,
    pub(super) upstream_key: Option<CancelKey>,
    pub(super) enrolled: Enrolled,
    pub(super) dialer: Dialer,
    pub(super) database: String,
    /// Database and settings at start-up, in one text.
    pub(super) scope: String,
    pub(super) view: View,
}

/// What the frame at the head of the agent's buffer waits for.
enum Wait {
    Nothing,
    Analysis(Boxed<Arc<Analysis>>),
    Catalog(Arc<Analysis>, Boxed<Result<Arc<Catalog>, DialError>>),
    Gate(Pending, Option<Hold>),
}

/// A hold in progress.
struct Hold {
    news: HoldNews,
    next_notice: Instant,
}

/// Why the loop ended.
enum End {
    Goodbye,
    AgentGone,
    AgentBroke(std::io::Error),
    ServerGone,
    Broken(EngineError),
    Stopped(String),
}

/// What one turn of the loop brought.
enum Event {
    Io(Turn),
    Analysed(Arc<Analysis>),
    Catalogued(Arc<Analysis>, Result<Arc<Catalog>, DialError>),
    Verdict(Result<Permit, Refusal>),
    Remind,
    Cancel(CancelCall),
    Stop(String),
    Drain,
}

/// A running session.
pub(super) struct Relay<'a> {
    parts: SessionParts,
    incoming: Incoming,
    postgres: &'a Postgres,
    engine: Engine,
    released: HashMap<u64, Released>,
    standing: (Arc<Set>, Arc<Principal>),
    catalog_at: std::time::Instant,
    catalog_stale: bool,
    from_server: BytesMut,
    to_agent: BytesMut,
    /// Bytes of a frame that passes unread and is not all here yet.
    passing: usize,
    wait: Wait,
    /// The agent's next frame waits for a reply that is owed.
    later: bool,
    /// What an approval of this session's statements is bound to besides the statement.
    scope: Arc<str>,
    /// The statement at hand changes settings.
    setting: Option<Arc<str>>,
    agent_ended: bool,
    draining: bool,
    bytes: (u64, u64),
}

impl<'a> Relay<'a> {
    pub(super) fn new(
        mut parts: SessionParts,
        incoming: Incoming,
        postgres: &'a Postgres,
        keys: Keys,
    ) -> Self {
        let view = std::mem::take(&mut parts.view);
        let standing = incoming.door.standing();
        let scope = Arc::from(parts.scope.as_str());
        Self {
            engine: Engine::new(view, keys),
            parts,
            incoming,
            postgres,
            released: HashMap::new(),
            standing,
            catalog_at: postgres.clock.instant(),
            catalog_stale: false,
            from_server: BytesMut::new(),
            to_agent: BytesMut::new(),
            passing: 0,
            wait: Wait::Nothing,
            later: false,
            scope,
            setting: None,
            agent_ended: false,
            draining: false,
            bytes: (0, 0),
        }
    }

    /// Runs the session to its end.
    pub(super) async fn run(mut self) -> SessionEnd {
        let shutdown = self.incoming.shutdown.clone();
        let mut drain: Boxed<()> = Box::pin(async move { shutdown.reached(Phase::Draining).await });
        let end = loop {
            if let Err(error) = self.pump() {
                break End::Broken(error);
            }
            if let Some(end) = self.settled() {
                break end;
            }
            match self.next(&mut drain).await {
                Event::Io(Turn::AgentError(error)) => break End::AgentBroke(error),
                Event::Io(Turn::ServerEnd) => break End::ServerGone,
                Event::Stop(why) => break End::Stopped(why),
                event => {
                    if let Err(error) = self.on(event) {
                        break End::Broken(error);
                    }
                }
            }
        };
        self.finish(end).await
    }

    /// Handles every whole frame that is here.
    fn pump(&mut self) -> Result<(), EngineError> {
        self.pump_server()?;
        self.settle_notes();
        while matches!(self.wait, Wait::Nothing) && self.engine.has_room() {
            if !self.pump_agent()? {
                break;
            }
            self.settle_notes();
        }
        Ok(())
    }

    fn pump_server(&mut self) -> Result<(), EngineError> {
        loop {
            self.pass_rest();
            if self.passing > 0 || self.to_agent.len() >= BEHIND_BYTES_MAX {
                return Ok(());
            }
            let header =
                next_frame(&self.from_server, &|_| Some(SERVER_LENGTH_MAX)).map_err(EngineError::Server)?;
            let Some(header) = header else { return Ok(()) };
            if let Some(frame) = self.from_server.get(..header.total) {
                self.engine.server(frame, &mut self.to_agent)?;
                self.from_server.advance(header.total);
            } else if self.engine.passes_unread(header.kind) {
                self.engine.passed(header.kind, header.total);
                self.passing = header.total;
            } else if header.total > SERVER_FRAME_BYTES_MAX {
                return Err(EngineError::ServerOrder("a row too long to be masked"));
            } else {
                return Ok(());
            }
        }
    }

    /// Passes what is here of a frame that goes unread.
    fn pass_rest(&mut self) {
        let count = self.passing.min(self.from_server.len());
        if count > 0 {
            let piece = self.from_server.split_to(count);
            self.to_agent.extend_from_slice(&piece);
            self.passing = self.passing.saturating_sub(count);
        }
    }

    /// Puts a notice between frames. Inside a frame that is still passing it would corrupt the stream, so it waits.
    fn say(&mut self, notice: &Notice) {
        if self.passing == 0 {
            self.to_agent.extend_from_slice(&wire::notice(notice));
        }
    }

    fn settle_notes(&mut self) {
        for note in self.engine.take_notes() {
            match note {
                Note::Ended(ending) => {
                    if let Some(released) = self.released.get_mut(&ending.request) {
                        released.end(ending.outcome, ending.tally);
                    }
                }
                Note::Forget(request) => {
                    self.released.remove(&request);
                }
                Note::CatalogStale => self.catalog_stale = true,
                Note::Masked(request, columns) => {
                    if let Some(released) = self.released.get(&request) {
                        released.masks(&columns);
                    }
                }
            }
        }
    }

    /// Whether the session is over and everything owed was delivered.
    fn settled(&mut self) -> Option<End> {
        let quiet = self.to_agent.is_empty() && self.parts.upstream.queued() == 0;
        if self.agent_ended
            && matches!(self.wait, Wait::Nothing)
            && (self.engine.is_idle() || self.parts.client.buffer.is_empty())
        {
            // An agent that leaves while a statement runs does not stop it: the resource is told, and finishes or not.
            return Some(if self.engine.is_idle() { End::Goodbye } else { End::AgentGone });
        }
        if self.agent_ended && !matches!(self.wait, Wait::Nothing) {
            return Some(End::AgentGone);
        }
        // A held request may wait longer than the daemon does; its ticket stays for a retry.
        let held = matches!(self.wait, Wait::Gate(_, Some(_)));
        let between = self.engine.is_idle() && !self.engine.in_transaction();
        if self.draining && quiet && (held || between) {
            return Some(End::Stopped("the daemon is shutting down".to_owned()));
        }
        None
    }

    /// The next thing that happens.
    async fn next(&mut self, drain: &mut Boxed<()>) -> Event {
        let reading_agent = !self.agent_ended
            && (matches!(self.wait, Wait::Nothing) && !self.later
                || self.parts.client.buffer.len() < AHEAD_BYTES_MAX)
            && self.engine.has_room();
        if self.engine.is_idle() {
            self.shrink();
        }
        let draining = self.draining;
        let remind = match &self.wait {
            Wait::Gate(_, Some(hold)) => Some(hold.next_notice),
            Wait::Nothing | Wait::Analysis(_) | Wait::Catalog(..) | Wait::Gate(_, None) => None,
        };
        let streams = turn(
            (&mut self.parts.client, reading_agent),
            &mut self.parts.upstream,
            (&mut self.from_server, &mut self.to_agent),
            (&mut self.bytes, draining),
        );
        // Termination first. Dropping any other arm loses nothing: their state lives in `self`.
        tokio::select! {
            biased;
            why = stopped(&mut self.incoming.kill) => Event::Stop(why),
            () = drain, if !draining => Event::Drain,
            event = waited(&mut self.wait) => event,
            turn = streams => Event::Io(turn),
            Some(call) = self.parts.enrolled.calls.recv() => Event::Cancel(call),
            () = until(remind) => Event::Remind,
        }
    }

    fn shrink(&mut self) {
        for buffer in [&mut self.from_server, &mut self.to_agent, &mut self.parts.client.buffer] {
            if buffer.is_empty() && buffer.capacity() > IDLE_BUFFER_BYTES {
                *buffer = BytesMut::new();
            }
        }
    }

    fn on(&mut self, event: Event) -> Result<(), EngineError> {
        match event {
            Event::Io(Turn::AgentEnd) => self.agent_ended = true,
            Event::Io(_) | Event::Stop(_) => {}
            Event::Analysed(analysis) => {
                self.wait = Wait::Nothing;
                self.analysed(&analysis)?;
            }
            Event::Catalogued(analysis, result) => {
                self.wait = Wait::Nothing;
                self.catalogued(result);
                self.ask(&analysis)?;
            }
            Event::Verdict(verdict) => {
                self.wait = Wait::Nothing;
                match verdict {
                    Ok(permit) => self.permitted(permit),
                    Err(refusal) => self.refused(&refusal),
                }
            }
            Event::Remind => self.remind(),
            Event::Cancel(call) => self.cancel(call),
            Event::Drain => self.draining = true,
        }
        Ok(())
    }

    fn remind(&mut self) {
        let mut notice = None;
        if let Wait::Gate(_, Some(hold)) = &mut self.wait {
            hold.next_notice = Instant::now() + HELD_NOTICE_EVERY;
            notice = Some(notices::held(&hold.news));
        }
        if let Some(notice) = notice {
            self.say(&notice);
        }
    }

    /// A cancel ends a hold; otherwise it goes to the resource, but only while something runs there.
    fn cancel(&mut self, call: CancelCall) {
        if let Wait::Gate(_, Some(hold)) = &self.wait {
            let ticket = Some(hold.news.ticket.clone());
            self.wait = Wait::Nothing;
            let refusal = Refusal { kind: RefusalKind::Cancelled, policies: Vec::new(), ticket };
            self.refused(&refusal);
            dealt_with(call);
            return;
        }
        let Some(key) = self.parts.upstream_key.clone().filter(|_| !self.engine.is_idle()) else {
            dealt_with(call);
            return;
        };
        let dialer = self.parts.dialer.clone();
        self.incoming.shutdown.spawn("postgres-cancel", async move {
            if let Err(error) = dialer.cancel(&key).await {
                tracing::warn!(%error, "cancel not delivered");
            }
            dealt_with(call);
        });
    }

    async fn finish(mut self, end: End) -> SessionEnd {
        let (notice, mut result) = match end {
            End::Goodbye => (None, SessionEnd::quiet("the agent left")),
            End::AgentGone => (None, SessionEnd::quiet("the agent left in the middle of a request")),
            End::AgentBroke(error) => (None, SessionEnd::client(error.to_string())),
            End::ServerGone => {
                (Some(notices::lost()), SessionEnd::server("the resource closed the connection"))
            }
            End::Stopped(why) => (Some(notices::ended(&why)), SessionEnd::quiet(why)),
            End::Broken(error) => (Some(notices::broken(&error)), blame(&error)),
        };
        if let Some(notice) = notice {
            self.say(&notice);
        }
        // A short grace for last words; an agent that does not read them loses them.
        let last = poll_fn(|cx| poll_drain(&mut *self.parts.client.stream, &mut self.to_agent, cx));
        drop(tokio::time::timeout(Duration::from_secs(2), last).await);
        self.parts.upstream.constant(b"X\0\0\0\x04");
        let goodbye = poll_fn(|cx| self.parts.upstream.poll_drain(cx));
        drop(tokio::time::timeout(Duration::from_secs(1), goodbye).await);
        (result.bytes_in, result.bytes_out) = self.bytes;
        result
    }
}

/// A caller that has gone needs no answer.
fn dealt_with(call: CancelCall) {
    if call.send(()).is_err() {
        tracing::debug!("whoever cancelled has left");
    }
}

fn blame(error: &EngineError) -> SessionEnd {
    match error {
        EngineError::Client(_) | EngineError::ClientOrder(_) | EngineError::Setting(_) => {
            SessionEnd::client(error.to_string())
        }
        EngineError::Server(_) | EngineError::ServerOrder(_) => SessionEnd::server(error.to_string()),
    }
}

/// What the head frame waits for.
async fn waited(wait: &mut Wait) -> Event {
    match wait {
        Wait::Nothing => pending().await,
        Wait::Analysis(analysis) => Event::Analysed(analysis.await),
        Wait::Catalog(analysis, catalog) => {
            let result = catalog.await;
            Event::Catalogued(Arc::clone(analysis), result)
        }
        Wait::Gate(verdict, _) => Event::Verdict(verdict.await),
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => pending().await,
    }
}

/// Returns when somebody ends the session.
async fn stopped(kill: &mut tokio::sync::watch::Receiver<Option<String>>) -> String {
    match kill.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        // The registry is gone: so is the daemon.
        Err(_) => "the daemon is gone".to_owned(),
    }
}
