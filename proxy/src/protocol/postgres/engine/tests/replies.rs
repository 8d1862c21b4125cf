//! Replies: which are owed, what errors take away, when a request ends.

use super::*;

fn ends(talk: &Talk) -> Vec<u64> {
    talk.ended.iter().map(|(request, ..)| *request).collect()
}

#[test]
fn a_simple_query_ends_once_when_the_server_is_ready() {
    let mut talk = Talk::plain();
    talk.send_all(&[query("SELECT 1; SELECT 2")]);
    let replies =
        [columns(&[(0, 0)]), row(&[Some("1")]), complete("SELECT 1"), columns(&[(0, 0)]), row(&[None])];
    assert_eq!(talk.receive(&replies), replies, "nothing is masked");
    assert!(talk.ended.is_empty() && !talk.engine.is_idle());
    talk.receive(&[complete("SELECT 1"), ready(b'I')]);
    assert_eq!(talk.ended, [(1, Outcome::Forwarded, 2)]);
    assert_eq!(talk.forgotten, [1]);
    assert!(talk.engine.is_idle());
}

#[test]
fn extended_requests_end_and_are_forgotten_once_each() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("", HARMLESS), bind("", ""), execute(""), sync()]);
    talk.receive(&[bare(b'1'), bare(b'2'), row(&[Some("1")]), complete("SELECT 1"), ready(b'I')]);
    talk.send_all(&[parse("", HARMLESS), bind("", ""), execute(""), execute(""), sync()]);
    let replies = [bare(b'1'), bare(b'2'), complete("SELECT 1"), complete("SELECT 0"), ready(b'I')];
    talk.receive(&replies);
    talk.done("SELECT 1", &["SELECT 1"], b'I');
    assert_eq!(ends(&talk), [1, 2, 3, 4, 5]);
    talk.forgotten.sort_unstable();
    assert_eq!(talk.forgotten, [1, 2, 3, 4, 5]);
}

#[test]
fn pipelined_batches_are_answered_in_order() {
    let mut talk = Talk::plain();
    for _ in 0..3 {
        talk.send_all(&[parse("", HARMLESS), bind("", ""), describe(b'P', ""), execute(""), sync()]);
    }
    for _ in 0..3 {
        let replies = [
            bare(b'1'),
            bare(b'2'),
            columns(&[(11, 1)]),
            row(&[Some("7")]),
            complete("SELECT 1"),
            ready(b'I'),
        ];
        assert_eq!(talk.receive(&replies), replies);
    }
    assert!(talk.engine.is_idle());
    assert_eq!(ends(&talk), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn after_an_error_everything_up_to_sync_is_neither_owed_nor_sent() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("a", HARMLESS), bind("", "a"), execute("")]);
    talk.receive(&[failure("42P01", "no")]);
    for message in [query("DELETE FROM orders"), parse("b", HARMLESS), bind("", "a"), execute(""), bare(b'H')]
    {
        assert_eq!(talk.send(&message), Sent::Ignored, "{message:?}");
    }
    talk.send(&sync());
    assert_eq!(talk.receive(&[ready(b'I')]), [ready(b'I')]);
    assert_eq!(ends(&talk), [1, 2]);
    assert!(matches!(talk.ended[0].1, Outcome::Failed { .. }) && talk.ended[1].1 == Outcome::Cut);
    assert!(talk.engine.is_idle());
}

#[test]
fn an_error_stops_at_the_first_sync() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("a", HARMLESS), sync(), parse("b", HARMLESS), sync()]);
    talk.receive(&[failure("42P01", "no"), ready(b'I'), bare(b'1'), ready(b'I')]);
    assert!(matches!(talk.send(&bind("", "b")), Sent::Under(..)));
    assert!(matches!(talk.send(&bind("", "a")), Sent::Constant(_)));
}

