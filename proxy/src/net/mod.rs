//! Byte streams: what both ends of a session are made of, before any protocol.
//!
//! Refuses to interpret bytes. INVARIANT: a buffer never grows past the limit its owner states; reading stops instead.

mod dial;
mod place;
mod prefixed;
mod resolvers;
mod stream;

pub use dial::dial;
pub use place::{inner, is_metadata, is_routable, is_this_machine};
pub use prefixed::Prefixed;
pub use resolvers::{is_listed, is_resolver};
pub use stream::{BoxedStream, ByteStream, Fill, end_on_close, poll_drain, poll_fill, reset_on_close};
