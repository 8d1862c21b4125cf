//! One running session: bytes between agent and resource, through engine and gate.
//!
//! One task, four buffers. While a request waits (for its analysis, the catalog, the disk or people) replies keep flowing and
//! the agent's end is still watched; what the agent pipelines meanwhile waits in its buffer, up to a limit.
//! INVARIANT: a frame leaves the agent's buffer only when the engine has accounted for it.

use std::collections::HashMap;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::cancel::{CancelCall, Enrolled};
use super::catalog::Catalog;
use super::dial::{DialError, Dialer};
use super::engine::{Ask, Engine, EngineError, Note, Step, View};
use super::greeting::Client;
use super::wire::{self, CancelKey, Kind, Notice, next_frame};
use super::{Postgres, mask_table, notices};
use crate::gate::{Admission, Guarded, HoldNews, Pending, Permit, Refusal, RefusalKind, Released, Request, Upstream};
use crate::mask::Keys;
use crate::model::Principal;
use crate::net::{Fill, poll_drain, poll_fill};
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
    AgentBroke(io::Error),
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

/// What the streams did.
enum Turn {
    FromAgent,
    AgentEnd,
    AgentError(io::Error),
    FromServer,
    ServerEnd,
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
    /// The head frame waits for a reply that is owed.
    later: bool,
    agent_ended: bool,
    draining: bool,
    bytes: (u64, u64),
}

impl<'a> Relay<'a> {
    pub(super) fn new(mut parts: SessionParts, incoming: Incoming, postgres: &'a Postgres, keys: Keys) -> Self {
        let view = std::mem::take(&mut parts.view);
        let standing = incoming.door.standing();
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
            let header = next_frame(&self.from_server, &|_| Some(SERVER_LENGTH_MAX)).map_err(EngineError::Server)?;
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

    /// Handles the agent's next frame; false if there is none, or it waits.
    fn pump_agent(&mut self) -> Result<bool, EngineError> {
        let buffer = &self.parts.client.buffer;
        let Some(header) = next_frame(buffer, &Kind::limits()).map_err(EngineError::Client)? else { return Ok(false) };
        let Some(frame) = buffer.get(..header.total) else { return Ok(false) };
        let step = self.engine.client(frame)?;
        self.later = false;
        match step {
            Step::Analyse(text) => match self.postgres.analyzer.cached(&text) {
                Some(analysis) => self.analysed(&analysis)?,
                None => {
                    let analyzer = self.postgres.analyzer.clone();
                    self.wait = Wait::Analysis(Box::pin(async move { analyzer.analyze(&text).await }));
                }
            },
            Step::Judge(ask) => self.judge(ask),
            Step::Follow { request, before } => {
                match self.released.get(&request) {
                    Some(released) => {
                        self.parts.upstream.follow(released, &before);
                        self.parts.upstream.follow(released, frame);
                    }
                    None => return Err(EngineError::ClientOrder("it used something that is gone")),
                }
                self.parts.client.buffer.advance(header.total);
            }
            Step::Constant(bytes) => {
                self.parts.upstream.constant(bytes);
                self.parts.client.buffer.advance(header.total);
            }
            Step::Ignore => self.parts.client.buffer.advance(header.total),
            Step::Later => {
                self.later = true;
                return Ok(false);
            }
            Step::Goodbye => {
                self.parts.client.buffer.clear();
                self.agent_ended = true;
                return Ok(false);
            }
        }
        Ok(matches!(self.wait, Wait::Nothing))
    }

    /// The length of the frame that waits at the head of the agent's buffer.
    fn head(&self) -> usize {
        match next_frame(&self.parts.client.buffer, &Kind::limits()) {
            Ok(Some(header)) => header.total,
            Ok(None) | Err(_) => 0,
        }
    }

    /// The head frame's statement is analysed: see to the catalog, then ask.
    fn analysed(&mut self, analysis: &Arc<Analysis>) -> Result<(), EngineError> {
        self.renew_view();
        if let Some(age) = self.catalog_wanted(analysis) {
            let snapshots = self.postgres.snapshots.clone();
            let resource = self.incoming.door.session().resource.name.clone();
            let (database, dialer) = (self.parts.database.clone(), self.parts.dialer.clone());
            let read = async move { snapshots.current(&resource, &database, &dialer, age).await };
            self.wait = Wait::Catalog(Arc::clone(analysis), Box::pin(read));
            return Ok(());
        }
        self.ask(analysis)
    }

    fn ask(&mut self, analysis: &Arc<Analysis>) -> Result<(), EngineError> {
        let head = self.head();
        let frame = self.parts.client.buffer.get(..head).unwrap_or_default();
        let ask = self.engine.ask(frame, analysis)?;
        self.judge(ask);
        Ok(())
    }

    /// The oldest catalog acceptable for this statement, if the present one is older.
    fn catalog_wanted(&self, analysis: &Analysis) -> Option<Duration> {
        if self.engine.masks_nothing() {
            return None;
        }
        let age = self.postgres.clock.instant().saturating_duration_since(self.catalog_at);
        let doubt = self.catalog_stale || analysis.statements.iter().any(|one| self.engine.names_unknown(one));
        if doubt && age >= CATALOG_AGE_WHEN_IN_DOUBT {
            return Some(CATALOG_AGE_WHEN_IN_DOUBT);
        }
        (age >= CATALOG_AGE_MAX).then_some(CATALOG_AGE_MAX)
    }

    /// A new bundle or a new identity changes what is masked.
    fn renew_view(&mut self) {
        let standing = self.incoming.door.standing();
        if Arc::ptr_eq(&standing.0, &self.standing.0) && Arc::ptr_eq(&standing.1, &self.standing.1) {
            return;
        }
        self.standing = standing;
        let catalog = self.engine.catalog();
        // A session that began without a catalog has none: everything is then unknown, and masked, until it is read.
        self.catalog_stale |= catalog.is_empty();
        let table = Arc::new(mask_table(&self.incoming.door, &catalog));
        self.engine.set_view(View { catalog, table });
    }

    fn judge(&mut self, ask: Ask) {
        self.renew_view();
        let leaks = ask.leaks;
        let request = Request {
            operation: ask.operation,
            statement: ask.statement,
            values: ask.values,
            in_transaction: self.engine.in_transaction(),
        };
        if leaks {
            let refusal = self.incoming.door.refuse(request, RefusalKind::MaskedData);
            self.refused(&refusal);
            return;
        }
        match self.incoming.door.admit(request) {
            Admission::Permitted(permit) => self.permitted(permit),
            Admission::Refused(refusal) => self.refused(&refusal),
            Admission::Recording(pending) => self.wait = Wait::Gate(pending, None),
            Admission::Held(news, pending) => {
                self.say(&notices::held(&news));
                let hold = Hold { news, next_notice: Instant::now() + HELD_NOTICE_EVERY };
                self.wait = Wait::Gate(pending, Some(hold));
            }
        }
    }

    fn permitted(&mut self, permit: Permit) {
        let head = self.head();
        let frame = self.parts.client.buffer.split_to(head);
        if self.engine.still_wanted() {
            let number = permit.request().number;
            let released = self.parts.upstream.release(permit, &frame);
            self.released.insert(number, released);
            self.engine.permitted(number);
        }
    }

    fn refused(&mut self, refusal: &Refusal) {
        let head = self.head();
        self.parts.client.buffer.advance(head);
        if self.engine.still_wanted() {
            let instead = self.engine.refused(&notices::error(refusal));
            self.parts.upstream.constant(instead);
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
            }
        }
    }

