//! Start, reload, drain, refusal: the daemon's life as operators, approvers and agents see it.
//!
//! Real daemon, real PostgreSQL, agents in their own cgroup. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use chaperone::clock::Clock;
use chaperone::intercept::Tree;
use chaperone_tests::agent::{Agent, dsn};
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::postgres::program_path;
use chaperone_tests::shop::{AGENT, APPROVERS, POLICY, STRANGER, Setup, Shop};
use chaperone_tests::talk::Reply;
use chaperone_tests::{ports, process, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const EMAIL: &str = "SELECT email FROM customers WHERE id = 7";
const CLEAR: &str = "customer7@mail.example";
const ITEM: &str = "SELECT item FROM orders WHERE id = 7";

/// A BPF file system of a test's own, unmounted when dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn bpf(path: &'a Path) -> Result<Self> {
        process::run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(path), LIMIT)?.success()?;
        Ok(Self(path))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Err(error) = process::run(Command::new("umount").arg(self.0), LIMIT) {
            eprintln!("cannot unmount: {error:#}");
        }
    }
}

fn setup(top: &str, agent: &str, resource: &str) -> Setup {
    let owned = str::to_owned;
    Setup { top: owned(top), agent: owned(agent), resource: owned(resource), ..Setup::default() }
}

fn code(reply: &Reply) -> &str {
    reply.code.as_deref().unwrap_or("none")
}

#[test]
fn untagged_programs_reach_the_database_itself() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let before = shop.status().unwrap();
    let seen = shop.outsider(EMAIL).unwrap().success().unwrap();
    assert_eq!(seen.trim(), CLEAR);
    let after = shop.status().unwrap();
    assert_eq!(before["kernel"], after["kernel"], "the kernel touched a connection of an outsider");
    assert!(shop.records("session_opened").unwrap().is_empty());
    let masked = shop.talk().unwrap().ask(EMAIL).unwrap();
    assert_ne!(masked.cell().unwrap(), CLEAR, "the same statement of the agent is masked");
    assert_ne!(shop.status().unwrap()["kernel"], after["kernel"]);
}

#[test]
fn the_launchers_step_is_in_the_record_and_no_other_agent_reads_it() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let psql = |step: &[&str]| {
        let mut command = shop.daemon.command(&["run"]);
        command.args(["--agent", AGENT, "--uid", "65534"]).args(step).arg("--");
        command.arg(program_path("psql")).args(["-XAtw", "-d", &dsn(&shop.server), "-c", ITEM]);
        process::run(&mut command, LIMIT).unwrap().success().unwrap()
    };
    psql(&["--step", "nightly report"]);
    psql(&[]);
    let steps: Vec<Value> =
        shop.records("session_opened").unwrap().iter().map(|one| one["evidence"]["step"].clone()).collect();
    assert_eq!(steps, ["nightly report".into(), Value::Null]);
    let folder = shop.daemon.dir().path().join("run/steps");
    let seen = shop.agent().run("ls", [&folder]).unwrap();
    assert!(!seen.status.success() && seen.stderr.contains("Permission denied"), "{}", seen.both());
}

#[test]
fn a_quarantined_agent_is_cut_off_at_once_also_after_a_restart_until_it_is_released() {
    let mut shop = Shop::open(&Setup::default()).unwrap();
    let mut talk = shop.talk().unwrap();
    talk.ask(ITEM).unwrap().cell().unwrap();
    let told = shop.daemon.cli(&["quarantine", AGENT]).unwrap().success().unwrap();
    assert!(told.contains("1 sessions ended"), "{told}");
    assert!(talk.ask(ITEM).map_or(true, |reply| reply.cell().is_err()), "an open session went on");
    assert!(shop.hello().map_or(true, |reply| code(&reply) != "none"), "a new session began");
    assert!(shop.daemon.cli(&["status"]).unwrap().success().unwrap().contains("QUARANTINED"));
    shop.daemon.stop(Signal::SIGTERM).unwrap();
    shop.daemon.launch().unwrap();
    assert!(shop.talk().is_err(), "a restart let the agent go");
    let refused = shop.status().unwrap()["kernel_denied"].to_string();
    assert!(refused.contains("quarantined"), "{refused}");
    shop.daemon.cli(&["release", AGENT]).unwrap().success().unwrap();
    shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
    let acts: Vec<String> =
        shop.records("operator_acted").unwrap().iter().map(|one| one["action"].to_string()).collect();
    assert_eq!(acts, ["\"quarantine\"", "\"release\""]);
    assert!(!shop.daemon.cli(&["quarantine", "nobody-known"]).unwrap().status.success());
}

