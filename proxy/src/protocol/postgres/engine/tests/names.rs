//! Names: whatever an agent does with statements, portals and cursors, a row of a masked relation comes out masked.

use super::*;

fn secret_row() -> Vec<u8> {
    row(&[Some(SECRET)])
}

/// The server's answer to an Execute that the engine let through: with the description, if one was asked for.
fn rows_of(talk: &mut Talk, sent: &Sent) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    if matches!(sent, Sent::Under(_, before) if !before.is_empty()) {
        messages.push(columns(&[(0, 0)]));
    }
    messages.extend([secret_row(), complete("SELECT 1")]);
    talk.receive(&messages)
}

#[test]
fn unknown_names_are_never_forwarded() {
    let mut talk = Talk::masking();
    for message in [
        bind("", "nobody"),
        describe(b'S', "nobody"),
        describe(b'P', "nobody"),
        execute("nobody"),
        close(b'S', "nobody"),
        close(b'P', "nobody"),
    ] {
        assert!(matches!(talk.send(&message), Sent::Constant(_)), "{message:?}");
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_servers_own_error() {
    let mut talk = Talk::masking();
    talk.send(&bind("", "nobody"));
    talk.send(&sync());
    let out = talk.receive(&[failure("26000", "chaperone_denied does not exist"), ready(b'I')]);
    assert!(String::from_utf8_lossy(&out[0]).contains("prepared statement \"nobody\" does not exist"));
    assert_eq!(out[1], ready(b'I'));
    assert!(talk.engine.is_idle());
}

#[test]
fn a_statement_is_known_until_its_parse_fails() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("s", HARMLESS), bind("", "s"), sync()]);
    talk.receive(&[failure("42P01", "no such table"), ready(b'I')]);
    assert!(matches!(talk.send(&bind("", "s")), Sent::Constant(_)));
    assert_eq!(talk.forgotten, [1, 2]);
}

#[test]
fn a_failed_parse_of_a_taken_name_leaves_the_old_statement() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("s", LEAK), sync()]);
    talk.receive(&[bare(b'1'), ready(b'I')]);
    talk.send_all(&[parse("s", HARMLESS), sync()]);
    talk.receive(&[failure("42P05", "already exists"), ready(b'I')]);
    talk.send_all(&[bind("", "s")]);
    let sent = talk.send(&execute(""));
    assert!(matches!(&sent, Sent::Under(_, before) if !before.is_empty()), "the old statement is masked");
    talk.receive(&[bare(b'2')]);
    assert!(!shows_secret(&rows_of(&mut talk, &sent)));
}

#[test]
fn a_name_whose_parse_may_have_failed_waits_for_the_reply() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("s", LEAK), sync()]);
    talk.receive(&[bare(b'1'), ready(b'I')]);
    // The server refuses this, since the name is taken; after the Sync the old statement would be bound.
    talk.send_all(&[parse("s", HARMLESS), sync()]);
    assert_eq!(talk.send(&bind("", "s")), Sent::Later);
    talk.receive(&[failure("42P05", "already exists"), ready(b'I')]);
    talk.send_all(&[bind("", "s")]);
    let sent = talk.send(&execute(""));
    talk.receive(&[bare(b'2')]);
    assert!(!shows_secret(&rows_of(&mut talk, &sent)));
}

#[test]
fn an_unnamed_parse_that_was_skipped_does_not_hide_the_one_before() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("", LEAK), sync()]);
    talk.receive(&[bare(b'1'), ready(b'I')]);
    talk.send_all(&[parse("x", "SELECT nothing FROM nowhere"), parse("", HARMLESS), sync()]);
    assert_eq!(talk.send(&bind("", "")), Sent::Later);
    talk.receive(&[failure("42P01", "no"), ready(b'I')]);
    assert!(matches!(talk.send(&bind("", "")), Sent::Constant(_)), "what is there now is not known");
}

