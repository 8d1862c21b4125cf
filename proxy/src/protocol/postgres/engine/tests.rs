//! Whole conversations without a socket: what goes to the server, what comes to the agent, what is noted.

mod arbitrary;
mod names;
mod prepared;
mod replies;
mod scrubbing;

use std::sync::Arc;

use bytes::BytesMut;

use super::super::catalog::tests::{catalog, rows};
use super::super::exposure::MaskTable;
use super::super::wire::{Notice, Severity, next_frame};
use super::*;
use crate::mask::Keys;
use crate::model::{ColumnName, MaskStrategy, Outcome};
use crate::sql::analyse_text;

/// What became of one message from the agent.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    /// It went on, behind these bytes, as this request's.
    Under(u64, Vec<u8>),
    /// Bytes of the program's own went instead.
    Constant(&'static [u8]),
    Ignored,
    Later,
    Goodbye,
}

struct Talk {
    engine: Engine,
    requests: u64,
    ended: Vec<(u64, Outcome, u64)>,
    forgotten: Vec<u64>,
    stale: usize,
    /// Requests with the number of columns that are masked.
    masked: Vec<(u64, usize)>,
}

/// `customers` has a masked `email`; nothing else is masked.
fn view() -> View {
    let catalog = catalog([
        rows(&[&["10", "public", "customers"], &["11", "public", "orders"]]),
        vec![],
        vec![],
        rows(&[&["10", "1", "id"], &["10", "2", "email"], &["11", "1", "id"], &["11", "2", "note"]]),
    ]);
    let catalog = Arc::new(catalog.unwrap());
    let column = ColumnName { schema: "public".into(), table: "customers".into(), column: "email".into() };
    let table = MaskTable::build(&catalog, &[(column, "pii".into())], |_, _| {
        Some((MaskStrategy::Redact, Vec::new()))
    });
    View { catalog, table: Arc::new(table) }
}

impl Talk {
    fn masking() -> Self {
        Self::new(view())
    }

    fn plain() -> Self {
        Self::new(View::default())
    }

    fn new(view: View) -> Self {
        let engine = Engine::new(view, Keys::new(&[1; 32], &[2; 32]));
        Self { engine, requests: 0, ended: Vec::new(), forgotten: Vec::new(), stale: 0, masked: Vec::new() }
    }

    /// The question that a message comes to, or what became of it.
    fn ask(&mut self, bytes: &[u8]) -> Result<Result<Ask, Sent>, EngineError> {
        Ok(match self.engine.client(bytes)? {
            Step::Analyse(text) => Ok(self.engine.ask(bytes, &Arc::new(analyse_text(&text)))?),
            Step::Known(analysis) => Ok(self.engine.ask(bytes, &analysis)?),
            Step::Judge(ask) => Ok(ask),
            Step::Follow { request, before } => Err(Sent::Under(request, before)),
            Step::Constant(constant) => Err(Sent::Constant(constant)),
            Step::Ignore => Err(Sent::Ignored),
            Step::Later => Err(Sent::Later),
            Step::Goodbye => Err(Sent::Goodbye),
        })
    }

    /// Sends a message; every question is answered with yes.
    fn send(&mut self, bytes: &[u8]) -> Sent {
        let sent = match self.ask(bytes).unwrap() {
            Err(sent) => sent,
            Ok(_) => {
                self.requests += 1;
                self.engine.permitted(self.requests);
                Sent::Under(self.requests, Vec::new())
            }
        };
        self.note();
        sent
    }

    fn send_all(&mut self, messages: &[Vec<u8>]) {
        for message in messages {
            let sent = self.send(message);
            assert!(matches!(sent, Sent::Under(..) | Sent::Constant(_)), "{message:?}: {sent:?}");
        }
    }

