//! The rows: attack, the worst it may come to, and what the agent sends. `\` starts a protocol message of its own.

#[path = "rows/laundering.rs"]
mod laundering;
#[path = "rows/names.rs"]
mod names;
#[path = "rows/protocol.rs"]
mod protocol;
#[path = "rows/relations.rs"]
mod relations;

pub(crate) use self::laundering::{LAUNDERING, MESSAGES};
pub(crate) use self::names::{EXPRESSIONS, SHAPES};
pub(crate) use self::protocol::PROTOCOL;
pub(crate) use self::relations::{CASTS, CODE, RELATIONS};
