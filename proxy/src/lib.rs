//! Chaperone: a host daemon that goes out with every AI agent.
//!
//! Rooms and who may import whom are described in `ARCHITECTURE.md` and enforced by `cargo xtask tidy`.
//! The order below is the order of the layers: a room imports only rooms above it.

pub mod causes;
pub mod clock;
pub mod model;
pub mod shutdown;

pub mod mask;
pub mod net;
pub mod policy;
pub mod sql;

pub mod approval;
pub mod audit;
pub mod identity;
pub mod intercept;
pub mod tls;

pub mod abort;
pub mod gate;
pub mod jail;
pub mod protocol;
pub mod session;
pub mod unit;

pub mod dns;

pub mod selftest;

pub mod config;
pub mod control;

pub mod cli;
pub mod daemon;
