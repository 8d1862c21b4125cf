//! Held statements over the extended protocol: where the wait happens, what the approver sees, and that it happens once.
//!
//! A real psycopg in a tagged cgroup, a real server, an approver on another account.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]

use std::time::Duration;

use anyhow::{Context, Result};
use chaperone_tests::agent::{Agent, dsn};
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::postgres::{Options, Server};
use chaperone_tests::{process, sample, temp, wait};
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

struct Stage {
    daemon: Daemon,
    server: Server,
    _dir: temp::Dir,
}

impl Stage {
    fn set() -> Result<Self> {
        let dir = temp::Dir::new("holds")?;
        let server = Server::start(&Options::default())?;
        let password = dir.write("password", sample::PASSWORD, 0o600)?;
        let plan = Plan::default()
            .with("[[agent]]\nname = \"worker\"\n")
            .with("[[approver]]\nname = \"dana\"\nuser = \"backup\"\ngroups = [\"dba\"]\n")
            .with(&server.resource("shop-db", &password))
            .policy("test.cedar", POLICY)
            .policy("columns.toml", "");
        Ok(Self { daemon: Daemon::start(&plan)?, server, _dir: dir })
    }

    fn tickets(&self, all: bool) -> Result<Vec<Value>> {
        let words: &[&str] =
            if all { &["approvals", "list", "--json", "--all"] } else { &["approvals", "list", "--json"] };
        let listed = self.daemon.cli_as("backup", words)?.success()?;
        Ok(serde_json::from_str(&listed)?)
    }
}

#[test]
fn a_prepared_update_is_held_once_with_its_values() {
    let stage = Stage::set().unwrap();
    let agent = Agent::new(&stage.daemon, "worker");
    let mut python = agent.python(UPDATE, &[&dsn(&stage.server)]).unwrap();
    let running = std::thread::scope(|scope| {
        let run = scope.spawn(|| process::run(&mut python, LIMIT));
        let ticket = wait::until("a ticket", LIMIT, || Ok(stage.tickets(false)?.into_iter().next())).unwrap();
        let values = ticket.get("values").and_then(Value::as_array).unwrap();
        let shown: Vec<&str> = values.iter().filter_map(|value| value.pointer("/text")?.as_str()).collect();
        assert!(shown.contains(&"paid"), "{ticket}");
        let id = ticket.get("id").and_then(Value::as_str).context("no id").unwrap();
        stage.daemon.cli_as("backup", &["approvals", "approve", id]).unwrap().success().unwrap();
        run.join().unwrap()
    });
    assert_eq!(running.unwrap().success().unwrap().trim(), "rows 1");
    assert_eq!(stage.tickets(true).unwrap().len(), 1, "it was held more than once");
    assert_eq!(stage.server.query("SELECT status FROM orders WHERE id = 7").unwrap().trim(), "paid");
}

#[test]
fn a_denied_update_changes_nothing_and_the_agent_is_told_by_whom() {
    let stage = Stage::set().unwrap();
    let agent = Agent::new(&stage.daemon, "worker");
    let mut python = agent.python(UPDATE, &[&dsn(&stage.server)]).unwrap();
    let before = stage.server.query("SELECT status FROM orders WHERE id = 7").unwrap();
    let ended = std::thread::scope(|scope| {
        let run = scope.spawn(|| process::run(&mut python, LIMIT));
        let ticket = wait::until("a ticket", LIMIT, || Ok(stage.tickets(false)?.into_iter().next())).unwrap();
        let id = ticket.get("id").and_then(Value::as_str).context("no id").unwrap();
        stage.daemon.cli_as("backup", &["approvals", "deny", id]).unwrap().success().unwrap();
        run.join().unwrap()
    });
    let seen = ended.unwrap().both();
    assert!(seen.contains("denied by an approver") && seen.contains("T-"), "{seen}");
    assert_eq!(stage.server.query("SELECT status FROM orders WHERE id = 7").unwrap(), before);
}
