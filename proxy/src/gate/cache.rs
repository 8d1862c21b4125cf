//! Decisions already taken, so that a repeated request does not ask policy again.
//!
//! Valid for one bundle, one principal and one second: a new bundle, a new token or the clock empties it, so a rule that
//! speaks of time is at most a second late. INVARIANT: a key is the identity of a live `Operation`; the entry keeps it alive,
//! so its address cannot come to mean another operation.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Decision, Operation, Principal, UnixMillis};
use crate::policy::Set;

/// Entries before the cache starts anew. 512 decisions of about 300 bytes stay near 150 KiB for the busiest session;
/// an idle session has none.
const ENTRIES_MAX: usize = 512;
/// Width of the validity slot in milliseconds.
const SLOT_MILLIS: u64 = 1_000;

#[derive(Debug, Default)]
pub(super) struct DecisionCache {
    valid: Option<(Arc<Set>, Arc<Principal>, u64)>,
    entries: HashMap<usize, (Arc<Operation>, Arc<Decision>)>,
}

impl DecisionCache {
    /// The decision for `operation`, asking `decide` if it is not remembered for exactly this bundle, principal and second.
    pub(super) fn decide(
        &mut self,
        (bundle, principal, now): (&Arc<Set>, &Arc<Principal>, UnixMillis),
        operation: &Arc<Operation>,
        decide: impl FnOnce() -> Decision,
    ) -> Arc<Decision> {
        let slot = now.0 / SLOT_MILLIS;
        let same = self.valid.as_ref().is_some_and(|(old_bundle, old_principal, old_slot)| {
            Arc::ptr_eq(old_bundle, bundle) && Arc::ptr_eq(old_principal, principal) && *old_slot == slot
        });
        if !same || self.entries.len() >= ENTRIES_MAX {
            self.entries.clear();
            self.valid = Some((Arc::clone(bundle), Arc::clone(principal), slot));
        }
        let key = Arc::as_ptr(operation).addr();
        let (_, decision) =
            self.entries.entry(key).or_insert_with(|| (Arc::clone(operation), Arc::new(decide())));
        Arc::clone(decision)
    }
}
