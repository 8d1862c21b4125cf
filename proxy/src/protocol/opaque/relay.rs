//! Copies both ways until both sides are done, one fails, or nothing moves for too long.
//!
//! An end of one side is passed on and the other side goes on (half-close); a reset is passed on as a reset. Reading stops while
//! the other side does not take what is there. INVARIANT: what is buffered stays below [`BUFFERED_MAX`] and one read more; the
//! request has exactly one outcome.
//! No splice(2): it needs pipes of its own, and nothing has shown yet that the copy is what limits.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

use super::name;
use crate::gate::{Guarded, Released, Upstream};
use crate::model::{Fault, Outcome, Tally};
use crate::net::{Fill, end_on_close, poll_drain, poll_fill, reset_on_close};
use crate::protocol::contract::SessionEnd;

/// Bytes that may wait for one side before no more are read for it; one read brings at most 144 KiB. An agent may let all of its
/// connections stall.
const BUFFERED_MAX: usize = 64 * 1024;
/// A buffer that grew over this is given back when it is empty.
const KEPT_BYTES: usize = 32 * 1024;
/// The idle limit is looked at this often within it.
const LOOKS: u32 = 4;

/// How copying ended.
#[derive(Debug)]
pub(super) struct End {
    outcome: Outcome,
    fault: Option<Fault>,
    why: String,
    resets: bool,
}

impl End {
    fn orderly() -> Self {
        Self {
            outcome: Outcome::Forwarded,
            fault: None,
            why: "both sides are done".to_owned(),
            resets: false,
        }
    }

    /// Stopped by an operator, a quarantine or the daemon's end.
    pub(super) fn stopped(why: String) -> Self {
        Self { outcome: Outcome::Cut, fault: None, why, resets: true }
    }

    fn idle(limit: Duration) -> Self {
        Self::stopped(format!("nothing moved for {} s", limit.as_secs()))
    }

    fn agent(error: &io::Error) -> Self {
        let why = format!("the agent's side failed: {error}");
        Self { outcome: Outcome::Cut, fault: Some(Fault::Client), why, resets: true }
    }

    fn server(error: &io::Error) -> Self {
        let outcome = Outcome::Failed { fault: Fault::Server, code: name(error) };
        let why = format!("the destination's side failed: {error}");
        Self { outcome, fault: Some(Fault::Server), why, resets: true }
    }
}

/// One side that is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Open,
    /// It said that nothing more comes; the other side has not been told yet.
    Ended,
    /// The other side has been told.
    Told,
}

/// Both sides and what is on its way between them.
#[derive(Debug)]
pub(super) struct Relay {
    agent: TcpStream,
    upstream: Upstream<Guarded, TcpStream>,
    idle: Duration,
    arrived: BytesMut,
    answer: BytesMut,
    from_agent: Source,
    from_server: Source,
    sent: u64,
    received: u64,
    /// Steps that moved something; the idle limit looks whether it changes.
    moves: u64,
}

impl Relay {
    pub(super) fn new(agent: TcpStream, upstream: Upstream<Guarded, TcpStream>, idle: Duration) -> Self {
        Self {
            agent,
            upstream,
            idle,
            arrived: BytesMut::new(),
            answer: BytesMut::new(),
            from_agent: Source::Open,
            from_server: Source::Open,
            sent: 0,
            received: 0,
            moves: 0,
        }
    }