#[test]
fn a_verdict_that_comes_while_the_server_skips_is_dropped() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("a", HARMLESS)]);
    assert!(talk.ask(&parse("b", HARMLESS)).unwrap().is_ok());
    talk.receive(&[failure("42P01", "no")]);
    assert!(!talk.engine.still_wanted());
    talk.send(&sync());
    talk.receive(&[ready(b'I')]);
    assert!(talk.engine.is_idle());
}

#[test]
fn an_error_at_sync_itself_leaves_the_sync_owed() {
    let mut talk = Talk::plain();
    talk.send(&sync());
    assert_eq!(talk.receive(&[failure("23503", "deferred"), ready(b'I')]).len(), 2);
    assert!(talk.engine.is_idle());
}

#[test]
fn messages_from_the_server_that_nobody_asked_for_are_errors() {
    for message in [
        bare(b'1'),
        bare(b'2'),
        bare(b'3'),
        bare(b'n'),
        bare(b's'),
        bare(b'I'),
        bare(b'c'),
        complete("SELECT 1"),
        columns(&[(0, 0)]),
        row(&[Some("x")]),
        ready(b'I'),
        framed(b't', &[&[0, 0]]),
        framed(b'V', &[&[0xff; 4]]),
        framed(b'G', &[&[0, 0, 0]]),
        framed(b'H', &[&[0, 0, 0]]),
        framed(b'W', &[&[0, 0, 0]]),
        framed(b'd', &[b"x"]),
        framed(b'R', &[&[0; 4]]),
        framed(b'K', &[&[0; 8]]),
    ] {
        for mut talk in [Talk::plain(), Talk::masking()] {
            assert!(talk.try_receive(std::slice::from_ref(&message)).is_err(), "{message:?}");
        }
    }
}

#[test]
fn a_completion_of_something_else_is_an_error() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("", HARMLESS)]);
    assert!(talk.try_receive(&[bare(b'2')]).is_err());
    let mut talk = Talk::plain();
    talk.send_denied(&parse("", HARMLESS));
    assert!(talk.try_receive(&[bare(b'1')]).is_err(), "what must fail has not");
    let mut talk = Talk::plain();
    talk.send(&bind("", "nobody"));
    assert!(talk.try_receive(&[bare(b'2')]).is_err(), "what must fail has not");
}

#[test]
fn a_masked_relation_is_described_before_it_is_executed_and_the_agent_does_not_see_it() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("", "SELECT id, email FROM customers"), bind("", "")]);
    let Sent::Under(2, before) = talk.send(&execute("")) else { panic!("not sent") };
    assert_eq!(before, describe(b'P', ""));
    talk.send(&sync());
    let described = columns(&[(10, 1), (10, 2)]);
    let out = talk.receive(&[
        bare(b'1'),
        bare(b'2'),
        described,
        row(&[Some("1"), Some(SECRET)]),
        complete("SELECT 1"),
        ready(b'I'),
    ]);
    let masked = row(&[Some("1"), Some("[masked]")]);
    assert_eq!(out, [bare(b'1'), bare(b'2'), masked, complete("SELECT 1"), ready(b'I')]);
}

#[test]
fn a_relation_without_masked_columns_is_described_and_then_passes_unread() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("", HARMLESS), bind("", "")]);
    assert_eq!(talk.send(&execute("")), Sent::Under(2, describe(b'P', "")));
    talk.receive(&[bare(b'1'), bare(b'2'), columns(&[(11, 1)])]);
    assert!(talk.engine.passes_unread(b'D'));
    assert_eq!(talk.masked, []);
}

#[test]
fn what_has_no_rows_and_what_is_seen_by_one_who_may_see_all_is_not_described() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("", "UPDATE orders SET note = 'x'"), bind("", "")]);
    assert_eq!(talk.send(&execute("")), Sent::Under(2, Vec::new()));
    let mut talk = Talk::plain();
    talk.send_all(&[parse("", LEAK), bind("", "")]);
    assert_eq!(talk.send(&execute("")), Sent::Under(2, Vec::new()));
}

