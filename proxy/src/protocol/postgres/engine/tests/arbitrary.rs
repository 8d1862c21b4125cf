//! The fuzz targets' harnesses with a fixed seed and with the targets' own seeds, so that every test run has some.

use super::super::super::testing::{converse, read_everything};

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let count = self.next() % most;
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

#[test]
fn arbitrary_conversations_keep_the_rules() {
    for seed in 0..4_000 {
        let instructions = Chance(seed).bytes(400);
        if std::panic::catch_unwind(|| converse(&instructions)).is_err() {
            panic!("seed {seed}");
        }
    }
}

#[test]
fn arbitrary_bytes_are_read_without_harm() {
    for seed in 0..4_000 {
        let mut bytes = Chance(seed).bytes(64);
        read_everything(&bytes);
        // Small numbers make counts and lengths that fit.
        for byte in &mut bytes {
            *byte %= 4;
        }
        read_everything(&bytes);
    }
}

/// The seeds of a fuzz target, by name.
fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds");
    let entries = std::fs::read_dir(std::path::Path::new(folder).join(target)).unwrap();
    let mut all: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap()))
        .collect();
    all.sort();
    all
}

#[test]
fn the_seeds_of_the_fuzz_targets_keep_the_rules() {
    for (name, instructions) in kept("postgres_engine") {
        assert!(std::panic::catch_unwind(|| converse(&instructions)).is_ok(), "{name}");
    }
    for (name, bytes) in kept("postgres_wire") {
        assert!(std::panic::catch_unwind(|| read_everything(&bytes)).is_ok(), "{name}");
    }
}
