//! The only way to a resource.
//!
//! `Upstream<Greeting>` carries a protocol's handshake. [`Upstream::seal`] turns it into `Upstream<Guarded>`, which takes
//! request bytes only with a [`Permit`], later frames of that request only under its [`Released`], and otherwise nothing but
//! byte strings that are fixed in the program: an agent's bytes cannot be among those.

use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::permit::{Permit, Released};
use crate::net::{BoxedStream, ByteStream, Fill, poll_drain, poll_fill, reset_on_close};

/// Handshake stage: the driver speaks freely, no agent bytes exist yet.
#[derive(Debug)]
pub struct Greeting;

/// Request stage: nothing leaves without a permit.
#[derive(Debug)]
pub struct Guarded;

/// A connection to a resource.
pub struct Upstream<Stage, Io = BoxedStream> {
    io: Io,
    out: BytesMut,
    stage: PhantomData<Stage>,
}

impl<Stage, Io> std::fmt::Debug for Upstream<Stage, Io> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("queued", &self.out.len()).finish_non_exhaustive()
    }
}

impl<Io: ByteStream> Upstream<Greeting, Io> {
    /// A fresh connection.
    #[must_use]
    pub fn new(io: Io) -> Self {
        Self { io, out: BytesMut::new(), stage: PhantomData }
    }

    /// The stream, for the handshake.
    pub fn stream(&mut self) -> &mut Io {
        &mut self.io
    }

    /// Ends the handshake.
    #[must_use]
    pub fn seal(self) -> Upstream<Guarded, Io> {
        Upstream { io: self.io, out: self.out, stage: PhantomData }
    }
}

impl Upstream<Guarded, TcpStream> {
    /// Makes closing it a reset.
    pub fn reset_on_close(&self) {
        reset_on_close(&self.io);
    }
}

impl<Io: ByteStream> Upstream<Guarded, Io> {
    /// Queues a request's bytes and consumes its permit.
    #[must_use]
    pub fn release(&mut self, permit: Permit, frames: &[u8]) -> Released {
        self.out.extend_from_slice(frames);
        permit.into_released()
    }

    /// Queues later frames of a released request.
    pub fn follow(&mut self, _under: &Released, frames: &[u8]) {
        self.out.extend_from_slice(frames);
    }

    /// Queues bytes that are part of the program, such as a synchronisation message or a statement that must fail.
    pub fn constant(&mut self, bytes: &'static [u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Bytes queued and not yet taken by the kernel.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.out.len()
    }

    /// Gives the kernel what is queued.
    ///
    /// # Errors
    /// Whatever the stream answers.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_drain(&mut self.io, &mut self.out, cx)
    }

    /// Reads once from the resource.
    ///
    /// # Errors
    /// Whatever the stream answers.
    pub fn poll_fill(&mut self, buffer: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<Fill>> {
        poll_fill(&mut self.io, buffer, cx)
    }

    /// Tells the resource that nothing more comes, once what is queued is gone.
    ///
    /// # Errors
    /// Whatever the stream answers.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
