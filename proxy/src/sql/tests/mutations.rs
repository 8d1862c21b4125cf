//! Statements spliced from the corpora's words: the analysis stays total, and unknown never looks harmless.

use super::*;

/// Texts of the run; a soak sets it by hand.
const TEXTS: u32 = 4_000;

#[test]
fn spliced_statements_never_panic_and_unknown_never_looks_harmless() {
    let corpora =
        concat!(include_str!("../corpus/psql_and_pg_dump.sql"), include_str!("../corpus/drivers.sql"));
    let entries: Vec<Vec<&str>> = corpora
        .split("\n-- ##\n")
        .skip(1)
        .map(|entry| entry.split_inclusive([' ', '(', ')', ',']).collect())
        .collect();
    let seed = 0xfac7_u64;
    let mut state = seed;
    let mut below = move |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(limit).unwrap()).unwrap()
    };
    let mut understood = 0_u32;
    for _ in 0..TEXTS {
        let mut words = entries[below(entries.len())].clone();
        for _ in 0..=below(3) {
            let other = &entries[below(entries.len())];
            let at = below(other.len());
            let piece = &other[at..(at + 1 + below(6)).min(other.len())];
            let into = below(words.len() + 1);
            let until = (into + below(piece.len() + 2)).min(words.len());
            words.splice(into..until, piece.iter().copied());
        }
        let sql = words.concat();
        let analysis = analyse_text(&sql);
        let trouble = analysis.trouble.clone().unwrap_or_default();
        assert_ne!(trouble, crate::sql::PANICKED, "seed {seed}: {sql}");
        if pg_query::parse(&sql, 0).is_err() {
            assert!(analysis.is_unknown(), "seed {seed}: {sql}");
        }
        understood += u32::from(!analysis.is_unknown());
        for statement in &analysis.statements {
            let operation = &statement.operation;
            assert!(!operation.effects.is_empty(), "seed {seed}: {sql}");
            if operation.effects.contains(&Effect::Unknown) {
                assert!(!operation.is_plain_read() && !operation.has_filter, "seed {seed}: {sql}");
            }
            assert!(!(operation.is_plain_read() && statement.opaque), "seed {seed}: {sql}");
        }
        shapes::agree(&sql);
    }
    assert!(understood > TEXTS / 20, "seed {seed}: only {understood} understood");
}
