//! Whatever agent and server send in whatever order: nothing follows under a request that is gone, each request ends once.

#![no_main]

use chaperone::protocol::postgres::testing::converse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|instructions: &[u8]| converse(instructions));
