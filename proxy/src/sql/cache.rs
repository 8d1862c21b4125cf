//! Remembers analyses under their full key, bounded in entries and bytes.
//!
//! Two generations: a full young one becomes the old one, and the old one is forgotten; what is used is carried over.
//! INVARIANT: a hit compares the whole key, never only a hash, and no generation exceeds its bounds.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::facts::Analysis;

/// Entries of one generation: a large application has a few hundred statement shapes.
const ENTRIES_MAX: usize = 2_048;

/// Bytes of keys and facts of one generation.
const BYTES_MAX: usize = 8 << 20;

/// Longest key that is remembered; longer texts are bulk statements that do not come twice.
pub(super) const KEY_BYTES_MAX: usize = 16 * 1024;

/// What one entry costs beside its text, about.
const ENTRY_BYTES: usize = 512;

/// Analyses by key.
#[derive(Debug, Default)]
pub(super) struct Cache {
    generations: RwLock<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Box<[u8]>, Arc<Analysis>>,
    old: HashMap<Box<[u8]>, Arc<Analysis>>,
    young_bytes: usize,
}

impl Cache {
    /// The analysis remembered for exactly this key.
    pub(super) fn look_up(&self, key: &[u8]) -> Option<Arc<Analysis>> {
        let generations = self.generations.read();
        if let Some(found) = generations.young.get(key) {
            return Some(Arc::clone(found));
        }
        let found = Arc::clone(generations.old.get(key)?);
        drop(generations);
        self.remember(key, &found);
        Some(found)
    }

    /// Remembers an analysis, unless its key is too long.
    pub(super) fn remember(&self, key: &[u8], analysis: &Arc<Analysis>) {
        if key.len() > KEY_BYTES_MAX {
            return;
        }
        let cost = cost(key, analysis);
        let mut generations = self.generations.write();
        let bytes = generations.young_bytes.saturating_add(cost);
        if generations.young.len() >= ENTRIES_MAX || bytes > BYTES_MAX {
            generations.old = std::mem::take(&mut generations.young);
            generations.young_bytes = 0;
        }
        if generations.young.insert(key.into(), Arc::clone(analysis)).is_none() {
            generations.young_bytes = generations.young_bytes.saturating_add(cost);
        }
    }
}

fn cost(key: &[u8], analysis: &Analysis) -> usize {
    // Facts are words of the text, in the union and once more per statement.
    let statements = analysis.statements.len().saturating_add(1);
    key.len().saturating_mul(4).saturating_add(statements.saturating_mul(ENTRY_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(reason: &str) -> Arc<Analysis> {
        Arc::new(Analysis::unknown(reason))
    }

    #[test]
    fn what_is_used_survives_and_what_is_not_is_forgotten() {
        let cache = Cache::default();
        cache.remember(b"kept", &some("kept"));
        cache.remember(b"lost", &some("lost"));
        for round in 0..3 {
            for number in 0..ENTRIES_MAX {
                cache.remember(format!("{round} {number}").as_bytes(), &some("filler"));
                if number == ENTRIES_MAX / 2 {
                    assert!(cache.look_up(b"kept").is_some(), "round {round}");
                }
            }
        }
        assert!(cache.look_up(b"lost").is_none());
        let generations = cache.generations.read();
        assert!(generations.young.len() <= ENTRIES_MAX && generations.old.len() <= ENTRIES_MAX);
    }

    #[test]
    fn bytes_are_bounded_and_long_keys_are_not_kept() {
        let cache = Cache::default();
        let long = vec![b'x'; KEY_BYTES_MAX + 1];
        cache.remember(&long, &some("long"));
        assert!(cache.look_up(&long).is_none());
        for number in 0..2_000_u32 {
            let mut key = vec![b'y'; KEY_BYTES_MAX - 4];
            key.extend(number.to_le_bytes());
            cache.remember(&key, &some("big"));
        }
        let generations = cache.generations.read();
        assert!(generations.young_bytes <= BYTES_MAX);
        assert!(generations.young.len() < 1_000);
    }
}
