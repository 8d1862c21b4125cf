//! From an intercepted connection to a session and its end.
//!
//! Identify the process, find the resource, open the door, hand over to the protocol, close the record. A connection that
//! fails any step is reset and recorded. INVARIANT: every accepted connection ends in exactly one of `session_closed` and
//! `connection_refused`.

mod asked;
mod lanes;
mod named;
mod quarantine;
mod registry;
mod run;
mod slots;
mod targets;

pub use asked::Asked;
pub use lanes::Lanes;
pub use quarantine::{QUARANTINED, Quarantine};
pub use registry::{Registry, Summary};
pub use run::{Arrival, Sessions};
pub use slots::{Full, Slot, Slots};
pub use targets::{LOOKUP_EVERY, Missing, Target, Targets};
