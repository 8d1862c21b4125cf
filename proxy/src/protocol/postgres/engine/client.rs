//! Messages from the agent: what each becomes.
//!
//! Forwarded under a permit, replaced by bytes of the program's own, answered by nothing, or held back for a verdict or a reply.
//! INVARIANT: a frame that names something unknown is replaced by one that fails on the server.

use std::sync::Arc;

use super::super::wire::{self, Bind, Describe, Execute, Kind, Parse, Severity};
use super::ask::{Ask, PartPlan, Pending};
use super::names::{Meaning, NameChange};
use super::state::{
    CopyMode, Denial, Doubt, Engine, EngineError, Expect, Note, PORTALS_MAX, Part, Portal, PortalPlan,
    Prepared, Query, STATEMENTS_MAX,
};
use crate::model::{Effect, Tally};
use crate::sql::Analysis;

/// `Sync`, `Flush`, `Terminate`.
const SYNC: &[u8] = b"S\0\0\0\x04";
const FLUSH: &[u8] = b"H\0\0\0\x04";
/// A query that no server accepts: it fails in the parser, before anything runs, in every transaction state.
const QUERY_THAT_FAILS: &[u8] = b"Q\0\0\0\x15chaperone_denied\0";
const PARSE_THAT_FAILS: &[u8] = b"P\0\0\0\x18\0chaperone_denied\0\0\0";
/// A bind of a statement that does not exist.
const BIND_THAT_FAILS: &[u8] = b"B\0\0\0\x1c\0chaperone_denied\0\0\0\0\0\0\0";
const DESCRIBE_THAT_FAILS: &[u8] = b"D\0\0\0\x16Schaperone_denied\0";
const EXECUTE_THAT_FAILS: &[u8] = b"E\0\0\0\x19chaperone_denied\0\0\0\0\0";
/// Closing a name that does not exist succeeds.
const CLOSE_OF_NOTHING: &[u8] = b"C\0\0\0\x16Schaperone_denied\0";

/// What the driver does with a message.
#[derive(Debug)]
pub(crate) enum Step {
    /// Analyse this text, then call [`Engine::ask`].
    Analyse(Arc<str>),
    /// This is what it is about; call [`Engine::ask`] next.
    Known(Arc<Analysis>),
    /// Ask the gate, then call [`Engine::permitted`] or [`Engine::refused`].
    Judge(Ask),
    /// Send `before`, then this frame, under the permit of `request`.
    Follow {
        /// Request number.
        request: u64,
        /// Bytes that go first.
        before: Vec<u8>,
    },
    /// Send these bytes instead of the frame.
    Constant(&'static [u8]),
    /// Send nothing.
    Ignore,
    /// Its meaning hangs on a reply that is owed: leave it, and offer it again after the next message from the server.
    Later,
    /// The agent is leaving.
    Goodbye,
}

impl Engine {
    /// Takes one whole frame from the agent.
    ///
    /// # Errors
    /// When the agent breaks the protocol.
    pub(crate) fn client(&mut self, frame: &[u8]) -> Result<Step, EngineError> {
        let byte = frame.first().copied().unwrap_or(0);
        let kind = Kind::of(byte).map_err(EngineError::Client)?;
        if self.skipping && !matches!(kind, Kind::Sync | Kind::Terminate) {
            return Ok(Step::Ignore);
        }
        if let CopyMode::In { request, done: false } = self.copy {
            return self.client_in_copy(kind, request);
        }
        if self.awaits_copy() && kind != Kind::Terminate {
            return Ok(Step::Later);
        }
        if self.must_wait() && !matches!(kind, Kind::Sync | Kind::Flush | Kind::Terminate) {
            return Ok(Step::Later);
        }
        match kind {
            Kind::Query => match wire::parse_query(frame) {
                Ok(text) => Ok(Step::Analyse(Arc::from(text))),
                Err(error) => self.unreadable(frame, kind, error),
            },
            Kind::Parse => match Parse::read(frame) {
                Ok(parse) => Ok(Step::Analyse(Arc::from(parse.statement))),
                Err(error) => self.unreadable(frame, kind, error),
            },
            Kind::Bind => self.client_bind(frame),
            Kind::Describe => self.client_describe(frame),
            Kind::Execute => self.client_execute(frame),
            Kind::Close => self.client_close(frame),
            Kind::Sync => {
                self.skipping = false;
                self.syncs = self.syncs.wrapping_add(1);
                self.owed.push_back(Expect::Sync { portals: self.last_portal });
                Ok(Step::Constant(SYNC))
            }
            Kind::Flush => Ok(Step::Constant(FLUSH)),
            Kind::FunctionCall => {
                let oid =
                    frame.get(5..9).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
                Ok(Step::Judge(self.ask_function(oid)))
            }
            // The server ignores copy messages outside a copy, as it must after a failed one.
            Kind::CopyData | Kind::CopyDone | Kind::CopyFail => Ok(Step::Ignore),
            Kind::Terminate => Ok(Step::Goodbye),
        }
    }

