//! Held statements over the extended protocol: where the wait happens, what the approver sees, and that it happens once.
//!
//! A real psycopg in a tagged cgroup, a real server, an approver on another account.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]

use std::time::Duration;

use anyhow::{Context, Result};
use chaperone_tests::agent::dsn;
use chaperone_tests::shop::{APPROVERS, Setup, Shop};
use chaperone_tests::{process, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

const POLICY: &str = r#"
@id("anything-on-shop-db")
permit (principal == Unidentified::"worker", action, resource in Resource::"shop-db");

@id("writes-need-a-dba")
@approvers("dba") @quorum("1") @window("5m")
forbid (principal, action == Action::"runUnattended", resource)
when { context.effects.containsAny(["update", "delete"]) };
"#;

/// Prepares and runs one update with a bound value, over the extended protocol.
const UPDATE: &str = "import psycopg, sys\n\
    with psycopg.connect(sys.argv[1], autocommit=True) as c:\n\
    \x20   cur = c.execute('UPDATE orders SET status = %s WHERE id = %s', ('paid', 7), prepare=True)\n\
    \x20   print('rows', cur.rowcount)\n";

/// Nothing is masked here.
fn open() -> Result<Shop> {
    Shop::open(&Setup { columns: String::new(), ..Setup::under(POLICY) })
}

/// Tickets as an approver sees them.
fn tickets(shop: &Shop, all: bool) -> Result<Vec<Value>> {
    let words: &[&str] =
        if all { &["approvals", "list", "--json", "--all"] } else { &["approvals", "list", "--json"] };
    let listed = shop.daemon.cli_as(APPROVERS[0], words)?.success()?;
    Ok(serde_json::from_str(&listed)?)
}

#[test]
fn a_prepared_update_is_held_once_with_its_values() {
    let shop = open().unwrap();
    let agent = shop.agent();
    let mut python = agent.python(UPDATE, &[&dsn(&shop.server)]).unwrap();
    let running = std::thread::scope(|scope| {
        let run = scope.spawn(|| process::run(&mut python, LIMIT));
        let ticket =
            wait::until("a ticket", LIMIT, || Ok(tickets(&shop, false)?.into_iter().next())).unwrap();
        let values = ticket.get("values").and_then(Value::as_array).unwrap();
        let shown: Vec<&str> = values.iter().filter_map(|value| value.pointer("/text")?.as_str()).collect();
        assert!(shown.contains(&"paid"), "{ticket}");
        let id = ticket.get("id").and_then(Value::as_str).context("no id").unwrap();
        shop.vote(APPROVERS[0], "approve", id).unwrap().success().unwrap();
        run.join().unwrap()
    });
    assert_eq!(running.unwrap().success().unwrap().trim(), "rows 1");
    assert_eq!(tickets(&shop, true).unwrap().len(), 1, "it was held more than once");
    assert_eq!(shop.server.query("SELECT status FROM orders WHERE id = 7").unwrap().trim(), "paid");
}

#[test]
fn a_denied_update_changes_nothing_and_the_agent_is_told_by_whom() {
    let shop = open().unwrap();
    let agent = shop.agent();
    let mut python = agent.python(UPDATE, &[&dsn(&shop.server)]).unwrap();
    let before = shop.server.query("SELECT status FROM orders WHERE id = 7").unwrap();
    let ended = std::thread::scope(|scope| {
        let run = scope.spawn(|| process::run(&mut python, LIMIT));
        let ticket =
            wait::until("a ticket", LIMIT, || Ok(tickets(&shop, false)?.into_iter().next())).unwrap();
        let id = ticket.get("id").and_then(Value::as_str).context("no id").unwrap();
        shop.vote(APPROVERS[0], "deny", id).unwrap().success().unwrap();
        run.join().unwrap()
    });
    let seen = ended.unwrap().both();
    assert!(seen.contains("denied by an approver") && seen.contains("T-"), "{seen}");
    assert_eq!(shop.server.query("SELECT status FROM orders WHERE id = 7").unwrap(), before);
}
