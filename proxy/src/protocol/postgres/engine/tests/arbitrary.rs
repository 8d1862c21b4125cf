//! The fuzz targets' harnesses with a fixed seed, so that every test run has some.

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