    /// Whether the session is over and everything owed was delivered.
    fn settled(&mut self) -> Option<End> {
        let quiet = self.to_agent.is_empty() && self.parts.upstream.queued() == 0;
        if self.agent_ended && matches!(self.wait, Wait::Nothing) && (self.engine.is_idle() || self.parts.client.buffer.is_empty()) {
            // An agent that leaves while a statement runs does not stop it: the resource is told, and finishes or not.
            return Some(if self.engine.is_idle() { End::Goodbye } else { End::AgentGone });
        }
        if self.agent_ended && !matches!(self.wait, Wait::Nothing) {
            return Some(End::AgentGone);
        }
        if self.draining && quiet && self.engine.is_idle() && !self.engine.in_transaction() {
            return Some(End::Stopped("the daemon is shutting down".to_owned()));
        }
        None
    }

    /// The next thing that happens.
    async fn next(&mut self, drain: &mut Boxed<()>) -> Event {
        let reading_agent = !self.agent_ended
            && (matches!(self.wait, Wait::Nothing) && !self.later || self.parts.client.buffer.len() < AHEAD_BYTES_MAX)
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
            &mut self.bytes,
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

    fn catalogued(&mut self, result: Result<Arc<Catalog>, DialError>) {
        self.catalog_at = self.postgres.clock.instant();
        match result {
            Ok(catalog) => {
                self.catalog_stale = false;
                let table = Arc::new(mask_table(&self.incoming.door, &catalog));
                self.engine.set_view(View { catalog, table });
            }
            // What the old snapshot does not know stays masked, so going on is safe.
            Err(error) => {
                tracing::warn!(session = %self.incoming.door.session().id, %error, "catalog not refreshed");
            }
        }
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
            End::ServerGone => (Some(notices::lost()), SessionEnd::server("the resource closed the connection")),
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

/// Moves bytes until one side brought some, or ended.
async fn turn(
    (client, reading): (&mut Client, bool),
    upstream: &mut Upstream<Guarded>,
    (from_server, to_agent): (&mut BytesMut, &mut BytesMut),
    bytes: &mut (u64, u64),
) -> Turn {
    poll_fn(move |cx| {
        let before = to_agent.len();
        let drained = poll_drain(&mut *client.stream, to_agent, cx);
        let sent = u64::try_from(before.saturating_sub(to_agent.len())).unwrap_or(0);
        bytes.1 = bytes.1.saturating_add(sent);
        if let Poll::Ready(Err(error)) = drained {
            return Poll::Ready(Turn::AgentError(error));
        }
        if let Poll::Ready(Err(_)) = upstream.poll_drain(cx) {
            return Poll::Ready(Turn::ServerEnd);
        }
        if reading {
            let before = client.buffer.len();
            match poll_fill(&mut *client.stream, &mut client.buffer, cx) {
                Poll::Ready(Ok(Fill::Bytes)) => {
                    let added = u64::try_from(client.buffer.len().saturating_sub(before)).unwrap_or(0);
                    bytes.0 = bytes.0.saturating_add(added);
                    return Poll::Ready(Turn::FromAgent);
                }
                Poll::Ready(Ok(Fill::End)) => return Poll::Ready(Turn::AgentEnd),
                Poll::Ready(Err(error)) => return Poll::Ready(Turn::AgentError(error)),
                Poll::Pending => {}
            }
        }
        if to_agent.len() < BEHIND_BYTES_MAX {
            match upstream.poll_fill(from_server, cx) {
                Poll::Ready(Ok(Fill::Bytes)) => return Poll::Ready(Turn::FromServer),
                Poll::Ready(Ok(Fill::End) | Err(_)) => return Poll::Ready(Turn::ServerEnd),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
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