#[test]
fn a_second_daemon_says_why_it_refuses_and_the_first_keeps_serving() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let mut talk = shop.talk().unwrap();
    let second = shop.daemon.cli(&["daemon"]).unwrap();
    assert_eq!(second.status.code(), Some(1), "{}", second.both());
    assert!(second.stderr.contains("another"), "no clear sentence: {}", second.both());
    // Nor does a state directory and a port of its own help the second: guard and control socket are the first one's.
    let own = format!("\nport = {}\n", ports::free().unwrap());
    let text = std::fs::read_to_string(shop.daemon.config()).unwrap();
    let port = text.lines().find(|line| line.starts_with("port = ")).unwrap();
    let config = text.replace("/state\"", "/other-state\"").replace(&format!("\n{port}\n"), &own);
    assert!(config.contains("/other-state\"") && config.contains(&own));
    let other = shop.daemon.dir().write("other.toml", config, 0o644).unwrap();
    let mut command = Command::new(shop.daemon.program());
    let third = process::run(command.arg("daemon").arg("--config").arg(other), LIMIT).unwrap();
    assert_eq!(third.status.code(), Some(1), "{}", third.both());
    assert!(third.stderr.contains("another daemon runs already"), "{}", third.both());
    // Nor with a runtime directory of its own besides: the agents' cgroup, and the pins, are the first one's.
    let strange = shop.daemon.dir().folder("other-bpf").unwrap();
    for (what, pins) in [("could not take pin", None), ("could not take cgroup", Some(strange.as_path()))] {
        let mut config = std::fs::read_to_string(shop.daemon.dir().path().join("other.toml")).unwrap();
        config = config.replace("/run\"", "/other-run\"");
        let _mount = pins.map(|pins| {
            let old = config.lines().find(|line| line.starts_with("pin_dir = ")).unwrap().to_owned();
            config = config.replace(&old, &format!("pin_dir = \"{}/chaperone\"", pins.display()));
            Mounted::bpf(pins).unwrap()
        });
        assert!(config.contains("/other-run\""), "{config}");
        let other = shop.daemon.dir().write("fourth.toml", config, 0o644).unwrap();
        let mut command = Command::new(shop.daemon.program());
        let fourth = process::run(command.arg("daemon").arg("--config").arg(other), LIMIT).unwrap();
        assert_eq!(fourth.status.code(), Some(1), "{}", fourth.both());
        assert!(fourth.stderr.contains(what), "{}", fourth.both());
        assert!(fourth.stderr.contains("another daemon has it"), "{}", fourth.both());
    }
    talk.ask(ITEM).unwrap().cell().unwrap();
    shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
    assert!(shop.daemon.cli(&["status"]).unwrap().status.success(), "the control socket was taken away");
    shop.verify_record().unwrap();
}

