//! The analysis never panics, and whatever PostgreSQL's grammar rejects is unknown.
//!
//! Any bytes are text or are not; text never panics the analysis, and what the real grammar refuses stays unknown.

#![no_main]

use chaperone::model::Effect;
use chaperone::sql::{Outputs, PANICKED, StatementKind, analyse_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|sql: &str| {
    let analysis = analyse_text(sql);
    assert_ne!(analysis.trouble.as_deref(), Some(PANICKED), "{sql:?}");
    let parsed = pg_query::parse(sql, 0);
    if parsed.is_err() {
        assert!(analysis.is_unknown(), "{sql:?}");
    }
    assert!(!analysis.operation.effects.is_empty(), "{sql:?}");
    for statement in &analysis.statements {
        let operation = &statement.operation;
        assert!(analysis.operation.effects.is_superset(&operation.effects), "{sql:?}");
        assert!(analysis.operation.relations.is_superset(&operation.relations), "{sql:?}");
        // Unknown never looks harmless.
        if operation.effects.contains(&Effect::Unknown) {
            assert!(!operation.is_plain_read() && !operation.has_filter, "{sql:?}");
        }
        // Code that cannot be seen is never a plain read.
        if operation.is_plain_read() {
            assert!(!statement.opaque, "{sql:?}");
        }
        if statement.kind == StatementKind::Query {
            assert_ne!(statement.outputs, Outputs::None, "{sql:?}");
        }
    }
});