    /// A statement in another encoding is refused like a denied one. It is never forwarded: the server would read it otherwise
    /// than the parser. Anything else that cannot be read ends the session.
    fn unreadable(&mut self, frame: &[u8], kind: Kind, error: wire::WireError) -> Result<Step, EngineError> {
        if !error.is_encoding() {
            return Err(EngineError::Client(error));
        }
        // character_not_in_repertoire
        let denial = Some(missing("22021", "chaperone: the statement is not UTF-8".to_owned()));
        if kind == Kind::Parse {
            let name = Parse::name(frame).map_err(EngineError::Client)?.to_owned();
            self.owed.push_back(Expect::Parse { request: 0, name, made: None, previous: None, denial });
            return Ok(Step::Constant(PARSE_THAT_FAILS));
        }
        self.drop_statement("");
        self.unname_portal("");
        let exposure = super::super::exposure::Exposure::default();
        self.owed.push_back(Expect::Query(Box::new(query(0, Vec::new(), exposure, denial))));
        Ok(Step::Constant(QUERY_THAT_FAILS))
    }

    /// The question for the statement that [`Step::Analyse`] or [`Step::Known`] named; `frame` is the same frame.
    ///
    /// # Errors
    /// When the frame is not what it was.
    pub(crate) fn ask(&mut self, frame: &[u8], analysis: &Arc<Analysis>) -> Result<Ask, EngineError> {
        if frame.first() == Some(&b'P') {
            let parse = Parse::read(frame).map_err(EngineError::Client)?;
            if self.statements.len() >= STATEMENTS_MAX && !self.statements.contains_key(parse.name) {
                return Err(EngineError::ClientOrder("it holds too many prepared statements"));
            }
            return Ok(self.ask_parse(parse.name, parse.statement, analysis));
        }
        if let Some(Pending::Bind { statement, .. }) = &self.pending {
            let bind = Bind::read(frame).map_err(EngineError::Client)?;
            return Ok(self.ask_bind(&bind, statement));
        }
        let text = wire::parse_query(frame).map_err(EngineError::Client)?;
        Ok(self.ask_query(text, analysis))
    }

    fn client_in_copy(&mut self, kind: Kind, request: u64) -> Result<Step, EngineError> {
        match kind {
            Kind::CopyData => Ok(Step::Follow { request, before: Vec::new() }),
            Kind::CopyDone | Kind::CopyFail => {
                self.copy = CopyMode::In { request, done: true };
                Ok(Step::Follow { request, before: Vec::new() })
            }
            // The server ignores these while it waits for data.
            Kind::Sync | Kind::Flush => Ok(Step::Ignore),
            Kind::Terminate => Ok(Step::Goodbye),
            Kind::Query
            | Kind::Parse
            | Kind::Bind
            | Kind::Describe
            | Kind::Execute
            | Kind::Close
            | Kind::FunctionCall => {
                Err(EngineError::ClientOrder("it sent a request in the middle of a copy"))
            }
        }
    }