#[test]
fn a_restored_name_does_not_displace_a_newer_statement() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("s", "DELETE FROM orders"), sync()]);
    talk.receive(&[bare(b'1'), ready(b'I')]);
    talk.send_all(&[
        parse("s", HARMLESS),
        sync(),
        close(b'S', "s"),
        parse("s", "SELECT note FROM orders"),
        sync(),
    ]);
    talk.receive(&[failure("42P05", "taken"), ready(b'I'), bare(b'3'), bare(b'1'), ready(b'I')]);
    let ask = talk.ask(&bind("", "s")).unwrap().unwrap();
    assert_eq!(&*ask.statement, "SELECT note FROM orders");
}

#[test]
fn a_denied_parse_fails_on_the_server_and_makes_no_name() {
    let mut talk = Talk::plain();
    let instead = talk.send_denied(&parse("s", "DROP TABLE orders"));
    assert!(!String::from_utf8_lossy(instead).contains("DROP"));
    talk.send(&bind("", "s"));
    talk.send(&sync());
    let out = talk.receive(&[failure("42601", "syntax error at or near \"chaperone_denied\""), ready(b'I')]);
    assert!(String::from_utf8_lossy(&out[0]).contains("chaperone: no"));
    assert!(matches!(talk.send(&bind("", "s")), Sent::Constant(_)));
}

#[test]
fn execute_by_sql_is_judged_as_what_it_runs() {
    let mut talk = Talk::plain();
    talk.done("PREPARE p AS DELETE FROM orders", &["PREPARE"], b'I');
    let ask = talk.ask(&query("EXECUTE p")).unwrap().unwrap();
    assert!(ask.operation.effects.contains(&crate::model::Effect::Delete), "{:?}", ask.operation);
    let mut talk = Talk::plain();
    let ask = talk.ask(&query("EXECUTE nobody")).unwrap().unwrap();
    assert!(ask.operation.effects.contains(&crate::model::Effect::Unknown));
}

#[test]
fn deallocated_and_discarded_names_are_unknown() {
    for forget in ["DEALLOCATE p", "DEALLOCATE ALL", "DISCARD ALL"] {
        let mut talk = Talk::plain();
        talk.done("PREPARE p AS SELECT 1", &["PREPARE"], b'I');
        talk.done(forget, &["DEALLOCATE"], b'I');
        let ask = talk.ask(&query("EXECUTE p")).unwrap().unwrap();
        assert!(ask.operation.effects.contains(&crate::model::Effect::Unknown), "{forget}");
    }
}

#[test]
fn a_failed_prepare_makes_no_name() {
    let mut talk = Talk::plain();
    talk.send(&query("SELECT 1/0; PREPARE p AS SELECT 1"));
    talk.receive(&[failure("22012", "division by zero"), ready(b'I')]);
    let ask = talk.ask(&query("EXECUTE p")).unwrap().unwrap();
    assert!(ask.operation.effects.contains(&crate::model::Effect::Unknown));
}

#[test]
fn nothing_is_judged_while_a_query_that_changes_names_is_on_its_way() {
    let mut talk = Talk::masking();
    talk.done(&format!("PREPARE p AS {LEAK}"), &["PREPARE"], b'I');
    talk.send(&query(&format!("SELECT 1/0; DEALLOCATE p; PREPARE p AS {HARMLESS}")));
    assert_eq!(talk.send(&query("EXECUTE p")), Sent::Later);
    assert_eq!(talk.send(&parse("", "EXECUTE p")), Sent::Later);
    talk.receive(&[failure("22012", "division by zero"), ready(b'I')]);
    let ask = talk.ask(&query("EXECUTE p")).unwrap().unwrap();
    assert!(ask.operation.effects.contains(&crate::model::Effect::Unknown));
}

#[test]
fn names_changed_earlier_in_the_same_text_count() {
    let mut talk = Talk::masking();
    talk.done(&format!("PREPARE p AS {HARMLESS}"), &["PREPARE"], b'I');
    talk.send(&query(&format!("DEALLOCATE p; PREPARE p AS {LEAK}; EXECUTE p")));
    let out = talk.receive(&[complete("DEALLOCATE"), complete("PREPARE"), columns(&[(0, 0)]), secret_row()]);
    assert!(!shows_secret(&out));
}

