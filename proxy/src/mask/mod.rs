//! Replaces values that must not be seen, keeping the declared type of the cell valid.
//!
//! Refuses to guess: a type without a safe token becomes NULL, and text that is not UTF-8 becomes the token.
//! INVARIANT: no replacement is a function of the value's length; only `keep-last` shows any of its characters.
//! Known limit: `hash` and `token` show equality of values, within a session and within a daemon's life.

mod plan;
mod transform;

pub use plan::{Cell, Plan};
pub use transform::{Keys, Replacement, Shape, TOKEN, replace};