    /// Copies to the end. Cancel-safe: everything that was read is in the buffers.
    pub(super) async fn run(&mut self, under: &Released) -> End {
        let mut look = tokio::time::interval(self.idle / LOOKS);
        // Looks that come late, all at once, would see nothing between them.
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut quiet) = (self.moves, 0);
        // The first look comes at once and sees nothing.
        look.tick().await;
        loop {
            tokio::select! {
                biased;
                end = poll_fn(|cx| self.poll(under, cx)) => return end,
                _ = look.tick() => {
                    quiet = if self.moves == seen { quiet + 1 } else { 0 };
                    seen = self.moves;
                    if quiet >= LOOKS {
                        return End::idle(self.idle);
                    }
                }
            }
        }
    }

    /// Records the outcome and closes both sides, as resets unless both had ended in order.
    pub(super) fn finish(self, mut released: Released, end: End, lasted: Duration) -> SessionEnd {
        let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        let tally = Tally { bytes: self.received, sent: self.sent, lasted_ms, ..Tally::default() };
        released.end(end.outcome, tally);
        if end.resets {
            reset_on_close(&self.agent);
            self.upstream.reset_on_close();
        } else {
            end_on_close(&self.agent);
        }
        SessionEnd { fault: end.fault, why: end.why, bytes_in: self.sent, bytes_out: self.received }
    }

    fn poll(&mut self, under: &Released, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let before = self.moves;
            if let Err(end) = self.outward(under, cx).and_then(|()| self.inward(cx)) {
                return Poll::Ready(end);
            }
            if self.from_agent == Source::Told && self.from_server == Source::Told {
                return Poll::Ready(End::orderly());
            }
            if self.moves == before {
                return Poll::Pending;
            }
        }
    }

    /// From the agent to the destination, as far as it goes now.
    fn outward(&mut self, under: &Released, cx: &mut Context<'_>) -> Result<(), End> {
        if self.from_agent == Source::Open && self.upstream.queued() < BUFFERED_MAX {
            match poll_fill(&mut self.agent, &mut self.arrived, cx) {
                Poll::Ready(Ok(Fill::Bytes)) => {
                    self.sent = self.sent.saturating_add(length(&self.arrived));
                    self.upstream.follow(under, &self.arrived);
                    emptied(&mut self.arrived);
                    self.moved();
                }
                Poll::Ready(Ok(Fill::End)) => {
                    self.from_agent = Source::Ended;
                    self.moved();
                }
                Poll::Ready(Err(error)) => return Err(End::agent(&error)),
                Poll::Pending => {}
            }
        }
        let queued = self.upstream.queued();
        let done = match self.from_agent {
            Source::Open if queued == 0 => return Ok(()),
            Source::Open => self.upstream.poll_drain(cx),
            Source::Ended => self.upstream.poll_finish(cx),
            Source::Told => return Ok(()),
        };
        if self.upstream.queued() < queued {
            self.moved();
        }
        match done {
            Poll::Ready(Ok(())) if self.from_agent == Source::Ended => {
                self.from_agent = Source::Told;
                self.moved();
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(error)) => return Err(End::server(&error)),
        }
        Ok(())
    }

    /// From the destination to the agent, as far as it goes now.
    fn inward(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if self.from_server == Source::Open && self.answer.len() < BUFFERED_MAX {
            let before = length(&self.answer);
            match self.upstream.poll_fill(&mut self.answer, cx) {
                Poll::Ready(Ok(Fill::Bytes)) => {
                    self.received = self.received.saturating_add(length(&self.answer).saturating_sub(before));
                    self.moved();
                }
                Poll::Ready(Ok(Fill::End)) => {
                    self.from_server = Source::Ended;
                    self.moved();
                }
                Poll::Ready(Err(error)) => return Err(End::server(&error)),
                Poll::Pending => {}
            }
        }
        let waiting = self.answer.len();
        let done = match self.from_server {
            Source::Open if waiting == 0 => return Ok(()),
            Source::Open => poll_drain(&mut self.agent, &mut self.answer, cx),
            Source::Ended => self.poll_farewell(cx),
            Source::Told => return Ok(()),
        };
        if self.answer.len() < waiting {
            self.moved();
        }
        match done {
            Poll::Ready(Ok(())) if self.from_server == Source::Ended => {
                self.from_server = Source::Told;
                self.moved();
            }
            Poll::Ready(Ok(())) => emptied(&mut self.answer),
            Poll::Pending => {}
            Poll::Ready(Err(error)) => return Err(End::agent(&error)),
        }
        Ok(())
    }

    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(poll_drain(&mut self.agent, &mut self.answer, cx))?;
        Pin::new(&mut self.agent).poll_shutdown(cx)
    }

    fn moved(&mut self) {
        self.moves = self.moves.wrapping_add(1);
    }
}

fn length(bytes: &BytesMut) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Clears a buffer, and gives a large one back.
fn emptied(buffer: &mut BytesMut) {
    if buffer.capacity() > KEPT_BYTES {
        *buffer = BytesMut::new();
    } else {
        buffer.clear();
    }
}
