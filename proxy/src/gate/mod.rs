//! The one door between an agent's request and a resource.
//!
//! Order, fixed: decide, wait if held, decide again, record, mint the permit. Whatever fails on the way is a denial.
//! INVARIANT: a [`Permit`] exists only for a request whose record was written (and, where it has effects or was held,
//! is on disk). Request bytes leave only through [`Upstream::release`], which consumes one.

mod admission;
mod admit;
mod cache;
mod fingerprint;
mod ledger;
mod permit;
mod refusal;
mod upstream;

pub use admission::{Admission, HoldNews, Pending};
pub use admit::{Door, Gate, PrincipalSource, Request};
pub use ledger::{Arrived, Closing, Counts, Turned};
pub use permit::{Permit, Released};
pub use refusal::{Refusal, RefusalKind};
pub use upstream::{Greeting, Guarded, Upstream};