#[test]
fn cursors_show_what_they_were_declared_for() {
    for (declared, shown) in [(LEAK, false), (HARMLESS, true)] {
        let mut talk = Talk::masking();
        talk.done("BEGIN", &["BEGIN"], b'T');
        talk.done(&format!("DECLARE c CURSOR FOR {declared}"), &["DECLARE CURSOR"], b'T');
        talk.send(&query("FETCH ALL FROM c"));
        let out = talk.receive(&[columns(&[(0, 0)]), secret_row(), complete("FETCH 1"), ready(b'T')]);
        assert_eq!(shows_secret(&out), shown, "{declared}");
    }
}

#[test]
fn cursors_declared_and_fetched_in_one_text_show_what_they_were_declared_for() {
    let mut talk = Talk::masking();
    talk.done(&format!("BEGIN; DECLARE c CURSOR FOR {HARMLESS}"), &["BEGIN", "DECLARE CURSOR"], b'T');
    talk.send(&query(&format!("CLOSE c; DECLARE c CURSOR FOR {LEAK}; FETCH ALL FROM c")));
    let tags = [complete("CLOSE CURSOR"), complete("DECLARE CURSOR"), columns(&[(0, 0)]), secret_row()];
    assert!(!shows_secret(&talk.receive(&tags)));
}

#[test]
fn a_cursor_fetched_by_messages_is_masked_as_declared() {
    let mut talk = Talk::masking();
    talk.done(&format!("BEGIN; DECLARE c CURSOR FOR {LEAK}"), &["BEGIN", "DECLARE CURSOR"], b'T');
    talk.send_all(&[parse("", "FETCH ALL FROM c"), bind("", "")]);
    let sent = talk.send(&execute(""));
    assert!(matches!(&sent, Sent::Under(_, before) if !before.is_empty()), "its description is asked for");
    talk.receive(&[bare(b'1'), bare(b'2')]);
    assert!(!shows_secret(&rows_of(&mut talk, &sent)));
}

#[test]
fn a_fetch_that_was_bound_before_its_cursor_changed_is_not_run() {
    let mut talk = Talk::masking();
    talk.done(&format!("BEGIN; DECLARE c CURSOR FOR {HARMLESS}"), &["BEGIN", "DECLARE CURSOR"], b'T');
    talk.send_all(&[parse("f", "FETCH ALL FROM c"), bind("p", "f"), sync()]);
    talk.receive(&[bare(b'1'), bare(b'2'), ready(b'T')]);
    talk.done(&format!("CLOSE c; DECLARE c CURSOR FOR {LEAK}"), &["CLOSE CURSOR", "DECLARE CURSOR"], b'T');
    assert!(matches!(talk.send(&execute("p")), Sent::Constant(_)));
}

#[test]
fn a_cursor_declared_by_messages_replaces_what_was_known_of_its_name() {
    let mut talk = Talk::masking();
    talk.done(&format!("BEGIN; DECLARE c CURSOR FOR {HARMLESS}"), &["BEGIN", "DECLARE CURSOR"], b'T');
    talk.send_all(&[parse("", "CLOSE c"), bind("", ""), execute("")]);
    talk.send_all(&[parse("", &format!("DECLARE c CURSOR FOR {LEAK}")), bind("", ""), execute(""), sync()]);
    let one = |tag| [bare(b'1'), bare(b'2'), complete(tag)];
    talk.receive(&one("CLOSE CURSOR"));
    // The second's description is asked for because its relation has a masked column.
    talk.receive(&[bare(b'1'), bare(b'2'), bare(b'n'), complete("DECLARE CURSOR"), ready(b'T')]);
    talk.send(&query("FETCH ALL FROM c"));
    assert!(!shows_secret(&talk.receive(&[columns(&[(0, 0)]), secret_row()])));
}

