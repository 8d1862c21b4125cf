//! SQL's own `PREPARE` and `EXECUTE`: what each is judged as, and what an approver gets to read.

use super::*;
use crate::model::Effect;

const CHANGE: &str = "PREPARE q (int) AS UPDATE orders SET note = 'x' WHERE id = $1";

fn asked(talk: &mut Talk, sql: &str) -> Ask {
    talk.ask(&query(sql)).unwrap().unwrap()
}

fn prepared() -> Talk {
    let mut talk = Talk::plain();
    talk.done(CHANGE, &["PREPARE"], b'I');
    talk
}

#[test]
fn a_text_that_only_prepares_is_judged_as_preparing_and_any_other_as_running() {
    for (sql, purpose) in [
        (CHANGE, Purpose::Prepare),
        ("PREPARE a AS SELECT 1; PREPARE b AS DELETE FROM orders", Purpose::Prepare),
        ("PREPARE a AS DELETE FROM orders; SELECT 1", Purpose::Run),
        ("BEGIN; PREPARE a AS DELETE FROM orders", Purpose::Run),
        ("UPDATE orders SET note = 'x'", Purpose::Run),
        ("", Purpose::Run),
    ] {
        let ask = asked(&mut Talk::plain(), sql);
        assert_eq!(ask.purpose, purpose, "{sql}");
        assert_eq!(ask.operation.effects.contains(&Effect::Delete), sql.contains("DELETE"), "{sql}");
    }
}

#[test]
fn execute_does_what_was_prepared_and_shows_both_texts() {
    let ask = asked(&mut prepared(), "EXECUTE q (7)");
    assert_eq!(ask.purpose, Purpose::Run);
    assert_eq!(ask.operation.effects, [Effect::Update].into());
    assert_eq!(&*ask.statement, format!("-- chaperone: \"q\" was prepared by\n-- | {CHANGE}\nEXECUTE q (7)"));
}

#[test]
fn other_arguments_and_another_prepared_text_are_another_question() {
    let seven = asked(&mut prepared(), "EXECUTE q (7)").statement;
    assert_ne!(seven, asked(&mut prepared(), "EXECUTE q (8)").statement);
    let mut other = Talk::plain();
    other.done(&CHANGE.replace("'x'", "'y'"), &["PREPARE"], b'I');
    assert_ne!(seven, asked(&mut other, "EXECUTE q (7)").statement);
}

#[test]
fn no_prepared_text_can_pose_as_the_statement_that_runs_it() {
    let mut talk = Talk::plain();
    talk.done("PREPARE q AS SELECT 1 AS\nharmless", &["PREPARE"], b'I');
    let shown = asked(&mut talk, "EXECUTE q").statement;
    assert!(shown.contains("\n-- | harmless\n"), "{shown}");
    let own: Vec<&str> = shown.lines().filter(|line| !line.starts_with("-- ")).collect();
    assert_eq!(own, ["EXECUTE q"]);
}

#[test]
fn a_long_prepared_text_is_named_by_its_digest() {
    let mut talk = Talk::plain();
    let long = |letter: &str| format!("PREPARE q AS SELECT '{}'", letter.repeat(70_000));
    talk.done(&long("a"), &["PREPARE"], b'I');
    let first = asked(&mut talk, "EXECUTE q").statement;
    assert!(first.len() < 300 && first.contains("sha256"), "{first}");
    let mut talk = Talk::plain();
    talk.done(&long("b"), &["PREPARE"], b'I');
    assert_ne!(first, asked(&mut talk, "EXECUTE q").statement);
}

#[test]
fn a_statement_around_execute_does_what_was_prepared_too() {
    for sql in ["EXPLAIN ANALYZE EXECUTE q (7)", "CREATE TABLE t AS EXECUTE q (7)"] {
        let ask = asked(&mut prepared(), sql);
        assert!(ask.operation.effects.contains(&Effect::Update), "{sql}");
        assert!(ask.statement.contains(CHANGE), "{sql}");
    }
    let ask = asked(&mut prepared(), "EXPLAIN EXECUTE q (7)");
    assert!(!ask.operation.effects.contains(&Effect::Update), "planning changes nothing");
}

#[test]
fn an_unknown_name_is_unknown_and_said_to_be() {
    let ask = asked(&mut Talk::plain(), "EXECUTE nobody");
    assert!(ask.operation.effects.contains(&Effect::Unknown));
    assert_eq!(&*ask.statement, "-- chaperone: \"nobody\" is not known\nEXECUTE nobody");
    let ask = asked(&mut prepared(), "DEALLOCATE q; EXECUTE q (7)");
    assert!(ask.operation.effects.contains(&Effect::Unknown), "the name may mean something else by then");
}

#[test]
fn the_extended_protocol_prepares_at_bind_of_prepare_and_runs_at_bind_of_the_name() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("p", CHANGE)]);
    assert_eq!(talk.ask(&bind("", "p")).unwrap().unwrap().purpose, Purpose::Prepare);
    let mut talk = prepared();
    let ask = talk.ask(&bind("", "q")).unwrap().unwrap();
    assert_eq!((ask.purpose, &*ask.statement), (Purpose::Run, CHANGE));
    let mut talk = prepared();
    talk.send_all(&[parse("", "EXECUTE q (7)")]);
    let ask = talk.ask(&bind("", "")).unwrap().unwrap();
    assert!(ask.operation.effects.contains(&Effect::Update) && ask.statement.contains(CHANGE));
}

#[test]
fn arguments_that_call_something_count_as_calls() {
    let mut talk = Talk::masking();
    talk.done("PREPARE q (text) AS SELECT $1", &["PREPARE"], b'I');
    let ask = asked(&mut talk, "EXECUTE q (lookup(900))");
    assert!(ask.leaks && ask.operation.functions.contains("lookup"));
    assert!(ask.operation.effects.contains(&Effect::Execute));
    let ask = asked(&mut talk, "EXECUTE q ('x')");
    assert!(!ask.leaks && !ask.operation.effects.contains(&Effect::Execute));
}
