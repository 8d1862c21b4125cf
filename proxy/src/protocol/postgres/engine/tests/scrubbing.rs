//! Errors, notices, settings, and a view that changes in the middle of a session.

use super::*;

fn text(frames: &[Vec<u8>]) -> String {
    frames.iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect()
}

#[test]
fn errors_of_touching_statements_lose_their_message_and_keep_their_code() {
    let mut talk = Talk::masking();
    talk.send_all(&[query("SELECT email::int FROM customers")]);
    let out = text(&talk.receive(&[failure("22P02", "invalid input: ana@x"), ready(b'I')]));
    assert!(out.contains("22P02") && out.contains("withheld") && !out.contains("ana@x"), "{out}");
}

#[test]
fn detail_goes_whenever_something_is_masked() {
    let mut talk = Talk::masking();
    talk.send_all(&[query("SELECT id FROM orders")]);
    let out = text(&talk.receive(&[failure("23505", "duplicate")]));
    assert!(out.contains("duplicate") && !out.contains("ana@x"), "{out}");
    let mut talk = Talk::plain();
    talk.send_all(&[query("SELECT id FROM orders")]);
    assert!(
        text(&talk.receive(&[failure("23505", "duplicate")])).contains("ana@x"),
        "nothing is masked here"
    );
}

#[test]
fn errors_of_touching_portals_and_at_commit_lose_their_message() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("", LEAK), bind("", ""), execute("")]);
    talk.receive(&[bare(b'1')]);
    assert!(!text(&talk.receive(&[failure("22P02", "planned with ana@x")])).contains("ana@x"));
    talk.send(&sync());
    assert!(!text(&talk.receive(&[failure("23503", "commit of ana@x")])).contains("ana@x"));
    talk.receive(&[ready(b'I')]);
    assert!(!text(&talk.receive(&[failure("57P01", "out of turn ana@x")])).contains("ana@x"));
}

#[test]
fn notices_are_scrubbed_like_errors() {
    let notice = framed(b'N', &[b"SNOTICE\0C00000\0Mvalue ana@x\0Din ana@x\0\0"]);
    let mut talk = Talk::masking();
    talk.send_all(&[query(LEAK)]);
    assert!(!text(&talk.receive(std::slice::from_ref(&notice))).contains("ana@x"));
    let mut talk = Talk::plain();
    assert_eq!(talk.receive(std::slice::from_ref(&notice)), [notice]);
}

#[test]
fn settings_that_change_how_statements_are_read_end_the_session() {
    let setting = |name: &str, value: &str| super::super::super::wire::parameter_status(name, value);
    for (name, value) in
        [("standard_conforming_strings", "off"), ("client_encoding", "SJIS"), ("client_encoding", "utf8")]
    {
        let mut talk = Talk::plain();
        assert_eq!(talk.try_receive(&[setting(name, value)]), Err(EngineError::Setting(name.to_owned())));
    }
    let mut talk = Talk::plain();
    for (name, value) in
        [("standard_conforming_strings", "on"), ("client_encoding", "UTF8"), ("TimeZone", "UTC")]
    {
        assert_eq!(talk.receive(&[setting(name, value)]), [setting(name, value)]);
    }
}

#[test]
fn a_new_view_masks_what_was_prepared_and_bound_before() {
    let mut talk = Talk::plain();
    talk.done("BEGIN", &["BEGIN"], b'T');
    talk.send_all(&[parse("s", "SELECT email FROM customers"), bind("p", "s"), sync()]);
    talk.receive(&[bare(b'1'), bare(b'2'), ready(b'T')]);
    talk.engine.set_view(view());
    for portal in ["p", "q"] {
        if portal == "q" {
            talk.send_all(&[bind("q", "s")]);
            talk.receive(&[bare(b'2')]);
        }
        assert!(matches!(talk.send(&execute(portal)), Sent::Under(_, before) if !before.is_empty()));
        let out = talk.receive(&[columns(&[(10, 2)]), row(&[Some(SECRET)]), complete("SELECT 1")]);
        assert!(!shows_secret(&out));
    }
}

#[test]
fn rows_on_their_way_when_the_view_changes_are_masked_whole() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("", LEAK), bind("", ""), execute("")]);
    talk.receive(&[bare(b'1'), bare(b'2')]);
    talk.engine.set_view(view());
    assert_eq!(talk.receive(&[row(&[Some(SECRET)])]), [row(&[None])]);
}

#[test]
fn a_fetch_bound_before_the_view_changed_is_not_run() {
    let mut talk = Talk::plain();
    talk.done(&format!("BEGIN; DECLARE c CURSOR FOR {LEAK}"), &["BEGIN", "DECLARE CURSOR"], b'T');
    talk.send_all(&[parse("", "FETCH ALL FROM c"), bind("p", ""), sync()]);
    talk.receive(&[bare(b'1'), bare(b'2'), ready(b'T')]);
    talk.engine.set_view(view());
    assert!(matches!(talk.send(&execute("p")), Sent::Constant(_)));
}

#[test]
fn a_query_that_waits_while_the_view_changes_is_masked() {
    let mut talk = Talk::plain();
    talk.ask(&query(LEAK)).unwrap().unwrap();
    talk.engine.set_view(view());
    talk.engine.permitted(1);
    assert!(!shows_secret(&talk.receive(&[columns(&[(0, 0)]), row(&[Some(SECRET)])])));
}

#[test]
fn the_text_of_a_statement_with_a_password_is_not_kept() {
    let mut talk = Talk::plain();
    let ask = talk.ask(&query("CREATE ROLE r PASSWORD 'hush'")).unwrap().unwrap();
    assert!(!ask.statement.contains("hush"), "{}", ask.statement);
}

#[test]
fn long_values_are_cut_and_named_by_their_digest() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("s", "SELECT $1")]);
    let long = vec![b'x'; 5_000];
    let length = u32::try_from(long.len()).unwrap().to_be_bytes();
    let ask = talk.ask(&framed(b'B', &[b"\0s\0\0\0\0\x01", &length, &long, &[0, 0]])).unwrap().unwrap();
    let shown = ask.values[0].text.clone().unwrap();
    assert!(shown.chars().count() < 400 && shown.contains("5000 bytes"), "{shown}");
}
