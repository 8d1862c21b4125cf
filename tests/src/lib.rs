//! What the outer tests, the demo and the benchmark share: real servers, a real daemon, real agents.
//!
//! Everything started here stops when its value is dropped, also when a test panics, and nothing is left behind:
//! no process, cgroup, pin, mount or folder. Ports are chosen free; only loopback is used.
//! Limits: needs root and the Debian packages that `cargo xtask setup` installs.

pub mod agent;
pub mod ca;
pub mod daemon;
pub mod hand;
pub mod oidc;
pub mod outside;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod sample;
pub mod shop;
pub mod systemd;
pub mod talk;
pub mod temp;
pub mod wait;
pub mod witness;
