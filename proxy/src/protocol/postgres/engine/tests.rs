//! Whole conversations without a socket.

use super::super::wire::{self, Kind};
use super::*;

#[test]
fn a_new_session_owes_nothing() {
    let engine = Engine::new(View::default(), crate::mask::Keys::new(&[1; 32], &[2; 32]));
    assert!(engine.is_idle() && engine.masks_nothing() && !engine.in_transaction());
    assert!(Kind::of(b'Q').is_ok() && !wire::ready().is_empty());
}