    fn client_bind(&mut self, frame: &[u8]) -> Result<Step, EngineError> {
        let bind = Bind::read(frame).map_err(EngineError::Client)?;
        if self.portals.len() >= PORTALS_MAX {
            return Err(EngineError::ClientOrder("it holds too many portals"));
        }
        match self.statement(bind.statement) {
            Meaning::Is(statement) => {
                let analysis = Arc::clone(&statement.analysis);
                self.pending = Some(Pending::Bind { portal: bind.portal.to_owned(), statement });
                return Ok(Step::Known(analysis));
            }
            Meaning::Later => return Ok(Step::Later),
            Meaning::Unknown => {}
        }
        let denial =
            Some(missing("26000", format!("prepared statement \"{}\" does not exist", bind.statement)));
        self.owed.push_back(Expect::Bind { request: 0, denial });
        Ok(Step::Constant(BIND_THAT_FAILS))
    }

    fn client_describe(&mut self, frame: &[u8]) -> Result<Step, EngineError> {
        match Describe::read(frame).map_err(EngineError::Client)? {
            Describe::Statement(name) => {
                let known = self.statements.get(name).map(|known| known.prepared.request);
                if let Some(request) = known.filter(|request| *request != 0) {
                    self.owed.push_back(Expect::DescribeStatement { denial: None });
                    return Ok(Step::Follow { request, before: Vec::new() });
                }
                let denial = Some(missing("26000", format!("prepared statement \"{name}\" does not exist")));
                self.owed.push_back(Expect::DescribeStatement { denial });
            }
            Describe::Portal(name) => {
                let request = match self.portal(name) {
                    Meaning::Is(request) => Some(request),
                    Meaning::Later => return Ok(Step::Later),
                    Meaning::Unknown => None,
                };
                if let Some(portal) = request.and_then(|request| self.portals.get_mut(&request)) {
                    if matches!(portal.plan, PortalPlan::Undescribed) {
                        portal.plan = PortalPlan::Asked;
                    }
                    portal.owed = portal.owed.saturating_add(1);
                    let request = portal.request;
                    self.owed.push_back(Expect::DescribePortal { portal: request, injected: false });
                    return Ok(Step::Follow { request, before: Vec::new() });
                }
                let denial = Some(missing("34000", format!("portal \"{name}\" does not exist")));
                self.owed.push_back(Expect::DescribeStatement { denial });
            }
        }
        Ok(Step::Constant(DESCRIBE_THAT_FAILS))
    }

    fn client_execute(&mut self, frame: &[u8]) -> Result<Step, EngineError> {
        let execute = Execute::read(frame).map_err(EngineError::Client)?;
        let name = execute.portal;
        let known = match self.portal(name) {
            Meaning::Is(request) => Some(request),
            Meaning::Later => return Ok(Step::Later),
            Meaning::Unknown => None,
        };
        let Some(portal) = known.and_then(|request| self.portals.get_mut(&request)) else {
            let denial = Some(missing("34000", format!("portal \"{name}\" does not exist")));
            self.owed.push_back(Expect::Execute { portal: 0, denial });
            return Ok(Step::Constant(EXECUTE_THAT_FAILS));
        };
        portal.executed = true;
        portal.owed = portal.owed.saturating_add(1);
        let request = portal.request;
        let (changes, statement) = (portal.changes.clone(), Arc::clone(&portal.statement));
        let mut before = Vec::new();
        // The statement's description may be older than the relation it names now; the portal's is what will run.
        if matches!(portal.plan, PortalPlan::Undescribed) {
            portal.plan = PortalPlan::Asked;
            portal.owed = portal.owed.saturating_add(1);
            before = describe_portal(name);
            self.owed.push_back(Expect::DescribePortal { portal: request, injected: true });
        }
        self.owed.push_back(Expect::Execute { portal: request, denial: None });
        self.runs(&changes, &statement.analysis);
        Ok(Step::Follow { request, before })
    }