#[test]
fn portals_and_cursors_share_their_names() {
    // A portal takes the name of a cursor that the transaction's end has closed.
    let mut talk = Talk::masking();
    talk.done(&format!("BEGIN; DECLARE c CURSOR FOR {HARMLESS}"), &["BEGIN", "DECLARE CURSOR"], b'T');
    talk.done("COMMIT; BEGIN", &["COMMIT", "BEGIN"], b'T');
    talk.send_all(&[parse("", LEAK), bind("c", ""), sync()]);
    talk.receive(&[bare(b'1'), bare(b'2'), ready(b'T')]);
    talk.send(&query("FETCH ALL FROM c"));
    assert!(!shows_secret(&talk.receive(&[columns(&[(0, 0)]), secret_row()])));
    // A cursor takes the name of a portal.
    let mut talk = Talk::masking();
    talk.done("BEGIN", &["BEGIN"], b'T');
    talk.send_all(&[parse("", HARMLESS), bind("p", ""), sync()]);
    talk.receive(&[bare(b'1'), bare(b'2'), ready(b'T')]);
    talk.done(&format!("CLOSE p; DECLARE p CURSOR FOR {LEAK}"), &["CLOSE CURSOR", "DECLARE CURSOR"], b'T');
    assert!(matches!(talk.send(&execute("p")), Sent::Constant(_)));
}

#[test]
fn statements_prepared_by_sql_inside_messages_replace_what_was_known() {
    let mut talk = Talk::masking();
    talk.done(&format!("PREPARE p AS {HARMLESS}"), &["PREPARE"], b'I');
    for sql in ["DEALLOCATE p".to_owned(), format!("PREPARE p AS {LEAK}")] {
        talk.send_all(&[parse("", &sql), bind("", "")]);
        let mut replies = vec![bare(b'1'), bare(b'2')];
        if matches!(talk.send(&execute("")), Sent::Under(_, before) if !before.is_empty()) {
            replies.push(bare(b'n'));
        }
        talk.send(&sync());
        replies.extend([complete("DONE"), ready(b'I')]);
        talk.receive(&replies);
    }
    talk.send(&query("EXECUTE p"));
    assert!(!shows_secret(&talk.receive(&[columns(&[(0, 0)]), secret_row()])));
}

#[test]
fn execute_of_a_statement_that_works_on_names_is_unknown() {
    let mut talk = Talk::masking();
    talk.done(&format!("BEGIN; DECLARE c CURSOR FOR {LEAK}"), &["BEGIN", "DECLARE CURSOR"], b'T');
    talk.send_all(&[parse("f", "FETCH ALL FROM c"), sync()]);
    talk.receive(&[bare(b'1'), ready(b'T')]);
    let ask = talk.ask(&query("EXECUTE f")).unwrap().unwrap();
    assert!(ask.operation.effects.contains(&crate::model::Effect::Unknown));
    talk.engine.permitted(99);
    assert!(!shows_secret(&talk.receive(&[columns(&[(0, 0)]), secret_row()])));
}

#[test]
fn a_portal_that_may_not_have_been_made_waits_for_the_reply() {
    let mut talk = Talk::masking();
    talk.done("BEGIN", &["BEGIN"], b'T');
    talk.send_all(&[parse("leak", LEAK), parse("fine", HARMLESS), bind("p", "leak"), sync()]);
    talk.receive(&[bare(b'1'), bare(b'1'), bare(b'2'), ready(b'T')]);
    talk.done("SAVEPOINT s", &["SAVEPOINT"], b'T');
    // The name is taken, so the server refuses; after a rollback to the savepoint the old portal would run.
    talk.send_all(&[bind("p", "fine"), sync()]);
    assert_eq!(talk.send(&execute("p")), Sent::Later);
    assert_eq!(talk.send(&describe(b'P', "p")), Sent::Later);
    talk.receive(&[failure("42P03", "already exists"), ready(b'E')]);
    talk.done("ROLLBACK TO s", &["ROLLBACK"], b'T');
    assert!(matches!(talk.send(&execute("p")), Sent::Constant(_)));
}

#[test]
fn portals_end_with_their_transaction() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("s", HARMLESS), bind("p", "s"), sync()]);
    talk.receive(&[bare(b'1'), bare(b'2'), ready(b'I')]);
    assert!(matches!(talk.send(&execute("p")), Sent::Constant(_)));
}
