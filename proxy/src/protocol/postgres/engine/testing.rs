//! Drives a session with arbitrary messages from both sides and checks what must hold whatever comes. For fuzzing and tests.
//!
//! The input is a list of instructions of two bytes: what, and about what. A good share of the server's messages are the ones
//! that are owed, since arbitrary ones end the session at once.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;

use super::super::catalog::Catalog;
use super::super::exposure::MaskTable;
use super::super::wire::{Notice, Severity, next_frame};
use super::state::{Expect, OWED_MAX, PORTALS_MAX, STATEMENTS_MAX};
use super::{Engine, EngineError, Note, Step, View};
use crate::mask::Keys;
use crate::model::{ColumnName, MaskStrategy};
use crate::sql::{Analysis, analyse_text};

const NAMES: [&str; 4] = ["", "a", "b", "chaperone_denied"];

const STATEMENTS: [&str; 16] = [
    "",
    "SELECT id FROM orders",
    "SELECT email || '' FROM customers",
    "BEGIN",
    "COMMIT",
    "PREPARE a AS SELECT id FROM orders",
    "EXECUTE a",
    "DEALLOCATE a; PREPARE a AS SELECT email || '' FROM customers; EXECUTE a",
    "DEALLOCATE ALL",
    "DECLARE b CURSOR FOR SELECT email || '' FROM customers",
    "FETCH ALL FROM b",
    "CLOSE ALL",
    "COPY orders FROM STDIN",
    "COPY orders TO STDOUT",
    "INSERT INTO orders SELECT id, email FROM customers",
    "CREATE TABLE a (b int)",
];

static ANALYSES: LazyLock<Vec<Arc<Analysis>>> =
    LazyLock::new(|| STATEMENTS.iter().map(|sql| Arc::new(analyse_text(sql))).collect());

/// Runs the instructions. Stops where the session would end.
///
/// # Panics
/// When a rule is broken: a frame would follow under a request that is not released, a request ends or is forgotten twice, or
/// more is kept than the limits allow.
pub fn converse(instructions: &[u8]) {
    let mut talk = Conversation::new();
    for pair in instructions.chunks_exact(2) {
        let [what, about] = pair else { return };
        let going =
            if what.is_multiple_of(2) { talk.agent(what / 2, *about) } else { talk.server(what / 2, *about) };
        talk.settle();
        if going.is_err() {
            return;
        }
    }
}

struct Conversation {
    engine: Engine,
    requests: u64,
    released: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    out: BytesMut,
}

impl Conversation {
    fn new() -> Self {
        let engine = Engine::new(view(), Keys::new(&[1; 32], &[2; 32]));
        Self { engine, requests: 0, released: BTreeSet::new(), ended: BTreeSet::new(), out: BytesMut::new() }
    }

    fn agent(&mut self, what: u8, about: u8) -> Result<(), EngineError> {
        if !self.engine.has_room() || self.engine.pending.is_some() {
            return self.decide(about);
        }
        let (kind, body) = from_agent(what, about);
        let bytes = framed(kind, &body);
        match self.engine.client(&bytes)? {
            Step::Analyse(text) => {
                let known =
                    STATEMENTS.iter().position(|sql| **sql == *text).and_then(|index| ANALYSES.get(index));
                let analysis = known.map_or_else(|| Arc::new(Analysis::unknown("not listed")), Arc::clone);
                drop(self.engine.ask(&bytes, &analysis)?);
            }
            Step::Follow { request, before } => {
                assert!(
                    self.released.contains(&request),
                    "frame {kind} would follow under request {request}"
                );
                assert!(before.is_empty() || kind == b'E', "only Execute is preceded by anything");
            }
            Step::Known(analysis) => drop(self.engine.ask(&bytes, &analysis)?),
            Step::Judge(_) | Step::Constant(_) | Step::Ignore | Step::Later | Step::Goodbye => {}
        }
        Ok(())
    }

    /// The verdict for what waits; most are yes.
    fn decide(&mut self, about: u8) -> Result<(), EngineError> {
        if self.engine.pending.is_none() || !self.engine.still_wanted() {
            return Ok(());
        }
        if about.is_multiple_of(5) {
            let (sqlstate, message) = ("42501", "no".to_owned());
            self.engine.refused(&Notice { severity: Severity::Error, sqlstate, message, hint: None });
        } else {
            self.requests = self.requests.saturating_add(1);
            self.released.insert(self.requests);
            self.engine.permitted(self.requests);
        }
        Ok(())
    }

    fn server(&mut self, what: u8, about: u8) -> Result<(), EngineError> {
        if about == 77 {
            self.engine.set_view(if what.is_multiple_of(2) { view() } else { View::default() });
            return Ok(());
        }
        let (kind, body) = if what.is_multiple_of(8) { from_server(about) } else { owed(&self.engine, what) };
        let result = self.engine.server(&framed(kind, &body), &mut self.out);
        while let Ok(Some(header)) = next_frame(&self.out, &|_| Some(u32::MAX / 2)) {
            assert!(header.total <= self.out.len(), "the agent got half a frame");
            drop(self.out.split_to(header.total));
        }
        assert!(self.out.is_empty(), "the agent got bytes that are no frame");
        result
    }