    fn client_close(&mut self, frame: &[u8]) -> Result<Step, EngineError> {
        self.owed.push_back(Expect::Close);
        let request = match Describe::read(frame).map_err(EngineError::Client)? {
            Describe::Statement(name) => {
                let request = self.statements.get(name).map(|known| known.prepared.request);
                // The driver follows first and reads notes afterwards.
                self.drop_statement(name);
                request
            }
            Describe::Portal(name) => {
                let request = self.portal_names.get(name).copied();
                self.unname_portal(name);
                request
            }
        };
        match request.filter(|request| *request != 0) {
            Some(request) => Ok(Step::Follow { request, before: Vec::new() }),
            None => Ok(Step::Constant(CLOSE_OF_NOTHING)),
        }
    }

    /// Whether the message that waits for a verdict still matters: after an error the server ignores it, and so must we.
    pub(crate) fn still_wanted(&mut self) -> bool {
        if self.skipping {
            self.pending = None;
        }
        self.pending.is_some()
    }

    /// The pending message goes on as `request`; the driver sends its frame under the permit.
    pub(crate) fn permitted(&mut self, request: u64) {
        match self.pending.take() {
            Some(Pending::Query { parts, names, analysis }) => {
                self.runs(&names, &analysis);
                self.permitted_query(request, parts, names);
            }
            Some(Pending::Parse { name, text, analysis }) => {
                let changes = analysis.operation.effects.iter().any(|effect| changes_objects(*effect));
                let made = Arc::new(Prepared { text, analysis, request });
                let previous = self.make_statement(&name, &made);
                if let Some(unnamed) = previous.as_ref().filter(|_| name.is_empty()) {
                    self.forget(unnamed.request);
                }
                let previous = previous.filter(|_| !name.is_empty());
                self.owed.push_back(Expect::Parse {
                    request,
                    name,
                    made: Some(made),
                    previous,
                    denial: None,
                });
                if changes {
                    self.notes.push(Note::CatalogStale);
                }
            }
            Some(Pending::Bind { portal, statement }) => self.permitted_bind(request, portal, statement),
            Some(Pending::Function) => {
                let exposure = super::super::exposure::Exposure::total();
                self.owed.push_back(Expect::Query(Box::new(query(request, Vec::new(), exposure, None))));
            }
            None => tracing::error!("a verdict came for no request"),
        }
    }

    /// A text is about to run. The names it changes are unknown until it has succeeded; what else it may change is in doubt
    /// until a snapshot shows it; and code that cannot be seen into may leave cursors under any name.
    fn runs(&mut self, changes: &[NameChange], analysis: &Analysis) {
        for change in changes {
            self.forget_change(change);
        }
        for one in &analysis.statements {
            let doubt = Doubt::after(one);
            if doubt != Doubt::None {
                self.doubt = self.doubt.max(doubt);
                self.settled = false;
            }
            if self.exposure(one).is_opaque() {
                self.cursors.clear();
                self.names = self.names.wrapping_add(1);
            }
        }
    }

    fn permitted_query(&mut self, request: u64, parts: Vec<PartPlan>, changes: Vec<NameChange>) {
        // Any simple query destroys the unnamed statement and portal.
        self.drop_statement("");
        self.unname_portal("");
        let parts: Vec<Part> = parts.into_iter().map(|part| part.0).collect();
        let exposure = parts
            .iter()
            .fold(super::super::exposure::Exposure::default(), |all, part| all.and(&part.exposure));
        let mut query = query(request, parts, exposure, None);
        query.portals = self.last_portal;
        query.changes = changes;
        self.owed.push_back(Expect::Query(Box::new(query)));
    }