#[test]
fn every_mistake_of_a_configuration_is_reported_with_its_line() {
    let mut daemon = Daemon::prepare(&Plan::default().with("[[agent]]\nname = \"fine\"")).unwrap();
    let good = std::fs::read_to_string(daemon.config()).unwrap();
    let mistakes = "[[agent]]\nname = \"bad name!\"\ncolour = \"red\"\n\n\
                    [[resource]]\nname = \"db\"\nprotocol = \"gopher\"\naddresses = [\"nonsense\"]\n\
                    credential = { user = \"u\" }\n\n\
                    [[approver]]\nname = \"nobody-known\"\nuser = \"no-such-account\"\ngroups = [\"dba\"]\n";
    let bad = format!("{good}\n{mistakes}");
    std::fs::write(daemon.config(), &bad).unwrap();
    let line = |wanted: &str| 1 + bad.lines().position(|line| line.starts_with(wanted)).unwrap();
    let refused = daemon.cli(&["daemon"]).unwrap();
    // What is valid again can be cleaned up.
    std::fs::write(daemon.config(), &good).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.both());
    for mistake in ["name = \"bad", "colour", "protocol", "addresses", "user = \"no-such"] {
        let place = format!("line {}:", line(mistake));
        assert!(
            refused.stderr.contains(&place),
            "`{mistake}` is not reported at {place}\n{}",
            refused.stderr
        );
    }
    assert!(refused.stderr.contains("5 problems"), "{}", refused.stderr);
    daemon.launch().unwrap();
    assert!(daemon.stop(Signal::SIGTERM).unwrap().success());
}

#[test]
fn a_policy_that_does_not_type_check_keeps_the_daemon_from_starting() {
    let policy =
        POLICY.replace("context.effects.contains(\"delete\")", "context.effectz.contains(\"delete\")");
    let mut shop = Shop::prepare(&Setup { policy, ..Setup::default() }).unwrap();
    let refused = shop.daemon.cli(&["daemon"]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.both());
    assert!(
        refused.stderr.contains("deletes-wait") || refused.stderr.contains("effectz"),
        "{}",
        refused.both()
    );
    shop.write_policy(POLICY).unwrap();
    shop.daemon.launch().unwrap();
    shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
}

#[test]
fn a_reload_reaches_an_open_session_at_its_next_statement() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let mut talk = shop.talk().unwrap();
    let item = talk.ask(ITEM).unwrap().cell().unwrap().to_owned();
    // A new forbid.
    let inserts = "@id(\"no-inserts\")\nforbid (principal, action == Action::\"run\", resource)\n\
                   when { context.effects.contains(\"insert\") };\n";
    shop.write_policy(&format!("{POLICY}\n{inserts}")).unwrap();
    let insert = "INSERT INTO customers (id, name, email, national_id, card, city, born) \
                  VALUES (9001, 'n', 'e@x.example', 'i', 'c', 'y', DATE '2000-01-01')";
    let done = shop.daemon.cli(&["reload"]).unwrap();
    assert!(done.status.success() && done.stdout.contains("in force"), "{}", done.both());
    let denied = talk.ask(insert).unwrap();
    assert_eq!(code(&denied), "42501", "{denied:?}");
    assert!(denied.message.contains("no-inserts"), "{denied:?}");
    assert_eq!(talk.ask(ITEM).unwrap().cell().unwrap(), item, "the session did not survive");
    // A bundle that is no good: the last one stays, and it is said and recorded.
    shop.write_policy(&format!(
        "{POLICY}\n@id(\"bad\")\npermit (principal, action, resource) when {{ context.nonsense }};"
    ))
    .unwrap();
    let refused = shop.daemon.cli(&["reload"]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.both());
    assert!(refused.stderr.contains("nonsense"), "{}", refused.both());
    assert_eq!(code(&talk.ask(insert).unwrap()), "42501", "the last good bundle is not in force");
    assert_eq!(shop.records("policy_rejected").unwrap().len(), 1);
    // And back.
    shop.write_policy(POLICY).unwrap();
    shop.daemon.cli(&["reload"]).unwrap().success().unwrap();
    assert_eq!(code(&talk.ask(insert).unwrap()), "none");
}

