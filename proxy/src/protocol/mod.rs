//! The protocols Chaperone speaks, each in a folder of its own behind one seam.
//!
//! A folder imports [`contract`] and never a sibling. [`registry`] is the one list of them.

pub mod contract;
pub mod opaque;
pub mod postgres;
pub mod registry;