#[test]
fn a_result_from_another_relation_than_was_named_is_masked_in_all_that_is_not_proven() {
    let described = columns(&[(10, 2), (0, 0), (10, 1)]);
    let masked = row(&[Some("[masked]"), Some("[masked]"), Some("1")]);
    let values = row(&[Some(SECRET), Some(SECRET), Some("1")]);
    let sql = "SELECT note, note || '', id FROM orders";
    let mut talk = Talk::masking();
    talk.send_all(&[query(sql)]);
    assert_eq!(talk.receive(&[described.clone(), values.clone()]).last(), Some(&masked));
    assert_eq!((talk.stale, talk.masked.as_slice()), (1, &[(1, 2)][..]));
    let mut talk = Talk::masking();
    talk.send_all(&[parse("", sql), bind("", ""), execute("")]);
    let out = talk.receive(&[bare(b'1'), bare(b'2'), described, values]);
    assert_eq!(out.last(), Some(&masked));
    assert_eq!((talk.stale, talk.masked.as_slice()), (1, &[(2, 2)][..]));
}

#[test]
fn masked_columns_are_told_once_per_request_however_often_it_is_described() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("", "SELECT email, id FROM customers"), bind("", ""), describe(b'P', "")]);
    talk.send_all(&[describe(b'P', ""), execute("")]);
    let described = columns(&[(10, 2), (10, 1)]);
    talk.receive(&[bare(b'1'), bare(b'2'), described.clone(), described]);
    talk.receive(&[row(&[Some(SECRET), Some("1")]), complete("SELECT 1")]);
    assert_eq!(talk.masked, [(2, 1)]);
}

#[test]
fn a_description_that_the_agent_asked_for_is_used_and_passed_on() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("", "SELECT email FROM customers"), bind("", ""), describe(b'P', "")]);
    assert_eq!(talk.send(&execute("")), Sent::Under(2, Vec::new()));
    let replies = [bare(b'1'), bare(b'2'), columns(&[(10, 2)])];
    assert_eq!(talk.receive(&replies), replies);
    assert_eq!(talk.receive(&[row(&[Some(SECRET)])]), [row(&[Some("[masked]")])]);
}

#[test]
fn a_described_statement_clears_nothing() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("s", "SELECT email FROM customers"), describe(b'S', "s"), sync()]);
    talk.receive(&[bare(b'1'), framed(b't', &[&[0, 0]]), columns(&[(11, 1)]), ready(b'I')]);
    talk.send_all(&[bind("", "s")]);
    assert!(matches!(talk.send(&execute("")), Sent::Under(_, before) if !before.is_empty()));
}

#[test]
fn portals_of_one_name_keep_their_own_plans() {
    let mut talk = Talk::masking();
    talk.send_all(&[
        parse("leak", "SELECT email FROM customers"),
        parse("fine", "SELECT note FROM orders"),
        sync(),
    ]);
    talk.receive(&[bare(b'1'), bare(b'1'), ready(b'I')]);
    talk.send_all(&[bind("", "leak"), execute(""), bind("", "fine"), execute(""), sync()]);
    let out = talk.receive(&[bare(b'2'), columns(&[(10, 2)]), row(&[Some(SECRET)]), complete("SELECT 1")]);
    assert_eq!(out, [bare(b'2'), row(&[Some("[masked]")]), complete("SELECT 1")]);
    let rest = [row(&[Some("note")]), complete("SELECT 1"), ready(b'I')];
    talk.receive(&[bare(b'2'), columns(&[(11, 2)])]);
    assert_eq!(talk.receive(&rest), rest);
    assert_eq!(talk.ended.len(), 4);
}

