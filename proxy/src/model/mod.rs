//! The vocabulary of the product: plain data that every room shares.
//!
//! No I/O, no async, no clock. Words are those of the glossary in `ARCHITECTURE.md`.
//! INVARIANT: an [`Operation`] is the only thing policy sees of a request; text and values never reach it.

mod decision;
mod ids;
mod operation;
mod outcome;
mod principal;
mod selftest;
mod session;
mod target;

pub use decision::{
    BundleHash, Clearance, Decision, HoldTerms, MaskStrategy, MaskedColumn, Reasons, StrategyError, Verdict,
};
pub use ids::{RequestId, SessionId, TicketId, UnixMillis};
pub use operation::{BoundValue, ColumnName, Effect, Operation, RelationName};
pub use outcome::{Fault, Outcome, Tally};
pub use principal::{AgentName, Ancestor, Evidence, Identity, Principal, Unidentified};
pub use selftest::SelftestResult;
pub use session::Session;
pub use target::{
    AddressPattern, Credential, PatternError, Protocol, RESOLVER, Resource, Secret, UpstreamTls,
    UpstreamTlsMode, network, same_network,
};
