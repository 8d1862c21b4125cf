//! What happens when somebody takes parts of the guard away, and whether the record is complete.
//!
//! Real daemon, real kernel programs; the hand that takes away is root's, by raw system calls. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test they serve"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chaperone::clock::Clock;
use chaperone::intercept::Tree;
use chaperone_tests::shop::{AGENT, Setup, Shop};
use chaperone_tests::{hand, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// An alarm is to come within this time (issue of the guard's life and death).
const ALARM: Duration = Duration::from_secs(2);
const ITEM: &str = "SELECT item FROM orders WHERE id = 7";

/// The pinned objects of this name: a link of one generation, or a table.
fn pin(shop: &Shop, name: &str) -> PathBuf {
    let folders = fs::read_dir(shop.daemon.dir().path().join("bpf/chaperone")).unwrap().flatten();
    let found = folders.map(|folder| folder.path().join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("`{name}` is not pinned"))
}

fn effective(shop: &Shop) -> bool {
    let programs = shop.status().unwrap()["programs"].clone();
    programs.as_array().unwrap().iter().all(|program| program["effective"] == true)
}

/// Milliseconds since the epoch, as the record counts them.
fn now() -> u64 {
    Clock::system().now().0
}

/// Waits for so many events of this kind; the newest, and how long after `since` the daemon wrote it.
fn alarm(shop: &Shop, kind: &str, many: usize, since: u64) -> (Duration, Value) {
    let found =
        wait::until(kind, LIMIT, || Ok(Some(shop.records(kind)?).filter(|found| found.len() >= many)))
            .unwrap();
    let newest = found[many - 1].clone();
    (Duration::from_millis(newest["time"].as_u64().unwrap().saturating_sub(since)), newest)
}

/// Removes a folder of pins, also while the daemon puts them back.
fn remove_tree(folder: &Path) {
    let gone = || Ok(fs::remove_dir_all(folder).is_ok().then_some(()));
    wait::until("pins that are gone", LIMIT, gone).unwrap();
}

#[test]
fn a_program_that_is_detached_is_back_within_two_seconds_and_the_record_says_which() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let mut talk = shop.talk().unwrap();
    for (many, name) in [(1, "agent_egress"), (2, "agent_connect4"), (3, "accepted")] {
        hand::detach(&pin(&shop, name)).unwrap();
        let since = now();
        let (took, found) = alarm(&shop, "guard_mended", many, since);
        assert!(took < ALARM, "{name} was missed for {took:?}");
        assert_eq!(found["missing"], serde_json::json!([name]));
        assert!(effective(&shop), "{name} is not back");
    }
    talk.ask(ITEM).unwrap().cell().unwrap();
    shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
}

#[test]
fn pins_that_are_unlinked_detach_nothing_and_are_back_within_two_seconds() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let mut talk = shop.talk().unwrap();
    let (link, table) = (pin(&shop, "agent_egress"), pin(&shop, "SOCKETS"));
    let generation = link.parent().unwrap().to_owned();
    remove_tree(&generation);
    remove_tree(table.parent().unwrap());
    let since = now();
    let (took, _) = alarm(&shop, "guard_mended", 1, since);
    assert!(took < ALARM, "{took:?}");
    // A look between the two removals mended the first alone.
    wait::until("both back", LIMIT, || Ok((link.exists() && table.exists()).then_some(()))).unwrap();
    assert!(effective(&shop));
    talk.ask(ITEM).unwrap().cell().unwrap();
    shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
}

#[test]
fn while_the_guard_cannot_be_mended_agents_are_frozen_and_nothing_is_detached() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let mut talk = shop.talk().unwrap();
    let mount = shop.daemon.dir().path().join("bpf");
    hand::unmount(&mount).unwrap();
    let since = now();
    let (took, found) = alarm(&shop, "guard_broken", 1, since);
    assert!(took < ALARM, "{took:?}");
    assert_eq!(found["frozen"], true);
    let parent = Tree::find().unwrap().mount().join(shop.daemon.parent());
    let frozen = || fs::read_to_string(parent.join("cgroup.freeze")).unwrap().trim() == "1";
    assert!(frozen());
    // Told to stand still is not yet standing still.
    let events = || fs::read_to_string(parent.join("cgroup.events")).unwrap();
    wait::until("agents that stand still", LIMIT, || Ok(events().contains("frozen 1").then_some(())))
        .unwrap();
    talk.send(ITEM).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(talk.is_waiting().unwrap(), "a frozen agent spoke");
    // As the mount was made.
    hand::mount_bpf(&mount).unwrap();
    alarm(&shop, "guard_mended", 1, since);
    wait::until("agents that go on", LIMIT, || Ok((!frozen()).then_some(()))).unwrap();
    talk.reply().unwrap().cell().unwrap();
    assert!(effective(&shop));
    let verified = shop.daemon.cli(&["audit", "verify", "--kernel"]).unwrap();
    assert!(verified.status.success(), "{}", verified.both());
}