#[test]
fn rows_without_a_plan_are_masked_whole() {
    let mut talk = Talk::masking();
    talk.send_all(&[query("SELECT id FROM orders")]);
    assert_eq!(talk.receive(&[row(&[Some(SECRET)])]), [row(&[None])], "no description came");
    let mut talk = Talk::masking();
    talk.send_all(&[parse("", LEAK), bind("", ""), execute("")]);
    let out = talk.receive(&[bare(b'1'), bare(b'2'), bare(b'n'), row(&[Some(SECRET)])]);
    assert_eq!(out.last(), Some(&row(&[None])), "the server said that there are no rows");
}

#[test]
fn a_second_result_does_not_inherit_the_first_ones_plan() {
    let mut talk = Talk::masking();
    talk.send_all(&[query("SELECT note FROM orders; SELECT email FROM customers")]);
    talk.receive(&[columns(&[(11, 2)]), row(&[Some("note")]), complete("SELECT 1")]);
    assert_eq!(talk.receive(&[row(&[Some(SECRET)])]), [row(&[None])]);
    let out = talk.receive(&[columns(&[(10, 2)]), row(&[Some(SECRET)])]);
    assert!(!shows_secret(&out));
}

#[test]
fn a_suspended_portal_goes_on_under_its_plan_and_ends_once() {
    let mut talk = Talk::masking();
    talk.done("BEGIN", &["BEGIN"], b'T');
    talk.send_all(&[parse("", "SELECT email FROM customers"), bind("c", ""), execute("c"), sync()]);
    let out = talk.receive(&[
        bare(b'1'),
        bare(b'2'),
        columns(&[(10, 2)]),
        row(&[Some(SECRET)]),
        bare(b's'),
        ready(b'T'),
    ]);
    assert!(!shows_secret(&out));
    assert!(!ends(&talk).contains(&3));
    assert_eq!(talk.send(&execute("c")), Sent::Under(3, Vec::new()), "known already");
    talk.send(&sync());
    let out = talk.receive(&[row(&[Some(SECRET)]), complete("SELECT 1"), ready(b'T')]);
    assert!(!shows_secret(&out));
    talk.done("COMMIT", &["COMMIT"], b'I');
    assert_eq!(talk.ended.iter().filter(|(request, ..)| *request == 3).count(), 1);
    assert!(talk.ended.contains(&(3, Outcome::Forwarded, 2)));
    assert_eq!(talk.forgotten.iter().filter(|request| **request == 3).count(), 1);
}

#[test]
fn a_portal_that_never_ran_is_cut() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("", HARMLESS), bind("", ""), sync()]);
    talk.receive(&[bare(b'1'), bare(b'2'), ready(b'I')]);
    assert!(talk.ended.contains(&(2, Outcome::Cut, 0)));
}

#[test]
fn copy_data_goes_under_its_request_and_only_while_the_server_asks() {
    let mut talk = Talk::plain();
    assert_eq!(talk.send(&framed(b'd', &[b"1\n"])), Sent::Ignored, "no copy at all");
    talk.send_all(&[query("COPY orders FROM STDIN")]);
    for message in [framed(b'd', &[b"1\n"]), query("SELECT 1"), sync()] {
        assert_eq!(talk.send(&message), Sent::Later, "whether it is data is not known yet");
    }
    talk.receive(&[framed(b'G', &[&[0, 0, 0]])]);
    assert_eq!(talk.send(&framed(b'd', &[b"1\n"])), Sent::Under(1, Vec::new()));
    assert_eq!(talk.send(&sync()), Sent::Ignored, "the server ignores it too");
    assert!(talk.engine.client(&query("SELECT 1")).is_err(), "a request in the middle of a copy");
    assert_eq!(talk.send(&bare(b'c')), Sent::Under(1, Vec::new()));
    talk.receive(&[complete("COPY 1"), ready(b'I')]);
    assert_eq!(talk.ended, [(1, Outcome::Forwarded, 1)]);
}