    /// Sends a message; the question is answered with no.
    fn send_denied(&mut self, bytes: &[u8]) -> &'static [u8] {
        self.ask(bytes).unwrap().unwrap();
        let message = "chaperone: no".to_owned();
        self.engine.refused(&Notice { severity: Severity::Error, sqlstate: "42501", message, hint: None })
    }

    /// What the agent gets of these messages from the server.
    fn receive(&mut self, messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
        self.try_receive(messages).unwrap()
    }

    fn try_receive(&mut self, messages: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, EngineError> {
        let mut out = BytesMut::new();
        for message in messages {
            self.engine.server(message, &mut out)?;
            self.note();
        }
        let mut frames = Vec::new();
        while let Some(header) = next_frame(&out, &|_| Some(u32::MAX - 1)).unwrap() {
            frames.push(out.split_to(header.total).to_vec());
        }
        assert!(out.is_empty());
        Ok(frames)
    }

    fn note(&mut self) {
        for note in self.engine.take_notes() {
            match note {
                Note::Ended(end) => self.ended.push((end.request, end.outcome, end.tally.rows)),
                Note::Forget(request) => self.forgotten.push(request),
                Note::CatalogStale => self.stale += 1,
                Note::Masked(request, columns) => self.masked.push((request, columns.len())),
            }
        }
    }

    /// Runs one simple query that answers with no rows.
    fn done(&mut self, sql: &str, tags: &[&str], status: u8) {
        assert!(matches!(self.send(&query(sql)), Sent::Under(..)), "{sql}");
        let mut messages: Vec<Vec<u8>> = tags.iter().map(|tag| complete(tag)).collect();
        messages.push(ready(status));
        self.receive(&messages);
    }
}

fn framed(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&[kind], u32::try_from(body.len() + 4).unwrap().to_be_bytes().as_slice(), &body].concat()
}

fn query(sql: &str) -> Vec<u8> {
    framed(b'Q', &[sql.as_bytes(), b"\0"])
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    framed(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"])
}

fn bind(portal: &str, statement: &str) -> Vec<u8> {
    framed(b'B', &[portal.as_bytes(), b"\0", statement.as_bytes(), b"\0\0\0\0\0\0\0"])
}

fn describe(what: u8, name: &str) -> Vec<u8> {
    framed(b'D', &[&[what], name.as_bytes(), b"\0"])
}

fn close(what: u8, name: &str) -> Vec<u8> {
    framed(b'C', &[&[what], name.as_bytes(), b"\0"])
}

fn execute(portal: &str) -> Vec<u8> {
    framed(b'E', &[portal.as_bytes(), b"\0\0\0\0\0"])
}

fn sync() -> Vec<u8> {
    framed(b'S', &[])
}

fn ready(status: u8) -> Vec<u8> {
    framed(b'Z', &[&[status]])
}

fn complete(tag: &str) -> Vec<u8> {
    framed(b'C', &[tag.as_bytes(), b"\0"])
}

fn bare(kind: u8) -> Vec<u8> {
    framed(kind, &[])
}

/// A row description: table and attribute of each column, all text.
fn columns(origins: &[(u32, i16)]) -> Vec<u8> {
    let mut body = u16::try_from(origins.len()).unwrap().to_be_bytes().to_vec();
    for (table, attribute) in origins {
        body.extend_from_slice(b"any\0");
        body.extend_from_slice(&table.to_be_bytes());
        body.extend_from_slice(&attribute.to_be_bytes());
        body.extend_from_slice(&[0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    }
    framed(b'T', &[&body])
}

fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        body.extend_from_slice(&value.map_or(-1, |value| i32::try_from(value.len()).unwrap()).to_be_bytes());
        body.extend_from_slice(value.unwrap_or_default().as_bytes());
    }
    framed(b'D', &[&body])
}

fn failure(code: &str, message: &str) -> Vec<u8> {
    framed(b'E', &[b"SERROR\0C", code.as_bytes(), b"\0M", message.as_bytes(), b"\0DKey (email)=(ana@x)\0\0"])
}

const SECRET: &str = "ana@example.com";
const LEAK: &str = "SELECT email || '' FROM customers";
const HARMLESS: &str = "SELECT id FROM orders";

fn shows_secret(frames: &[Vec<u8>]) -> bool {
    frames.iter().any(|frame| frame.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()))
}