    fn settle(&mut self) {
        for note in self.engine.take_notes() {
            match note {
                Note::Ended(end) => {
                    assert!(
                        self.released.contains(&end.request),
                        "request {} ended after it was forgotten",
                        end.request
                    );
                    assert!(self.ended.insert(end.request), "request {} ended twice", end.request);
                }
                Note::Forget(request) => {
                    assert!(self.released.remove(&request), "request {request} was forgotten twice");
                    assert!(self.ended.contains(&request), "request {request} was forgotten before it ended");
                }
                Note::CatalogStale => {}
                Note::Masked(request, columns) => {
                    assert!(self.released.contains(&request) && !columns.is_empty(), "masked for nobody");
                }
            }
        }
        // One message may owe two replies: the injected description and its own.
        assert!(self.engine.owed.len() <= OWED_MAX.saturating_add(1), "too much is owed");
        assert!(self.engine.statements.len() <= STATEMENTS_MAX, "too many statements");
        assert!(
            self.engine.portals.len() <= PORTALS_MAX && self.engine.cursors.len() <= PORTALS_MAX,
            "too many portals"
        );
    }
}

fn view() -> View {
    let text = |rows: &[&[&str]]| -> Vec<Vec<Option<String>>> {
        rows.iter().map(|row| row.iter().map(|cell| Some((*cell).to_owned())).collect()).collect()
    };
    let relations = text(&[&["10", "public", "customers"], &["11", "public", "orders"]]);
    let attributes = text(&[&["10", "1", "id"], &["10", "2", "email"], &["11", "1", "id"]]);
    let none = Vec::new;
    let results = [relations, none(), none(), attributes, none(), none(), none(), none(), none()];
    let catalog = Catalog::read(results).unwrap_or_default();
    let column = ColumnName { schema: "public".into(), table: "customers".into(), column: "email".into() };
    let table = MaskTable::build(&catalog, &[(column, "pii".into())], |_, _| {
        Some((MaskStrategy::Redact, Vec::new()))
    });
    View { catalog: Arc::new(catalog), table: Arc::new(table) }
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
    [&[kind], length.to_be_bytes().as_slice(), body].concat()
}

fn from_agent(what: u8, about: u8) -> (u8, Vec<u8>) {
    let name = |index: u8| NAMES.get(usize::from(index % 4)).copied().unwrap_or_default().as_bytes();
    let sql = STATEMENTS.get(usize::from(about % 16)).copied().unwrap_or_default().as_bytes();
    let half = about / 16;
    match what % 13 {
        0 => (b'Q', [sql, b"\0"].concat()),
        1 => (b'P', [name(half), b"\0", sql, b"\0\0\0"].concat()),
        2 | 3 => (b'B', [name(half), b"\0", name(about), b"\0\0\0\0\0\0\0"].concat()),
        4 => (b'D', [if half.is_multiple_of(2) { b"S" } else { b"P" }, name(about), b"\0"].concat()),
        5 | 6 => (b'E', [name(about), b"\0\0\0\0\0"].concat()),
        7 => (b'C', [if half.is_multiple_of(2) { b"S" } else { b"P" }, name(about), b"\0"].concat()),
        8 | 9 => (b'S', Vec::new()),
        10 => (b'd', vec![about]),
        11 => (if half.is_multiple_of(2) { b'c' } else { b'f' }, b"\0".repeat(usize::from(half % 2))),
        _ if about.is_multiple_of(4) => (b'F', vec![0; 14]),
        _ => (b'H', Vec::new()),
    }
}

/// A reply that is owed, or the failure of what is.
fn owed(engine: &Engine, what: u8) -> (u8, Vec<u8>) {
    let tag = || (b'C', b"SELECT 1\0".to_vec());
    if what % 16 == 1 {
        return failure();
    }
    match engine.owed.front() {
        Some(Expect::Parse { denial: None, .. }) => (b'1', Vec::new()),
        Some(Expect::Bind { denial: None, .. }) => (b'2', Vec::new()),
        Some(Expect::DescribeStatement { denial: None } | Expect::DescribePortal { .. })
            if what.is_multiple_of(3) =>
        {
            (b'n', Vec::new())
        }
        Some(Expect::DescribeStatement { denial: None } | Expect::DescribePortal { .. }) => description(),
        Some(Expect::Execute { denial: None, .. }) => match what % 4 {
            0 => row(),
            1 => (b's', Vec::new()),
            2 => (b'G', vec![0; 3]),
            _ => tag(),
        },
        Some(Expect::Close) => (b'3', Vec::new()),
        Some(Expect::Query(query)) if query.denial.is_none() && query.failed.is_none() => match what % 6 {
            0 => description(),
            1 => row(),
            2 => (b'G', vec![0; 3]),
            3 => (b'Z', vec![b'T']),
            _ => tag(),
        },
        Some(Expect::Sync { .. } | Expect::Query(_)) if what.is_multiple_of(2) => (b'Z', vec![b'I']),
        Some(Expect::Sync { .. }) => (b'Z', vec![b'T']),
        Some(_) | None => failure(),
    }
}

fn from_server(about: u8) -> (u8, Vec<u8>) {
    match about % 16 {
        0 => row(),
        1 => description(),
        2 => (b'N', b"SNOTICE\0Mx\0\0".to_vec()),
        3 => (b'S', b"TimeZone\0UTC\0".to_vec()),
        4 => (b'S', b"client_encoding\0SJIS\0".to_vec()),
        5 => (b'H', vec![0; 3]),
        6 => (b'd', vec![about]),
        7 => (b'c', Vec::new()),
        8 => (b'V', vec![0xff; 4]),
        9 => (b'A', vec![0; 6]),
        10 => (b't', vec![0; 2]),
        11 => (about, vec![about]),
        _ => failure(),
    }
}

fn row() -> (u8, Vec<u8>) {
    (b'D', b"\0\x01\0\0\0\x03ana".to_vec())
}

fn description() -> (u8, Vec<u8>) {
    (b'T', [b"\0\x01e\0".as_slice(), &[0; 9], &[25], &[0; 8]].concat())
}

fn failure() -> (u8, Vec<u8>) {
    (b'E', b"SERROR\0C22012\0Mfailed\0\0".to_vec())
}