#[test]
fn a_hangup_signal_reloads_and_a_new_mask_reaches_an_open_session() {
    let unmasked = POLICY.replace(
        "\"readClear\", resource)\nwhen { resource.class == \"pii.email\" }",
        "\"readClear\", resource)\nwhen { resource.class == \"pii.national-id\" }",
    );
    assert_ne!(unmasked, POLICY);
    let shop = Shop::open(&Setup { policy: unmasked, ..Setup::default() }).unwrap();
    let mut talk = shop.talk().unwrap();
    assert_eq!(talk.ask(EMAIL).unwrap().cell().unwrap(), CLEAR);
    shop.write_policy(POLICY).unwrap();
    shop.daemon.signal(Signal::SIGHUP).unwrap();
    wait::until("the new bundle", LIMIT, || Ok((!shop.records("policy_loaded")?.is_empty()).then_some(())))
        .unwrap();
    let masked = talk.ask(EMAIL).unwrap();
    assert!(masked.cell().unwrap().ends_with("mple") && masked.cell().unwrap() != CLEAR, "{masked:?}");
    shop.write_policy("nonsense").unwrap();
    shop.daemon.signal(Signal::SIGHUP).unwrap();
    wait::until("the refusal", LIMIT, || Ok((!shop.records("policy_rejected")?.is_empty()).then_some(())))
        .unwrap();
    assert_ne!(talk.ask(EMAIL).unwrap().cell().unwrap(), CLEAR);
    assert!(shop.daemon.log().unwrap().contains("the old policy stays"));
}

#[test]
fn a_termination_drains_idle_sessions_end_and_running_statements_finish() {
    let mut shop = Shop::open(&Setup::default()).unwrap();
    let (mut idle, mut busy) = (shop.talk().unwrap(), shop.talk().unwrap());
    idle.listen().unwrap();
    busy.send("SELECT 'finished' FROM pg_sleep(3)").unwrap();
    wait::until("the statement to run", LIMIT, || {
        let running = shop.server.query(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT ''finished%'",
        )?;
        Ok((running == "1").then_some(()))
    })
    .unwrap();
    let status = shop.daemon.stop(Signal::SIGTERM).unwrap();
    assert!(status.success(), "{status}\n{}", shop.daemon.log().unwrap());
    let ended = idle.reply().unwrap();
    assert_eq!((code(&ended), ended.closed), ("57P01", true), "{ended:?}");
    let finished = busy.reply().unwrap();
    assert_eq!(
        finished.rows.first().and_then(|row| row.first()),
        Some(&Some("finished".to_owned())),
        "{finished:?}"
    );
    busy.listen().ok();
    let after = if finished.closed { finished } else { busy.reply().unwrap() };
    assert_eq!((code(&after), after.closed), ("57P01", true), "{after:?}");
    shop.verify_record().unwrap();
    assert_eq!(shop.records("daemon_stopped").unwrap().len(), 1);
    let closed = shop.records("session_closed").unwrap();
    assert_eq!(closed.len(), 2, "{closed:?}");
    assert_eq!(code(&shop.hello().unwrap()), "no-connection");
}

#[test]
fn a_request_that_is_held_at_termination_ends_at_once_and_its_ticket_stays() {
    let mut shop = Shop::open(&Setup::default()).unwrap();
    let mut talk = shop.talk().unwrap();
    let delete = "DELETE FROM orders WHERE id = 1000";
    talk.send(delete).unwrap();
    let ticket = shop.pending().unwrap();
    let clock = Clock::system();
    let start = clock.instant();
    assert!(shop.daemon.stop(Signal::SIGTERM).unwrap().success());
    let took = clock.instant().duration_since(start);
    let ended = talk.reply().unwrap();
    assert_eq!((code(&ended), ended.closed), ("57P01", true), "after {} s: {ended:?}", took.as_secs());
    assert!(took < Duration::from_secs(10), "it took {} s", took.as_secs());
    shop.daemon.launch().unwrap();
    assert_eq!(shop.pending().unwrap(), ticket);
    shop.vote(APPROVERS[0], "approve", &ticket).unwrap().success().unwrap();
    assert_eq!(code(&shop.talk().unwrap().ask(delete).unwrap()), "none");
    assert_eq!(shop.server.query("SELECT count(*) FROM orders").unwrap(), "999");
}

