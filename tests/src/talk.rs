//! A conversation with a database as an agent: statement by statement, over one connection that stays open.
//!
//! The agent runs a small client of its own (`talk.py`) that knows the protocol's simple queries and nothing else, so
//! that a test sees exactly the native errors that came. It holds no password and says so when one is asked for.
//! Limits: every answer has a time limit; dropping ends the client.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::postgres::Server;
use crate::sample;

const SCRIPT: &str = include_str!("talk.py");

/// Longest wait for one answer; longer than any hold of a test.
const ANSWER_LIMIT: Duration = Duration::from_secs(100);

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// Rows as text; NULL is `None`.
    pub rows: Vec<Vec<Option<String>>>,
    /// The error's SQLSTATE; `no-connection` and `password-asked` are the client's own.
    pub code: Option<String>,
    /// The error's message.
    pub message: String,
    /// The error's hint.
    pub hint: String,
    /// Notices that came before.
    pub notices: Vec<String>,
    /// Whether the connection has ended.
    pub closed: bool,
}

/// An open client.
#[derive(Debug)]
pub struct Talk {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Talk {
    /// Opens a session; fails when it is refused.
    pub fn open(agent: &Agent<'_>, server: &Server) -> Result<Self> {
        let (talk, hello) = Self::dial(agent, server)?;
        ensure!(hello.code.is_none(), "the session was refused: {hello:?}");
        Ok(talk)
    }

    /// Tries to open a session and says what came of it.
    pub fn dial(agent: &Agent<'_>, server: &Server) -> Result<(Self, Reply)> {
        let mut talk = Self::start(agent, server, &["converse"])?;
        let hello = talk.reply()?;
        Ok((talk, hello))
    }

    /// Connects again and again until [`Talk::end_of_input`]; each new outcome is one reply, the last has code `end`
    /// and all outcomes with their number.
    pub fn probe(agent: &Agent<'_>, server: &Server) -> Result<Self> {
        Self::start(agent, server, &["probe"])
    }

    /// Inserts numbers from `first` on into the table `marks` on several connections; each confirmed one is a reply.
    pub fn load(agent: &Agent<'_>, server: &Server, first: u32) -> Result<Self> {
        Self::start(agent, server, &["load", &first.to_string()])
    }

    fn start(agent: &Agent<'_>, server: &Server, mode: &[&str]) -> Result<Self> {
        let port = server.port().to_string();
        let place = ["127.0.0.1", port.as_str(), sample::USER, sample::DATABASE];
        let arguments: Vec<&str> = place.iter().chain(mode).copied().collect();
        let mut command = agent.python(SCRIPT, &arguments)?;
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the client")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the client has no standard output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Either end may go first; then there is nobody left to tell.
            BufReader::new(stdout).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        Ok(Self { child, stdin, lines })
    }

    /// One statement and its reply.
    pub fn ask(&mut self, sql: &str) -> Result<Reply> {
        self.send(sql)?;
        self.reply()
    }

    /// Sends a statement and does not wait.
    pub fn send(&mut self, sql: &str) -> Result<()> {
        self.tell(&json!({ "sql": sql }))
    }

    /// Listens for what comes without a statement.
    pub fn listen(&mut self) -> Result<()> {
        self.tell(&json!({}))
    }

    fn tell(&mut self, command: &Value) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the client's input is closed")?;
        writeln!(stdin, "{command}").context("the client is gone")
    }

    /// Closes the client's input.
    pub fn end_of_input(&mut self) {
        self.stdin = None;
    }

    /// The next reply.
    pub fn reply(&mut self) -> Result<Reply> {
        match self.lines.recv_timeout(ANSWER_LIMIT) {
            Ok(line) => read(&line),
            Err(RecvTimeoutError::Timeout) => bail!("no reply within {} s", ANSWER_LIMIT.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("the client ended without a reply"),
        }
    }

    /// Whether there is no reply yet.
    pub fn is_waiting(&mut self) -> Result<bool> {
        match self.lines.recv_timeout(Duration::ZERO) {
            Ok(line) => bail!("a reply came: {line}"),
            Err(RecvTimeoutError::Timeout) => Ok(true),
            Err(RecvTimeoutError::Disconnected) => bail!("the client ended"),
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.stdin = None;
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("cannot end a client: {error}");
        }
    }
}

impl Reply {
    /// The only cell.
    pub fn cell(&self) -> Result<&str> {
        ensure!(self.code.is_none(), "refused: {self:?}");
        match self.rows.as_slice() {
            [row] => row.first().and_then(Option::as_deref).context("the only cell is NULL"),
            _ => bail!("not one row: {self:?}"),
        }
    }

    /// Everything that was said beside rows.
    #[must_use]
    pub fn words(&self) -> String {
        format!(
            "{} {} {} {}",
            self.code.as_deref().unwrap_or(""),
            self.message,
            self.hint,
            self.notices.join(" ")
        )
    }
}

fn read(line: &str) -> Result<Reply> {
    let value: Value = serde_json::from_str(line).with_context(|| format!("no reply: `{line}`"))?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let field = |key: &str| value.get(key).map(list).unwrap_or_default();
    let cell = |value: &Value| value.as_str().map(str::to_owned);
    let rows = field("rows").iter().map(|row| list(row).iter().map(cell).collect()).collect();
    Ok(Reply {
        rows,
        code: value.get("code").and_then(Value::as_str).map(str::to_owned),
        message: text("message"),
        hint: text("hint"),
        notices: field("notices").iter().filter_map(cell).collect(),
        closed: value.get("closed").and_then(Value::as_bool).unwrap_or(false),
    })
}
