//! Messages from the agent: what each becomes.
//!
//! Forwarded under a permit, replaced by bytes of the program's own, answered by nothing, or held back for a verdict.
//! INVARIANT: a frame that names something unknown is replaced by one that fails on the server.

use std::sync::Arc;

use super::super::wire::{self, Bind, Describe, Execute, Kind, Parse, Severity};
use super::ask::{Ask, NameChange, PartPlan, Pending, name_change, redefines};
use super::state::{
    Copies, CopyMode, Denial, Engine, EngineError, Expect, Note, PORTALS_MAX, Part, Portal, PortalPlan,
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
        match kind {
            Kind::Query => {
                Ok(Step::Analyse(Arc::from(wire::parse_query(frame).map_err(EngineError::Client)?)))
            }
            Kind::Parse => {
                Ok(Step::Analyse(Arc::from(Parse::read(frame).map_err(EngineError::Client)?.statement)))
            }
            Kind::Bind => self.client_bind(frame),
            Kind::Describe => self.client_describe(frame),
            Kind::Execute => self.client_execute(frame),
            Kind::Close => self.client_close(frame),
            Kind::Sync => {
                self.skipping = false;
                self.owed.push_back(Expect::Sync { portals: self.last_portal });
                Ok(Step::Constant(SYNC))
            }
            Kind::Flush => Ok(Step::Constant(FLUSH)),
            Kind::FunctionCall => {
                let oid =
                    frame.get(5..9).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
                Ok(Step::Judge(self.ask_function(oid)))
            }
            // A client that sends data before the server asks for it would wait for ever: say so instead.
            Kind::CopyData | Kind::CopyDone | Kind::CopyFail if self.owes_copy() => {
                Err(EngineError::ClientOrder("it sent copy data before the server asked for it"))
            }
            // The server ignores copy messages outside a copy, as it must after a failed one.
            Kind::CopyData | Kind::CopyDone | Kind::CopyFail => Ok(Step::Ignore),
            Kind::Terminate => Ok(Step::Goodbye),
        }
    }

    /// The question for the statement that [`Step::Analyse`] named; `frame` is the same frame.
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
        let text = wire::parse_query(frame).map_err(EngineError::Client)?;
        Ok(self.ask_query(text, analysis))
    }

    fn owes_copy(&self) -> bool {
        self.copy == CopyMode::None
            && self.owed.iter().any(|expect| match expect {
                Expect::Query(query) => query.parts.iter().any(|part| part.copies == Copies::In),
                _ => false,
            })
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
        if let Some(ask) = self.ask_bind(&bind) {
            return Ok(Step::Judge(ask));
        }
        let denial =
            Some(missing("26000", format!("prepared statement \"{}\" does not exist", bind.statement)));
        self.owed.push_back(Expect::Bind { request: 0, denial });
        Ok(Step::Constant(BIND_THAT_FAILS))
    }

    fn client_describe(&mut self, frame: &[u8]) -> Result<Step, EngineError> {
        match Describe::read(frame).map_err(EngineError::Client)? {
            Describe::Statement(name) => {
                if let Some(statement) = self.statements.get(name).filter(|statement| statement.request != 0)
                {
                    let request = statement.request;
                    self.owed.push_back(Expect::DescribeStatement { denial: None });
                    return Ok(Step::Follow { request, before: Vec::new() });
                }
                let denial = Some(missing("26000", format!("prepared statement \"{name}\" does not exist")));
                self.owed.push_back(Expect::DescribeStatement { denial });
            }
            Describe::Portal(name) => {
                if let Some(portal) =
                    self.portal_names.get(name).and_then(|request| self.portals.get_mut(request))
                {
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
        let Some(portal) = self.portal_names.get(name).and_then(|request| self.portals.get_mut(request))
        else {
            let denial = Some(missing("34000", format!("portal \"{name}\" does not exist")));
            self.owed.push_back(Expect::Execute { portal: 0, denial });
            return Ok(Step::Constant(EXECUTE_THAT_FAILS));
        };
        let first = !std::mem::replace(&mut portal.executed, true);
        portal.owed = portal.owed.saturating_add(1);
        let request = portal.request;
        let statement = Arc::clone(&portal.statement);
        let mut before = Vec::new();
        // The statement's description may be older than the relation it names now; the portal's is what will run.
        if matches!(portal.plan, PortalPlan::Undescribed) {
            portal.plan = PortalPlan::Asked;
            portal.owed = portal.owed.saturating_add(1);
            before = describe_portal(name);
            self.owed.push_back(Expect::DescribePortal { portal: request, injected: true });
        }
        self.owed.push_back(Expect::Execute { portal: request, denial: None });
        if first {
            self.runs(&statement);
        }
        Ok(Step::Follow { request, before })
    }

    /// A prepared text is about to run: the names it makes or removes change as they do for a simple query.
    fn runs(&mut self, prepared: &Arc<Prepared>) {
        self.changes_objects(&prepared.analysis);
        let parts = self.judged(&prepared.analysis).parts;
        let names = prepared.analysis.statements.iter().zip(&parts);
        let names: Vec<NameChange> = names
            .filter_map(|(one, part)| name_change(one, &prepared.analysis, &prepared.text, part))
            .collect();
        for change in names {
            self.apply(change);
        }
    }

    /// A text is about to run: what it may change is in doubt until a snapshot shows it, and code that cannot be seen into
    /// may leave cursors under any name.
    fn changes_objects(&mut self, analysis: &Analysis) {
        for one in &analysis.statements {
            if redefines(&one.operation) {
                self.doubt = true;
                self.settled = false;
            }
            if self.exposure(one).is_opaque() {
                self.cursors.clear();
            }
        }
    }

    fn client_close(&mut self, frame: &[u8]) -> Result<Step, EngineError> {
        self.owed.push_back(Expect::Close);
        let request = match Describe::read(frame).map_err(EngineError::Client)? {
            Describe::Statement(name) => {
                let request = self.statements.remove(name).map(|statement| statement.request);
                // The driver follows first and reads notes afterwards.
                self.forget(request.unwrap_or(0));
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
                self.permitted_query(request, parts, names);
                self.changes_objects(&analysis);
            }
            Some(Pending::Parse { name, text, analysis }) => {
                let changes = analysis.operation.effects.iter().any(|effect| changes_objects(*effect));
                let prepared = Arc::new(Prepared { text, analysis, request });
                let previous = self.replace_statement(&name, prepared);
                if let Some(unnamed) = previous.as_ref().filter(|_| name.is_empty()) {
                    self.forget(unnamed.request);
                }
                let previous = previous.filter(|_| !name.is_empty());
                self.owed.push_back(Expect::Parse { request, name, previous, denial: None });
                if changes {
                    self.notes.push(Note::CatalogStale);
                }
            }
            Some(Pending::Bind { portal, statement }) => self.permitted_bind(request, portal, &statement),
            Some(Pending::Function) => {
                let exposure = super::super::exposure::Exposure::total();
                self.owed.push_back(Expect::Query(Box::new(query(request, Vec::new(), exposure, None))));
            }
            None => tracing::error!("a verdict came for no request"),
        }
    }

    fn permitted_query(&mut self, request: u64, parts: Vec<PartPlan>, names: Vec<NameChange>) {
        // Any simple query destroys the unnamed statement and portal.
        self.drop_statement("");
        self.unname_portal("");
        let parts: Vec<Part> = parts.into_iter().map(|part| part.0).collect();
        let exposure = parts
            .iter()
            .fold(super::super::exposure::Exposure::default(), |all, part| all.and(&part.exposure));
        let mut query = query(request, parts, exposure, None);
        query.portals = self.last_portal;
        for change in names {
            query.names.extend(self.apply(change));
        }
        self.owed.push_back(Expect::Query(Box::new(query)));
    }

    fn permitted_bind(&mut self, request: u64, portal: String, statement: &str) {
        self.unname_portal(&portal);
        // Cursors and portals share their names.
        self.cursors.remove(&portal);
        let Some(statement) = self.statements.get(statement).map(Arc::clone) else {
            tracing::error!("a bind was permitted for a statement that is gone");
            return;
        };
        let (exposure, outputs) = self.sight(&statement.analysis);
        let plan = PortalPlan::of(&exposure);
        self.owed.push_back(Expect::Bind { request, denial: None });
        let tally = Tally::default();
        let bound = Portal {
            request,
            statement,
            exposure,
            outputs,
            plan,
            tally,
            executed: false,
            owed: 1,
            named: true,
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
                self.owed.push_back(Expect::Parse { request: 0, name, previous: None, denial });
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

    /// Applies a change of names; returns those that an error would leave in doubt.
    fn apply(&mut self, change: NameChange) -> Vec<String> {
        match change {
            NameChange::Prepare(name, analysis, text) => {
                let prepared = Prepared { text, analysis, request: 0 };
                self.drop_statement(&name);
                self.statements.insert(name.clone(), Arc::new(prepared));
                vec![name]
            }
            NameChange::Deallocate(name) => {
                self.drop_statement(&name);
                vec![name]
            }
            NameChange::DeallocateAll => {
                let names: Vec<String> = self.statements.keys().cloned().collect();
                for name in &names {
                    self.drop_statement(name);
                }
                self.cursors.clear();
                names
            }
            NameChange::Declare(name, outputs, exposure) => {
                if self.cursors.len() < PORTALS_MAX {
                    self.cursors.insert(name.clone(), Part { outputs, exposure, copies: Copies::No });
                }
                vec![name]
            }
            NameChange::CloseCursor(name) => {
                self.cursors.remove(&name);
                vec![name]
            }
            NameChange::CloseAll => {
                self.cursors.clear();
                Vec::new()
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
        names: Vec::new(),
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
