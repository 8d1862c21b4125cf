//! The only way to a resource.
//!
//! `Upstream<Greeting>` carries a protocol's handshake. [`Upstream::seal`] turns it into `Upstream<Guarded>`, which takes
//! request bytes only with a [`Permit`], later frames of that request only under its [`Released`], and otherwise nothing but
//! byte strings that are fixed in the program: an agent's bytes cannot be among those.

use std::io;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use bytes::BytesMut;

use super::permit::{Permit, Released};
use crate::net::{BoxedStream, Fill, poll_drain, poll_fill};

/// Handshake stage: the driver speaks freely, no agent bytes exist yet.
#[derive(Debug)]
pub struct Greeting;

/// Request stage: nothing leaves without a permit.
#[derive(Debug)]
pub struct Guarded;

/// A connection to a resource.
pub struct Upstream<Stage> {
    io: BoxedStream,
    out: BytesMut,
    stage: PhantomData<Stage>,
}

impl<Stage> std::fmt::Debug for Upstream<Stage> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("queued", &self.out.len()).finish_non_exhaustive()
    }
}

impl Upstream<Greeting> {
    /// A fresh connection.
    #[must_use]
    pub fn new(io: BoxedStream) -> Self {
        Self { io, out: BytesMut::new(), stage: PhantomData }
    }

    /// The stream, for the handshake.
    pub fn stream(&mut self) -> &mut BoxedStream {
        &mut self.io
    }

    /// Ends the handshake.
    #[must_use]
    pub fn seal(self) -> Upstream<Guarded> {
        Upstream { io: self.io, out: self.out, stage: PhantomData }
    }
}

impl Upstream<Guarded> {
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
        poll_drain(&mut *self.io, &mut self.out, cx)
    }

    /// Reads once from the resource.
    ///
    /// # Errors
    /// Whatever the stream answers.
    pub fn poll_fill(&mut self, buffer: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<Fill>> {
        poll_fill(&mut *self.io, buffer, cx)
    }
}