#[test]
fn a_session_that_does_not_finish_is_cut_with_a_native_error_and_rolled_back() {
    let mut shop = Shop::open(&Setup::default()).unwrap();
    let mut talk = shop.talk().unwrap();
    let insert = "INSERT INTO orders VALUES (5000, 1, 'lamp', 1, 'new', now())";
    assert_eq!(code(&talk.ask("BEGIN").unwrap()), "none");
    assert_eq!(code(&talk.ask(insert).unwrap()), "none");
    talk.listen().unwrap();
    assert!(shop.daemon.stop(Signal::SIGTERM).unwrap().success());
    let ended = talk.reply().unwrap();
    assert_eq!((code(&ended), ended.closed), ("57P01", true), "{ended:?}");
    assert_eq!(shop.server.query("SELECT count(*) FROM orders WHERE id = 5000").unwrap(), "0");
    assert_eq!(shop.records("session_closed").unwrap().len(), 1);
    shop.verify_record().unwrap();
}

#[test]
fn a_killed_session_ends_with_a_native_error_and_others_go_on() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let mut victim = shop.talk().unwrap();
    let listed = shop.daemon.cli(&["sessions", "list", "--json"]).unwrap().success().unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    let mut other = shop.talk().unwrap();
    victim.listen().unwrap();
    let stranger = shop.daemon.cli_as(APPROVERS[0], &["sessions", "kill", &id]).unwrap();
    assert_eq!(stranger.status.code(), Some(1), "an approver could end a session: {}", stranger.both());
    assert!(victim.is_waiting().unwrap());
    shop.daemon.cli(&["sessions", "kill", &id]).unwrap().success().unwrap();
    let ended = victim.reply().unwrap();
    assert_eq!((code(&ended), ended.closed), ("57P01", true), "{ended:?}");
    assert!(ended.message.contains("operator"), "{ended:?}");
    other.ask(ITEM).unwrap().cell().unwrap();
    assert_eq!(shop.records("operator_acted").unwrap().len(), 1);
    let again = shop.daemon.cli(&["sessions", "kill", &id]).unwrap();
    assert_eq!(again.status.code(), Some(1), "{}", again.both());
}

#[test]
fn metrics_are_open_metrics_text_and_count_requests() {
    let port = ports::free().unwrap();
    let shop = Shop::open(&setup(&format!("[metrics]\nlisten = \"127.0.0.1:{port}\""), "", "")).unwrap();
    shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    assert!(body.contains("# TYPE chaperone_requests counter"), "{body}");
    assert!(body.contains("chaperone_requests_total{decision=\"allow\"} 1\n"), "{body}");
    assert!(body.contains("chaperone_sessions_opened_total 1\n"), "{body}");
    assert!(!body.contains("orders"), "a statement shows in the metrics");
}

#[test]
fn status_and_doctor_tell_with_their_exit_codes_whether_a_daemon_serves() {
    let mut shop = Shop::prepare(&Setup::default()).unwrap();
    let exit = |shop: &Shop, word: &str| shop.daemon.cli(&[word]).unwrap();
    assert_eq!(exit(&shop, "status").status.code(), Some(3));
    let sick = exit(&shop, "doctor");
    assert_eq!(sick.status.code(), Some(1));
    assert!(sick.stdout.contains("BAD   daemon") && sick.stdout.contains("fix:"), "{}", sick.both());
    shop.daemon.launch().unwrap();
    let status = exit(&shop, "status");
    assert_eq!(status.status.code(), Some(0), "{}", status.both());
    assert!(status.stdout.contains("record    takes events"), "{}", status.both());
    // An agent without a token is worth a finding, and nothing else is.
    let found = exit(&shop, "doctor");
    let bad: Vec<&str> = found.stdout.lines().filter(|line| line.starts_with("BAD")).collect();
    assert!(bad.len() == 1 && bad[0].contains("identity"), "{}", found.both());
    shop.daemon.stop(Signal::SIGKILL).unwrap();
    assert_eq!(exit(&shop, "status").status.code(), Some(3));
    let dead = exit(&shop, "doctor");
    assert_eq!(dead.status.code(), Some(1));
    assert!(dead.stdout.contains("good  guard") && dead.stdout.contains("BAD   daemon"), "{}", dead.both());
}