#[test]
fn an_agents_cgroup_that_is_removed_and_made_anew_is_guarded_within_two_seconds() {
    let shop = Shop::open(&Setup::default()).unwrap();
    shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
    let parent = Tree::find().unwrap().mount().join(shop.daemon.parent());
    let removed = || {
        for folder in [parent.join("worker"), parent.clone()] {
            for run in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if run.path().is_dir() && fs::remove_dir(run.path()).is_err() {
                    return Ok(None);
                }
            }
        }
        Ok(fs::remove_dir(&parent).ok())
    };
    wait::until("an empty cgroup", LIMIT, removed).unwrap();
    let (took, _) = alarm(&shop, "guard_mended", 1, now());
    assert!(took < ALARM, "{took:?}");
    assert!(effective(&shop));
    shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
}

#[test]
fn the_guard_is_not_taken_away_while_a_daemon_or_an_agent_runs() {
    let mut shop = Shop::open(&Setup::default()).unwrap();
    let refused = shop.daemon.cli(&["uninstall", "--force"]).unwrap();
    assert!(
        !refused.status.success() && refused.stderr.contains("another daemon has it"),
        "{}",
        refused.both()
    );
    let sleeper = shop.agent().start("sleep", ["60"]).unwrap();
    wait::until("an agent that sleeps", LIMIT, || Ok(agents_processes(&shop).pop())).unwrap();
    shop.daemon.stop(Signal::SIGTERM).unwrap();
    let refused = shop.daemon.cli(&["uninstall"]).unwrap();
    let names = format!("agents run in it: `{AGENT}`;");
    assert!(!refused.status.success() && refused.stderr.contains(&names), "{}", refused.both());
    assert!(pin(&shop, "agent_egress").exists(), "a refused removal took the guard away");
    sleeper.signal(Signal::SIGKILL).unwrap();
    sleeper.finish(LIMIT).unwrap();
    wait::until("an empty cgroup", LIMIT, || {
        Ok(shop.daemon.cli(&["uninstall"])?.status.success().then_some(()))
    })
    .unwrap();
}

#[test]
fn a_denial_by_the_kernel_is_recorded_with_its_agent() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let script = "import socket, time\ntry:\n\
        \x20   socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))\n\
        except PermissionError:\n\x20   time.sleep(1)\n";
    shop.agent().run("/usr/bin/python3", ["-c", script]).unwrap().success().unwrap();
    let denied =
        wait::until("a recorded denial", LIMIT, || Ok(shop.records("kernel_denied")?.pop())).unwrap();
    assert_eq!((&denied["agent"], &denied["reason"]), (&"worker".into(), &"datagram".into()), "{denied}");
}

/// Processes in the agent's cgroups.
fn agents_processes(shop: &Shop) -> Vec<u32> {
    let parent = Tree::find().unwrap().open(Path::new(shop.daemon.parent())).unwrap();
    parent.at_child(AGENT).map(|account| account.processes()).unwrap_or_default()
}

