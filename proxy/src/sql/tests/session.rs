//! Statement kinds and settings that a session tracks.

use super::*;

#[test]
fn kinds_carry_the_names_a_session_tracks() {
    let name = |name: &str| name.to_owned();
    for (sql, expected) in [
        ("SELECT 1", StatementKind::Query),
        ("VALUES (1)", StatementKind::Query),
        ("MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE", StatementKind::Modify),
        ("BEGIN", StatementKind::Begin),
        ("START TRANSACTION READ ONLY", StatementKind::Begin),
        ("END", StatementKind::Commit { chain: false }),
        ("COMMIT AND CHAIN", StatementKind::Commit { chain: true }),
        ("ABORT", StatementKind::Rollback { chain: false }),
        ("SAVEPOINT \"A\"", StatementKind::Savepoint { name: name("A") }),
        ("RELEASE a", StatementKind::Release { name: name("a") }),
        ("ROLLBACK TO a", StatementKind::RollbackTo { name: name("a") }),
        ("SET Search_Path = x", StatementKind::Set { name: name("search_path") }),
        ("SET LOCAL TIME ZONE 'UTC'", StatementKind::Set { name: name("timezone") }),
        ("SET NAMES 'UTF8'", StatementKind::Set { name: name("client_encoding") }),
        ("SET TRANSACTION READ ONLY", StatementKind::Set { name: name("transaction") }),
        ("SET search_path TO DEFAULT", StatementKind::Reset { name: Some(name("search_path")) }),
        ("RESET jit", StatementKind::Reset { name: Some(name("jit")) }),
        ("RESET ALL", StatementKind::Reset { name: None }),
        ("SHOW ALL", StatementKind::Show { name: name("all") }),
        ("PREPARE p AS SELECT 1", StatementKind::Prepare { name: name("p") }),
        ("EXECUTE p (1)", StatementKind::Execute { name: name("p") }),
        ("DEALLOCATE p", StatementKind::Deallocate { name: Some(name("p")) }),
        ("DEALLOCATE ALL", StatementKind::Deallocate { name: None }),
        ("DECLARE c CURSOR FOR SELECT 1", StatementKind::DeclareCursor { name: name("c") }),
        ("FETCH ALL FROM c", StatementKind::Fetch { name: name("c") }),
        ("CLOSE c", StatementKind::CloseCursor { name: Some(name("c")) }),
        ("CLOSE ALL", StatementKind::CloseCursor { name: None }),
        ("COPY t FROM STDIN", StatementKind::CopyIn),
        ("COPY t TO STDOUT", StatementKind::CopyOut),
        ("DISCARD ALL", StatementKind::Discard { all: true }),
        ("DISCARD PLANS", StatementKind::Discard { all: false }),
        ("EXPLAIN SELECT 1", StatementKind::Explain { analyze: false }),
        ("EXPLAIN ANALYZE SELECT 1", StatementKind::Explain { analyze: true }),
        ("LISTEN c", StatementKind::Listen),
        ("UNLISTEN *", StatementKind::Unlisten),
        ("NOTIFY c", StatementKind::Notify),
        ("LOCK t", StatementKind::Lock),
        ("CALL p()", StatementKind::Call),
        ("CREATE TABLE t ()", StatementKind::Ddl),
        ("SELECT 1 INTO t", StatementKind::Ddl),
        ("GRANT a TO b", StatementKind::Ddl),
        ("", StatementKind::Empty),
        (";;", StatementKind::Empty),
        ("-- nothing", StatementKind::Empty),
        ("DO 'x'", StatementKind::Other),
        ("SELECT FROM FROM", StatementKind::Other),
    ] {
        assert_eq!(kind(sql), expected, "{sql}");
    }
}

#[test]
fn allowed_settings_are_set_and_nothing_else() {
    for sql in [
        "SET application_name = 'x'",
        "SET statement_timeout = 0",
        "SET LOCAL search_path = a, b",
        "SET datestyle = ISO, MDY",
        "SET enable_seqscan = off",
        "SET TIME ZONE LOCAL",
        "SET client_encoding TO UTF8",
        "SET client_min_messages TO WARNING",
        "SET transaction_timeout = 0",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "RESET search_path",
        "RESET ALL",
        "DISCARD ALL",
    ] {
        assert_eq!(effects(sql), ["set"], "{sql}");
    }
    assert_eq!(effects("SELECT pg_catalog.set_config('search_path', '', false)"), ["select", "set"]);
    assert!(!is_opaque("SELECT pg_catalog.set_config('search_path', '', false)"));
    assert_eq!(effects("BEGIN; SELECT 1; COMMIT"), ["select", "transaction"]);
    assert!(known("BEGIN; SELECT 1; COMMIT").operation.is_plain_read());
}

#[test]
fn wrapped_statements_carry_what_is_inside() {
    let prepared = known("PREPARE p AS DELETE FROM t WHERE a = 1 RETURNING b");
    assert_eq!(prepared.statements[0].outputs, Outputs::Columns(vec![columns(&["b"])]));
    assert!(prepared.operation.effects.contains(&Effect::Delete));
    assert!(!is_opaque("PREPARE p AS SELECT 1"));
    assert!(is_opaque("PREPARE p AS SELECT f()"));
    assert!(is_opaque("EXECUTE p"));
}
