//! Requests that wait while the client cancels or vanishes, requests denied at Bind, and the record against the server's
//! own log.

use std::time::Duration;

use anyhow::Result;
use chaperone_tests::shop::{AGENT, APPROVERS, RESOURCE, Shop};
use chaperone_tests::wait;

use super::{POLICY, open, wire};

const HOLD: &str = r#"
@id("updates-wait")
@approvers("dba") @quorum("1") @window("10m")
forbid (principal, action == Action::"runUnattended", resource)
when { context.effects.contains("update") };
"#;
const HELD_UPDATE: &str = r#"
s = Session()
s.send(query("UPDATE orders SET item = 'held' WHERE id = 4"))
kind, body = s.message()
assert kind == b"N" and b"ticket" in body, (kind, body)
"#;

/// Lines of the record of this kind of event.
fn recorded(shop: &Shop, kind: &str) -> Result<usize> {
    let found = shop.daemon.cli(&["audit", "search", "--json"])?.success()?;
    Ok(found.lines().filter(|line| line.contains(&format!("\"{kind}\""))).count())
}

#[test]
fn a_cancelled_hold_is_57014_and_the_session_lives() {
    let shop = open(HOLD).unwrap();
    let cancel = r#"
sock = dial()
sock.sendall(struct.pack("!II", len(s.key) + 8, 80877102) + s.key)
assert sock.recv(1) == b""
error = errors(s.until())[0]
assert error["C"] == "57014", error
s.alive()
"#;
    wire(&shop, &format!("{HELD_UPDATE}{cancel}")).unwrap();
    assert_eq!(shop.server.query("SELECT count(*) FROM orders WHERE item = 'held'").unwrap(), "0");
}

#[test]
fn a_client_that_vanishes_while_held_leaves_its_ticket_and_one_outcome() {
    let shop = open(HOLD).unwrap();
    wire(&shop, &format!("{HELD_UPDATE}s.sock.close()")).unwrap();
    // The held update and the control statement that `wire` adds. Sooner than the next word to a held agent, whose failure
    // would end the session, too.
    wait::until("both outcomes in the record", Duration::from_secs(10), || {
        Ok((recorded(&shop, "request_ended")? >= 2).then_some(()))
    })
    .unwrap();
    assert_eq!(recorded(&shop, "request_ended").unwrap(), 2, "{AGENT} on {RESOURCE}");
    let list = shop.daemon.cli_as(APPROVERS[0], &["approvals", "list"]).unwrap().success().unwrap();
    assert!(list.contains("T-"), "{list}");
    assert_eq!(shop.server.query("SELECT count(*) FROM orders WHERE item = 'held'").unwrap(), "0");
}

#[test]
fn what_the_server_ran_is_in_the_record_and_what_was_denied_is_in_the_record_alone() {
    let shop = open("").unwrap();
    wire(
        &shop,
        r#"
s = Session()
s.ask("SELECT 1 AS mark_simple")
s.send(parse("", "SELECT 1 AS mark_extended"), bind(), execute(), SYNC); s.until()
s.send(parse("", "SELECT 1 AS mark_before"), bind(), execute(), parse("", "DROP TABLE mark_denied"), bind(), execute(),
       parse("", "SELECT 1 AS mark_skipped"), bind(), execute(), SYNC); s.until()
s.error("DROP TABLE mark_refused")
"#,
    )
    .unwrap();
    let log = shop.server.log().unwrap();
    let record = shop.daemon.cli(&["audit", "search", "--json"]).unwrap().success().unwrap();
    for mark in ["mark_simple", "mark_extended", "mark_before"] {
        assert!(log.contains(mark) && record.contains(mark), "{mark}\n{log}\n{record}");
    }
    for mark in ["mark_denied", "mark_refused"] {
        assert!(!log.contains(mark) && record.contains(mark), "{mark}\n{log}\n{record}");
    }
    assert!(!log.contains("mark_skipped"), "{log}");
}

#[test]
fn a_bind_that_people_deny_fails_its_pipeline_and_no_more() {
    let shop = open(HOLD).unwrap();
    let program = r#"
s = Session()
s.send(parse("", "UPDATE orders SET item = 'held' WHERE id = 4"), bind(), describe(b"P"), execute(), SYNC,
       parse("", "SELECT 3"), bind(), execute(), SYNC)
seen = s.until()
assert kinds(seen) == "1EZ" and errors(seen)[0]["C"] == "42501", seen
assert "denied by an approver" in errors(seen)[0]["M"], seen
seen = s.until()
assert kinds(seen) == "12DCZ" and rows(seen) == [[b"3"]], seen
s.alive()
"#;
    let played = std::thread::scope(|scope| {
        let playing = scope.spawn(|| wire(&shop, program));
        let ticket = shop.pending().unwrap();
        shop.vote(APPROVERS[0], "deny", &ticket).unwrap().success().unwrap();
        playing.join().unwrap()
    });
    played.unwrap();
    assert_eq!(shop.server.query("SELECT count(*) FROM orders WHERE item = 'held'").unwrap(), "0");
}

#[test]
fn a_bind_that_policy_has_come_to_deny_fails_its_pipeline_and_no_more() {
    const INSERT: &str = "INSERT INTO orders VALUES (7000, 1, 'lamp', 1.00, 'new', now())";
    let shop = open("").unwrap();
    let go = shop.daemon.dir().path().join("go");
    let program = r#"
import os
s = Session()
s.send(parse("doomed", "INSERT"), parse("fine", "SELECT 3"), SYNC)
assert kinds(s.until()) == "11Z"
s.ask("SELECT 1 AS mark_prepared")
while not os.path.exists("GO"):
    time.sleep(0.05)
s.send(bind("", "doomed"), describe(b"P"), execute(), bind("", "fine"), execute(), SYNC,
       bind("", "fine"), execute(), SYNC)
seen = s.until()
assert kinds(seen) == "EZ" and errors(seen)[0]["C"] == "42501" and "no-inserts" in errors(seen)[0]["M"], seen
seen = s.until()
assert kinds(seen) == "2DCZ" and rows(seen) == [[b"3"]], seen
# The statement itself is still there, and denied again.
s.send(bind("", "doomed"), SYNC)
assert kinds(s.until()) == "EZ"
s.alive()
"#;
    let program = program.replace("INSERT", INSERT).replace("GO", &go.display().to_string());
    let denials = || {
        Ok(shop.records("request_decided")?.iter().filter(|one| one["decision"]["verdict"] == "deny").count())
    };
    let played = std::thread::scope(|scope| {
        let playing = scope.spawn(|| wire(&shop, &program));
        wait::until("the prepared statement", Duration::from_secs(30), || {
            let found = shop.daemon.cli(&["audit", "search", "--json"])?.success()?;
            Ok(found.contains("mark_prepared").then_some(()))
        })
        .unwrap();
        let forbid = "@id(\"no-inserts\")\nforbid (principal, action == Action::\"run\", resource)\n\
                      when { context.effects.contains(\"insert\") };\n";
        shop.write_policy(&format!("{POLICY}{forbid}")).unwrap();
        shop.daemon.cli(&["reload"]).unwrap().success().unwrap();
        std::fs::write(&go, "").unwrap();
        playing.join().unwrap()
    });
    played.unwrap();
    assert_eq!(shop.server.query("SELECT count(*) FROM orders WHERE id = 7000").unwrap(), "0");
    let denied: Result<usize> = denials();
    assert_eq!(denied.unwrap(), 2);
}