#[test]
fn a_process_that_is_moved_out_of_its_agents_cgroup_is_recorded_once() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let sleeper = shop.agent().start("sleep", ["60"]).unwrap();
    let pid = wait::until("an agent", LIMIT, || Ok(agents_processes(&shop).first().copied())).unwrap();
    let tree = Tree::find().unwrap();
    let asleep = format!("/proc/{pid}/comm");
    wait::until("its command", LIMIT, || Ok((fs::read_to_string(&asleep)?.trim() == "sleep").then_some(())))
        .unwrap();
    // A look must have seen it where it belongs; within its account it may go where it likes.
    std::thread::sleep(Duration::from_millis(1500));
    let parent = tree.open(Path::new(shop.daemon.parent())).unwrap();
    parent.child(AGENT, "again").unwrap().admit(pid).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(shop.records("agent_left").unwrap().is_empty());
    let since = now();
    tree.open(&Tree::own(&tree).unwrap()).unwrap().admit(pid).unwrap();
    let (took, left) = alarm(&shop, "agent_left", 1, since);
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!((&left["account"], &left["pid"]), (&AGENT.into(), &pid.into()), "{left}");
    assert!(left["exe"].as_str().unwrap().ends_with("/sleep"), "{left}");
    // To another agent's cgroup is as bad, and a process that ends is not told at all.
    parent.child(AGENT, "again").unwrap().admit(pid).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    parent.child("other", "one").unwrap().admit(pid).unwrap();
    let (_, left) = alarm(&shop, "agent_left", 2, since);
    assert!(left["cgroup"].as_str().unwrap().ends_with("/other/one"), "{left}");
    std::thread::sleep(Duration::from_millis(1500));
    sleeper.signal(Signal::SIGKILL).unwrap();
    // A zombie for a look or two, and then gone.
    std::thread::sleep(Duration::from_millis(2500));
    sleeper.finish(LIMIT).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let left = shop.records("agent_left").unwrap();
    assert!(left.len() == 2 && left.iter().all(|one| one["others"] == 0), "{left:?}");
}

/// What `audit verify --kernel` says.
fn verified(shop: &Shop) -> (Option<i32>, Value) {
    let seen = shop.daemon.cli(&["audit", "verify", "--kernel", "--json"]).unwrap();
    let report = serde_json::from_str(seen.stdout.lines().last().unwrap_or_default());
    (seen.status.code(), report.unwrap_or_else(|_| panic!("{}", seen.both())))
}

#[test]
fn every_connection_that_the_kernel_delivered_is_recorded_whatever_became_of_it() {
    let mut shop = Shop::open(&Setup::default()).unwrap();
    let mut talk = shop.talk().unwrap();
    talk.ask(ITEM).unwrap().cell().unwrap();
    drop(shop.talk().unwrap());
    // No resource there; nothing said at all; gone before a word.
    let script = "import socket, time\n\
        for address in (('192.0.2.1', 80), ('192.0.2.1', 81)):\n\
        \x20   try: socket.create_connection(address).close()\n\
        \x20   except ConnectionResetError: pass\n";
    shop.agent().run("/usr/bin/python3", ["-c", script]).unwrap().success().unwrap();
    let silent = format!(
        "import socket, time\ns = socket.create_connection(('127.0.0.1', {}))\ntime.sleep(60)",
        shop.server.port()
    );
    let waiting = shop.agent().start("/usr/bin/python3", ["-c", silent.as_str()]).unwrap();
    let report = wait::until("a silent connection", LIMIT, || {
        let (code, report) = verified(&shop);
        assert_eq!((code, &report["kernel"]["complete"]), (Some(0), &true.into()), "{report}");
        let account = &report["kernel"]["accounts"][0];
        let seen = (account["in_hand"].as_u64(), account["refused"].as_u64());
        Ok((seen == (Some(1), Some(2))).then_some(report))
    })
    .unwrap();
    let account = &report["kernel"]["accounts"][0];
    assert_eq!(
        (&account["sessions"], &account["refused"], &account["in_hand"]),
        (&2.into(), &2.into(), &1.into())
    );
    assert_eq!(account["agent"], "worker");
    // An orderly end records what was in hand.
    waiting.signal(Signal::SIGKILL).unwrap();
    waiting.finish(LIMIT).unwrap();
    shop.daemon.stop(Signal::SIGTERM).unwrap();
    let (code, report) = verified(&shop);
    assert_eq!((code, &report["kernel"]["accounts"][0]["in_hand"]), (Some(0), &0.into()), "{report}");
    shop.daemon.launch().unwrap();
    assert_eq!(verified(&shop).0, Some(0));
}

#[test]
fn a_connection_that_is_in_no_record_is_named_with_its_agent() {
    let shop = Shop::open(&Setup::default()).unwrap();
    shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
    assert_eq!(verified(&shop).0, Some(0));
    hand::miscount(&pin(&shop, "ACCOUNTS")).unwrap();
    let (code, report) = verified(&shop);
    assert_eq!((code, &report["kernel"]["complete"]), (Some(1), &false.into()), "{report}");
    assert_eq!(report["kernel"]["accounts"][0]["difference"], serde_json::json!({ "missing": 1 }));
    let seen = shop.daemon.cli(&["audit", "verify", "--kernel"]).unwrap();
    assert!(seen.stdout.contains("BAD: worker (account "), "{}", seen.both());
}
