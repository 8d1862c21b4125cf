//! No reader panics on any bytes, and what a writer can write is what was read.
//!
//! Every reader of the room meets the same bytes; what one accepts it must account for.

#![no_main]

use chaperone::protocol::postgres::testing::read_everything;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| read_everything(bytes));
