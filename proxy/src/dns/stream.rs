//! Questions over TCP: a length, a question, a length, a reply.
//!
//! One after another, within limits on time, size and number. A connection that breaks the form is closed.
//! INVARIANT: a connection that got as far as here ends in exactly one of `names_connection` and `connection_refused`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::question::Transport;
use super::service::Names;
use crate::audit::Event;
use crate::identity::ProcessOrigin;
use crate::shutdown::{Phase, Shutdown};

/// Connections of all agents at once; each holds a task and a small buffer.
pub const STREAMS_MAX: usize = 256;
/// Connections of one agent: a client library opens one for a long answer, and a few run side by side.
pub const STREAMS_EACH_MAX: usize = 32;
/// Largest question, as over UDP.
const QUESTION_BYTES_MAX: u16 = 4096;
/// Questions on one connection; clients that need more dial again.
const QUESTIONS_MAX: u64 = 256;
/// How long a client may take for the next question, and for taking a reply.
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);

impl Names {
    /// Answers the questions on one connection until it ends.
    pub async fn stream(
        &self,
        mut stream: TcpStream,
        (origin, destination): (&ProcessOrigin, SocketAddr),
        end: &Shutdown,
    ) {
        let agent = match self.agent(origin).await {
            Ok(agent) => agent,
            Err(error) => {
                tracing::warn!(pid = origin.pid, %destination, %error, "connection refused: unknown process");
                return self.turned_away(&stream, (origin, destination), &error.to_string());
            }
        };
        let mut questions = 0_u64;
        while questions < QUESTIONS_MAX {
            // A question that is half read when the daemon ends is lost with its connection.
            let question = tokio::select! {
                biased;
                () = end.reached(Phase::Draining) => break,
                question = timeout(IDLE_TIME_MAX, next(&mut stream)) => question,
            };
            let Ok(Some(question)) = question else { break };
            questions = questions.saturating_add(1);
            let Some(reply) = self.answer(&agent, origin, (&question, Transport::Stream)).await else {
                break;
            };
            let Ok(length) = u16::try_from(reply.len()) else { break };
            let framed = [&length.to_be_bytes(), reply.as_slice()].concat();
            if !matches!(timeout(IDLE_TIME_MAX, stream.write_all(&framed)).await, Ok(Ok(()))) {
                break;
            }
        }
        self.ledger().note(&Event::NamesConnection {
            agent: Cow::Borrowed(&agent.name),
            account: origin.account,
            destination,
            questions,
        });
    }

    /// Resets a connection and records why.
    pub fn turned_away(
        &self,
        stream: &TcpStream,
        (origin, destination): (&ProcessOrigin, SocketAddr),
        reason: &str,
    ) {
        if let Err(error) = stream.set_zero_linger() {
            tracing::debug!(%error, "a connection ends without a reset");
        }
        self.ledger().note(&Event::ConnectionRefused {
            agent: None,
            account: origin.account,
            destination: Some(destination),
            evidence: None,
            reason: Cow::Borrowed(reason),
        });
    }
}

/// The next question; `None` at the end, or where the form is broken.
async fn next(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok().filter(|length| (1..=QUESTION_BYTES_MAX).contains(length))?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}
