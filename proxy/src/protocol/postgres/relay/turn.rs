//! Moving bytes: one poll over both streams.
//!
//! Writes come before reads, so that what is owed goes out first; reading from the resource stops while the agent is slow.
//! All state is in the caller's buffers: a turn that is dropped loses nothing.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::BytesMut;

use super::super::greeting::Client;
use super::BEHIND_BYTES_MAX;
use crate::gate::{Guarded, Upstream};
use crate::net::{Fill, poll_drain, poll_fill};

/// What the streams did.
pub(super) enum Turn {
    FromAgent,
    AgentEnd,
    AgentError(io::Error),
    FromServer,
    ServerEnd,
    /// Nothing is owed any more to a session that is to end.
    Delivered,
}

/// Moves bytes until one side brought some, or ended, or, when the session is `ending`, everything owed is delivered.
pub(super) async fn turn(
    (client, reading): (&mut Client, bool),
    upstream: &mut Upstream<Guarded>,
    (from_server, to_agent): (&mut BytesMut, &mut BytesMut),
    (bytes, ending): (&mut (u64, u64), bool),
) -> Turn {
    poll_fn(move |cx| {
        let before = to_agent.len();
        let owed = before > 0 || upstream.queued() > 0;
        let drained = poll_drain(&mut *client.stream, to_agent, cx);
        let sent = u64::try_from(before.saturating_sub(to_agent.len())).unwrap_or(0);
        bytes.1 = bytes.1.saturating_add(sent);
        if let Poll::Ready(Err(error)) = drained {
            return Poll::Ready(Turn::AgentError(error));
        }
        if let Poll::Ready(Err(_)) = upstream.poll_drain(cx) {
            return Poll::Ready(Turn::ServerEnd);
        }
        if ending && owed && to_agent.is_empty() && upstream.queued() == 0 {
            return Poll::Ready(Turn::Delivered);
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
