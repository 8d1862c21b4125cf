//! PostgreSQL's bytes: frames, the messages Chaperone reads, the messages it writes.
//!
//! Pure and bounded: every reader works on one exact slice and refuses what is left over. Nothing here allocates in
//! proportion to a length field. Source: PostgreSQL documentation, "Frontend/Backend Protocol", message formats.
//! INVARIANT: a reader either accounts for every byte of its slice or returns a [`WireError`].

mod backend;
mod encode;
mod frame;
mod frontend;
mod startup;

#[cfg(any(test, feature = "testing"))]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub use backend::{
    Column, ErrorFields, FieldNotice, RowSink, command_rows, describe_columns, read_backend_key,
    read_negotiated_minor, read_setting, read_text_row, ready_status, rewrite_row, without_payload,
};
pub use encode::{Notice, Severity, authentication, backend_key, negotiate, notice, parameter_status, ready};
pub use frame::{FrameHeader, Limits, WireError, next_frame};
pub use frontend::{Bind, Close, Describe, Execute, Kind, Parse, parse_query};
pub use startup::{CancelKey, Opening, Startup, read_opening};
