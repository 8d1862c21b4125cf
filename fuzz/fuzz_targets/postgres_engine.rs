//! Whatever agent and server send in whatever order: nothing follows under a request that is gone, each request ends once.
//!
//! Bytes are instructions for both sides; the rules that are checked stand in the harness in `engine/testing.rs`.

#![no_main]

use chaperone::protocol::postgres::testing::converse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|instructions: &[u8]| converse(instructions));