/// A cgroup among the agents' that no launcher made.
struct Intruder {
    path: PathBuf,
}

impl Intruder {
    fn below(parent: &str) -> Result<Self> {
        let parent = Tree::find()?.open(Path::new(parent))?;
        let path = parent.path().join("intruder");
        std::fs::create_dir(&path)?;
        Ok(Self { path })
    }

    /// The program under `account`, with no jail but the cgroup.
    fn command(&self, daemon: &Daemon, account: &str, words: &str) -> Command {
        let script = format!(
            "echo $$ > '{}/cgroup.procs' || exit 99; exec setpriv --reuid {account} --regid nogroup --clear-groups \
             '{}' {words} --config '{}'",
            self.path.display(),
            daemon.program().display(),
            daemon.config().display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir("/");
        command
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        let removed = wait::until("an empty cgroup", LIMIT, || Ok(std::fs::remove_dir(&self.path).ok()));
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn an_agent_cannot_use_the_control_socket_even_as_root() {
    // The daemon's own answer is asked for: by default the kernel does not let accounts get that far.
    let audited = Setup { intercept: "unix_sockets = \"audited\"".to_owned(), ..Setup::default() };
    let shop = Shop::open(&audited).unwrap();
    let intruder = Intruder::below(shop.daemon.parent()).unwrap();
    for account in ["root", APPROVERS[0], "nobody"] {
        for words in ["status", "reload", "approvals list"] {
            let seen = process::run(&mut intruder.command(&shop.daemon, account, words), LIMIT).unwrap();
            assert_eq!(seen.status.code(), Some(1), "{account}, {words}: {}", seen.both());
            assert!(seen.stdout.is_empty(), "{account}, {words}: {}", seen.both());
            assert!(seen.stderr.contains("agents have no business here"), "{account}: {}", seen.both());
        }
    }
    drop(intruder);
    let mut launched = shop.agent().command(shop.daemon.program());
    launched.arg("status").arg("--config").arg(shop.daemon.config());
    let seen = process::run(&mut launched, LIMIT).unwrap();
    assert!(!seen.status.success() && seen.stdout.is_empty(), "{}", seen.both());
    let mut as_root = Agent::new(&shop.daemon, AGENT).with_uid(0).command("/usr/bin/id");
    let seen = process::run(&mut as_root, LIMIT).unwrap();
    assert!(
        !seen.status.success() && seen.stdout.is_empty(),
        "an agent was started as root: {}",
        seen.both()
    );
    let outside = shop.daemon.cli_as("nobody", &["status"]).unwrap();
    assert_eq!(outside.status.code(), Some(1), "{}", outside.both());
    assert!(outside.stderr.contains("only root and configured approvers"), "{}", outside.both());
}

#[test]
fn a_quorum_of_two_needs_two_people_and_strangers_do_not_count() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let mut talk = shop.talk().unwrap();
    talk.send("UPDATE orders SET status = 'sent' WHERE id = 4").unwrap();
    let ticket = shop.pending().unwrap();
    for account in [STRANGER, "nobody", "root"] {
        let refused = shop.vote(account, "approve", &ticket).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{account} could vote: {}", refused.both());
    }
    shop.vote(APPROVERS[0], "approve", &ticket).unwrap().success().unwrap();
    let twice = shop.vote(APPROVERS[0], "approve", &ticket).unwrap();
    assert!(!twice.status.success(), "one person voted twice: {}", twice.both());
    assert_eq!(shop.pending().unwrap(), ticket, "one vote was enough");
    assert!(talk.is_waiting().unwrap());
    assert_ne!(shop.server.query("SELECT status FROM orders WHERE id = 4").unwrap(), "sent");
    shop.vote(APPROVERS[1], "approve", &ticket).unwrap().success().unwrap();
    let done = talk.reply().unwrap();
    assert_eq!(code(&done), "none", "{done:?}");
    assert!(done.notices.iter().any(|notice| notice.contains(&ticket)), "{done:?}");
    assert_eq!(shop.server.query("SELECT status FROM orders WHERE id = 4").unwrap(), "sent");
    assert_eq!(shop.tickets().unwrap(), [(ticket, "consumed".to_owned())]);
}

#[test]
fn an_expired_hold_is_released_once_by_a_retry_after_approval_and_then_held_anew() {
    let shop = Shop::open(&setup("", "", "hold = \"3s\"\n")).unwrap();
    let delete = "DELETE FROM orders WHERE id = 1000";
    let mut talk = shop.talk().unwrap();
    let expired = talk.ask(delete).unwrap();
    assert_eq!(code(&expired), "57014", "{expired:?}");
    let ticket = shop.pending().unwrap();
    assert!(expired.hint.contains(&ticket), "{expired:?}");
    talk.ask(ITEM).unwrap().cell().unwrap();
    shop.vote(APPROVERS[0], "approve", &ticket).unwrap().success().unwrap();
    assert_eq!(shop.server.query("SELECT count(*) FROM orders").unwrap(), "1000", "released without a retry");
    let retry = talk.ask(delete).unwrap();
    assert_eq!(code(&retry), "none", "{retry:?}");
    assert!(retry.notices.is_empty(), "the retry was held: {retry:?}");
    assert_eq!(shop.server.query("SELECT count(*) FROM orders").unwrap(), "999");
    let second = talk.ask(delete).unwrap();
    assert_eq!(code(&second), "57014", "{second:?}");
    let anew = shop.pending().unwrap();
    assert_ne!(anew, ticket);
    assert!(second.hint.contains(&anew), "{second:?}");
    // Another statement is not released by it.
    shop.vote(APPROVERS[0], "approve", &anew).unwrap().success().unwrap();
    assert_eq!(code(&talk.ask("DELETE FROM orders WHERE id = 999").unwrap()), "57014");
}

#[test]
fn a_hold_inside_a_transaction_is_shorter_and_says_so() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let mut talk = shop.talk().unwrap();
    assert_eq!(code(&talk.ask("BEGIN").unwrap()), "none");
    talk.send("DELETE FROM orders WHERE id = 1").unwrap();
    let ticket = shop.pending().unwrap();
    let shown = shop.daemon.cli(&["approvals", "show", &ticket]).unwrap().success().unwrap();
    assert!(shown.contains("inside a transaction"), "{shown}");
    shop.vote(APPROVERS[0], "deny", &ticket).unwrap().success().unwrap();
    let denied = talk.reply().unwrap();
    assert_eq!(code(&denied), "42501", "{denied:?}");
    assert!(denied.words().contains("waiting up to 15 s"), "{denied:?}");
    assert_eq!(code(&talk.ask("ROLLBACK").unwrap()), "none");
    talk.send("DELETE FROM orders WHERE id = 1").unwrap();
    let ticket = shop.pending().unwrap();
    shop.vote(APPROVERS[0], "deny", &ticket).unwrap().success().unwrap();
    let denied = talk.reply().unwrap();
    assert!(denied.words().contains("waiting up to 50 s"), "{denied:?}");
}
