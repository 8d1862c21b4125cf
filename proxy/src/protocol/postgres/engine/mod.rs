//! The state of one PostgreSQL session, without sockets: messages in, steps out.
//!
//! The engine knows which replies are owed (`state::Expect`), what each prepared statement and portal is, and how each result is
//! masked. It never decides: what needs a decision comes out as a [`Step::Judge`] and waits in `pending` for
//! [`Engine::permitted`] or [`Engine::refused`].
//! INVARIANT: a name that the engine does not know is never forwarded; a message of the program's own that must fail on the
//! server stands in for it, so that the server's transaction and synchronisation state stay the truth.

mod ask;
mod client;
mod names;
mod server;
mod state;

#[cfg(any(test, feature = "testing"))]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use ask::{Ask, Purpose};
pub(crate) use client::Step;
pub(crate) use state::{Engine, EngineError, Note, View};
