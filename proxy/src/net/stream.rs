//! One end of a session as a boxed stream, with the two poll steps that drivers are made of.
//!
//! Both steps keep their state in the caller's buffer, so dropping a future between polls loses nothing.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A duplex stream that can be boxed.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Plain TCP, or TLS over it.
pub type BoxedStream = Box<dyn ByteStream>;

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Bytes were added to the buffer.
    Bytes,
    /// The peer will send nothing more.
    End,
}

/// Bytes asked of the kernel at a time. 16 KiB: one TLS record, and two of these keep an idle session under its budget.
const READ_BYTES: usize = 16 * 1024;
/// Bytes asked when the last read filled its space: bulk transfers want fewer system calls.
const BULK_READ_BYTES: usize = 128 * 1024;

/// Reads once into `buffer`. Ready at the first byte, at the end, or at an error.
///
/// # Errors
/// Whatever the stream answers.
pub fn poll_fill(
    stream: &mut (impl ByteStream + ?Sized),
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Fill>> {
    // Not cleared: most polls read nothing, and clearing 16 KiB costs more than they do.
    let mut scratch = [const { MaybeUninit::uninit() }; READ_BYTES];
    let mut space = ReadBuf::uninit(&mut scratch);
    ready!(Pin::new(&mut *stream).poll_read(cx, &mut space))?;
    let filled = space.filled();
    if filled.is_empty() {
        return Poll::Ready(Ok(Fill::End));
    }
    buffer.extend_from_slice(filled);
    let full = filled.len() == READ_BYTES;
    if full {
        more_at_once(stream, buffer, cx)?;
    }
    Poll::Ready(Ok(Fill::Bytes))
}

/// After a full read, takes what else is ready straight into the buffer, once.
fn more_at_once(
    stream: &mut (impl ByteStream + ?Sized),
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    let before = buffer.len();
    buffer.resize(before.saturating_add(BULK_READ_BYTES), 0);
    let Some(tail) = buffer.get_mut(before..) else { return Ok(()) };
    let mut space = ReadBuf::new(tail);
    let result = Pin::new(stream).poll_read(cx, &mut space);
    let added = space.filled().len();
    buffer.truncate(before.saturating_add(added));
    match result {
        Poll::Ready(result) => result,
        Poll::Pending => Ok(()),
    }
}

/// Writes `buffer` until it is empty and flushed.
///
/// # Errors
/// Whatever the stream answers; `WriteZero` if it takes nothing.
pub fn poll_drain(
    stream: &mut (impl ByteStream + ?Sized),
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !buffer.is_empty() {
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, buffer))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        buffer.advance(written);
    }
    Pin::new(stream).poll_flush(cx)
}

/// Makes closing the socket send RST, so that the peer sees a refusal and not an orderly end.
pub fn reset_on_close(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "cannot set linger; the peer will see an orderly end");
    }
}

/// Takes [`reset_on_close`] back: what was written still arrives, and then an orderly end.
pub fn end_on_close(stream: &TcpStream) {
    if let Err(error) = setsockopt(stream, Linger, &libc::linger { l_onoff: 0, l_linger: 0 }) {
        tracing::debug!(%error, "cannot unset linger; the peer may see a reset");
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn fill_then_drain_carries_bytes_unchanged_and_sees_the_end() {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut out = BytesMut::from(sent.as_slice());
        poll_fn(|cx| poll_drain(&mut near, &mut out, cx)).await.unwrap();
        drop(near);
        let mut got = BytesMut::new();
        while poll_fn(|cx| poll_fill(&mut far, &mut got, cx)).await.unwrap() == Fill::Bytes {}
        assert_eq!(got, sent);
    }
}