    fn permitted_bind(&mut self, request: u64, portal: String, statement: Arc<Prepared>) {
        self.unname_portal(&portal);
        // Portals and cursors share their names.
        self.cursors.remove(&portal);
        let (exposure, outputs) = self.sight(&statement.analysis);
        let by_name = Self::goes_by_name(&statement).then_some(self.names);
        let changes = self.changes_of(&statement);
        let plan = PortalPlan::of(&self.view.table, &exposure, &outputs);
        self.owed.push_back(Expect::Bind { request, denial: None });
        let bound = Portal {
            request,
            statement,
            exposure,
            plan,
            tally: Tally::default(),
            executed: false,
            owed: 1,
            named: true,
            ended: false,
            sent: Some(self.syncs),
            outputs,
            by_name,
            changes,
        };
        self.portals.insert(request, bound);
        self.portal_names.insert(portal, request);
        self.last_portal = request;
    }

    /// The pending message is refused: these bytes go instead, and `notice` stands in for the server's error.
    pub(crate) fn refused(&mut self, notice: &wire::Notice) -> &'static [u8] {
        let denial = Some(Denial { frame: wire::notice(notice) });
        match self.pending.take() {
            Some(Pending::Parse { name, .. }) => {
                self.owed.push_back(Expect::Parse { request: 0, name, made: None, previous: None, denial });
                PARSE_THAT_FAILS
            }
            Some(Pending::Bind { .. }) => {
                self.owed.push_back(Expect::Bind { request: 0, denial });
                BIND_THAT_FAILS
            }
            Some(Pending::Query { .. } | Pending::Function) | None => {
                self.drop_statement("");
                self.unname_portal("");
                let exposure = super::super::exposure::Exposure::default();
                self.owed.push_back(Expect::Query(Box::new(query(0, Vec::new(), exposure, denial))));
                QUERY_THAT_FAILS
            }
        }
    }
}

fn changes_objects(effect: Effect) -> bool {
    matches!(
        effect,
        Effect::Create | Effect::Alter | Effect::Drop | Effect::Execute | Effect::Call | Effect::Unknown
    )
}

fn query(
    request: u64,
    parts: Vec<Part>,
    exposure: super::super::exposure::Exposure,
    denial: Option<Denial>,
) -> Query {
    let parts = Arc::from(parts);
    let tally = Tally::default();
    Query {
        request,
        parts,
        index: 0,
        plan: None,
        tally,
        failed: None,
        exposure,
        changes: Vec::new(),
        portals: 0,
        denial,
    }
}

fn missing(sqlstate: &'static str, message: String) -> Denial {
    Denial { frame: wire::notice(&wire::Notice { severity: Severity::Error, sqlstate, message, hint: None }) }
}

/// `Describe` of a portal.
fn describe_portal(name: &str) -> Vec<u8> {
    let length = u32::try_from(name.len().saturating_add(6)).unwrap_or(u32::MAX);
    let mut frame = vec![b'D'];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.push(b'P');
    frame.extend_from_slice(name.as_bytes());
    frame.push(0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_messages_have_the_length_they_state() {
        for frame in [
            SYNC,
            FLUSH,
            QUERY_THAT_FAILS,
            PARSE_THAT_FAILS,
            BIND_THAT_FAILS,
            DESCRIBE_THAT_FAILS,
            EXECUTE_THAT_FAILS,
            CLOSE_OF_NOTHING,
        ] {
            let length = u32::from_be_bytes(frame[1..5].try_into().unwrap());
            assert_eq!(usize::try_from(length).unwrap() + 1, frame.len(), "{frame:?}");
        }
        assert!(Parse::read(PARSE_THAT_FAILS).is_ok());
        assert_eq!(Bind::read(BIND_THAT_FAILS).unwrap().statement, "chaperone_denied");
        assert_eq!(Describe::read(DESCRIBE_THAT_FAILS), Ok(Describe::Statement("chaperone_denied")));
        assert_eq!(Execute::read(EXECUTE_THAT_FAILS).unwrap().portal, "chaperone_denied");
        assert_eq!(wire::parse_query(QUERY_THAT_FAILS), Ok("chaperone_denied"));
    }
}