#[test]
fn data_of_a_copy_that_failed_goes_nowhere() {
    let mut talk = Talk::plain();
    talk.send_all(&[query("COPY orders FROM STDIN")]);
    talk.receive(&[failure("42501", "no")]);
    assert_eq!(talk.send(&framed(b'd', &[b"1\n"])), Sent::Ignored);
    talk.receive(&[ready(b'I')]);
    assert_eq!(talk.send(&bare(b'c')), Sent::Ignored);
    assert!(talk.engine.is_idle());
}

#[test]
fn a_copy_by_messages_ends_at_its_sync() {
    let mut talk = Talk::plain();
    talk.send_all(&[parse("", "COPY orders FROM STDIN"), bind("", ""), execute("")]);
    assert_eq!(talk.send(&sync()), Sent::Later);
    talk.receive(&[bare(b'1'), bare(b'2'), framed(b'G', &[&[0, 0, 0]])]);
    assert_eq!(talk.send(&sync()), Sent::Ignored);
    talk.send_all(&[framed(b'd', &[b"1\n"]), bare(b'c'), sync()]);
    talk.receive(&[complete("COPY 1"), ready(b'I')]);
    assert!(talk.engine.is_idle());
}

#[test]
fn a_copy_that_was_not_judged_as_one_is_an_error() {
    let mut talk = Talk::plain();
    talk.send_all(&[query("SELECT 1")]);
    assert!(talk.try_receive(&[framed(b'H', &[&[0, 0, 0]])]).is_err());
    let mut talk = Talk::plain();
    talk.send_all(&[query("COPY orders TO STDOUT")]);
    assert!(talk.try_receive(&[framed(b'G', &[&[0, 0, 0]])]).is_err());
}

#[test]
fn a_copy_out_of_a_masked_relation_leaks_and_is_not_believed() {
    let mut talk = Talk::masking();
    let ask = talk.ask(&query("COPY customers TO STDOUT")).unwrap().unwrap();
    assert!(ask.leaks);
    talk.engine.permitted(1);
    assert!(talk.try_receive(&[framed(b'H', &[&[0, 0, 0]])]).is_err());
    let mut talk = Talk::masking();
    assert!(!talk.ask(&query("COPY orders TO STDOUT")).unwrap().unwrap().leaks);
    talk.engine.permitted(1);
    let replies =
        [framed(b'H', &[&[0, 0, 0]]), framed(b'd', &[b"1\n"]), bare(b'c'), complete("COPY 1"), ready(b'I')];
    assert_eq!(talk.receive(&replies), replies);
}

#[test]
fn writes_that_would_launder_a_masked_value_leak() {
    let mut talk = Talk::masking();
    for sql in
        ["INSERT INTO orders SELECT id, email FROM customers", "CREATE TABLE t AS SELECT * FROM customers"]
    {
        assert!(talk.ask(&query(sql)).unwrap().unwrap().leaks, "{sql}");
        assert!(talk.ask(&parse("", sql)).unwrap().unwrap().leaks, "{sql}");
    }
    assert!(talk.ask(&framed(b'F', &[&[0; 10]])).unwrap().unwrap().leaks, "a function by number");
}

#[test]
fn definitions_make_the_catalog_stale() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("", "CREATE TABLE t (a int)")]);
    assert_eq!(talk.stale, 1);
}

#[test]
fn a_bind_is_known_before_it_is_asked_about_so_that_the_catalog_can_be_looked_at() {
    let mut talk = Talk::masking();
    talk.send_all(&[parse("s", LEAK), sync()]);
    talk.receive(&[bare(b'1'), ready(b'I')]);
    let frame = bind("", "s");
    let Ok(Step::Known(analysis)) = talk.engine.client(&frame) else { panic!("the statement is known") };
    // Meanwhile a new snapshot comes; the question is about what holds then.
    talk.engine.set_view(View::default());
    assert!(!talk.engine.ask(&frame, &analysis).unwrap().leaks);
    talk.engine.permitted(9);
    assert_eq!(talk.send(&execute("")), Sent::Under(9, Vec::new()), "nothing is masked any more");
}
