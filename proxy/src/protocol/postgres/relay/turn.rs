//! One turn of the two streams: what is queued goes out, what is there comes in, as far as the buffers' limits allow.

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
}

/// Moves bytes until one side brought some, or ended.
pub(super) async fn turn(
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
