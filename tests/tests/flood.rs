//! One agent in excess: it floods the kernel's reports and its tables. It is refused, and every other agent goes on.
//!
//! Real daemon, which is stopped for the time of the flood so that nothing drains what fills up. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test they serve"
)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::ensure;
use chaperone_tests::agent::Agent;
use chaperone_tests::shop::{AGENT, POLICY, Setup, Shop};
use chaperone_tests::talk::Talk;
use chaperone_tests::wait;
use nix::sys::signal::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const ITEM: &str = "SELECT item FROM orders WHERE id = 7";
/// More than the ring of reports holds: 256 KiB of 64 bytes each.
const DENIALS: u64 = 20_000;

fn denied(shop: &Shop, reason: &str) -> u64 {
    let status = shop.status().unwrap();
    let all = status["kernel_denied"].as_array().unwrap();
    all.iter().find(|pair| pair[0] == reason).and_then(|pair| pair[1].as_u64()).unwrap_or_default()
}

#[test]
fn a_flood_of_denials_loses_reports_and_never_a_denial() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let mut other = shop.talk().unwrap();
    let before = denied(&shop, "datagram");
    shop.daemon.signal(Signal::SIGSTOP).unwrap();
    let script = format!(
        "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\nthrough = 0\n\
         for number in range({DENIALS}):\n\
         \x20   try:\n\
         \x20       s.sendto(b'x', ('192.0.2.1', 9)); through += 1\n\
         \x20   except PermissionError:\n\
         \x20       pass\n\
         print(through)"
    );
    let mut flood = shop.agent().command("/usr/bin/python3");
    let flood = chaperone_tests::process::run(flood.args(["-c", &script]), LIMIT);
    shop.daemon.signal(Signal::SIGCONT).unwrap();
    assert_eq!(flood.unwrap().success().unwrap().trim(), "0", "a datagram got through");
    other.ask(ITEM).unwrap().cell().unwrap();
    shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
    assert_eq!(denied(&shop, "datagram").saturating_sub(before), DENIALS, "every denial is counted");
    let sum = |kind: &str, is_meant: fn(&Value) -> bool| -> anyhow::Result<u64> {
        let records = shop.records(kind)?;
        Ok(records.iter().filter(|one| is_meant(one)).filter_map(|one| one["count"].as_u64()).sum())
    };
    let (told, untold) = wait::until("a record of what the ring held and of what it did not", LIMIT, || {
        let told = sum("kernel_denied", |one| one["reason"] == "datagram")?;
        let untold = sum("denials_untold", |_| true)?;
        Ok((told + untold >= DENIALS).then_some((told, untold)))
    })
    .unwrap();
    assert!(told > 0 && told < DENIALS, "nothing was lost: the flood was none");
    assert_eq!(shop.status().unwrap()["kernel_untold"], untold);
}

/// An agent beside the one that floods.
const OTHER: &str = "second";

/// Eight processes of one agent open 9,000 connections each, to a daemon that does not accept. Prints how many were refused and
/// how many were not, and keeps those until the file is there that is named, or half a minute.
const HALF_OPEN: &str = "import os, resource, socket, sys, time\n\
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n\
    def flood():\n\
    \x20   held, refused, out = [], 0, os.dup(1)\n\
    \x20   for number in range(9000):\n\
    \x20       s = socket.socket(); s.setblocking(False)\n\
    \x20       if s.connect_ex(('192.0.2.1', 1 + number)) == 1: refused += 1\n\
    \x20       else: held.append(s)\n\
    \x20   os.write(out, b'%d %d\\n' % (refused, len(held)))\n\
    \x20   for number in range(1500):\n\
    \x20       if os.path.exists(sys.argv[1]): break\n\
    \x20       time.sleep(0.02)\n\
    \x20   os._exit(0)\n\
    children = []\n\
    for child in range(8):\n\
    \x20   pid = os.fork()\n\
    \x20   if pid == 0: flood()\n\
    \x20   children.append(pid)\n\
    for pid in children: os.waitpid(pid, 0)\n";

/// Where the accounts stand once the kernel's counts and the record agree and nothing is under way.
fn settled(shop: &Shop) -> Value {
    wait::until("the kernel's counts and the record to agree", LIMIT, || {
        let seen = shop.daemon.cli(&["audit", "verify", "--kernel", "--json"])?;
        let report: Value = serde_json::from_str(seen.stdout.lines().last().unwrap_or_default())?;
        let accounts = report["kernel"]["accounts"].as_array().cloned().unwrap_or_default();
        let settled = accounts.iter().all(|account| {
            let number = |name: &str| account["kernel"][name].as_u64().unwrap_or_default();
            number("redirected") == number("delivered") + number("unanswered")
        });
        Ok((seen.status.success() && settled).then_some(Value::Array(accounts)))
    })
    .unwrap()
}

#[test]
fn seventy_thousand_half_open_connections_end_at_the_agents_quota_and_hinder_no_other() {
    let second = format!("\n[[agent]]\nname = \"{OTHER}\"\n");
    let policy = format!(
        "{POLICY}\n@id(\"the-second-may-come\")\npermit (principal == Unidentified::\"{OTHER}\", action, resource in \
         Resource::\"shop-db\");\n"
    );
    let shop = Shop::open(&Setup { agent: second, ..Setup::under(&policy) }).unwrap();
    let mut open = shop.talk().unwrap();
    shop.daemon.signal(Signal::SIGSTOP).unwrap();
    let go = shop.daemon.dir().path().join("go");
    let mut flood = shop.agent().command("/usr/bin/python3");
    flood.args(["-c", HALF_OPEN]).arg(&go).stdout(Stdio::piped());
    let mut flood = flood.spawn().unwrap();
    let mut lines = BufReader::new(flood.stdout.take().unwrap()).lines();
    let (mut refused, mut held) = (0, 0);
    for _ in 0..8 {
        let line = lines.next().unwrap().unwrap();
        let (first, second) = line.split_once(' ').unwrap();
        refused += first.parse::<u64>().unwrap();
        held += second.parse::<u64>().unwrap();
    }
    // While the daemon does not accept and the quota is used up, another agent is not refused: it waits.
    let knock =
        "import socket\ns = socket.socket(); s.setblocking(False)\nprint(s.connect_ex(('192.0.2.1', 80)))";
    let other = Agent::new(&shop.daemon, OTHER).run("/usr/bin/python3", ["-c", knock]);
    shop.daemon.signal(Signal::SIGCONT).unwrap();
    let told = wait::until("word of the denials", LIMIT, || {
        let records = shop.records("kernel_denied")?;
        let of = |one: &Value| one["reason"] == "flow-quota" && one["agent"] == AGENT;
        ensure!(!records.iter().any(|one| one["agent"] == OTHER), "the other agent was denied something");
        Ok(records.into_iter().find(of))
    });
    std::fs::write(&go, "").unwrap();
    assert!(flood.wait().unwrap().success());
    told.unwrap();
    assert_eq!((refused + held, other.unwrap().success().unwrap().trim()), (72_000, "115"));
    assert!((4096..10_000).contains(&held), "{held} of 72,000 were let through");
    // One that found a place left and was overtaken on the way is reset later, and counted all the same.
    let counted = denied(&shop, "flow-quota");
    assert!((refused..=refused + held).contains(&counted), "{counted} counted, {refused} refused at once");
    open.ask(ITEM).unwrap().cell().unwrap();
    for name in [AGENT, OTHER] {
        let agent = Agent::new(&shop.daemon, name);
        let session = wait::until("a new session", LIMIT, || Ok(Talk::open(&agent, &shop.server).ok()));
        session.unwrap().ask(ITEM).unwrap().cell().unwrap();
    }
    // What never arrived is counted as unanswered, and what arrived is recorded: nothing is left in between.
    let accounts = settled(&shop);
    let most =
        accounts.as_array().unwrap().iter().filter_map(|one| one["kernel"]["redirected"].as_u64()).max();
    assert!(most.unwrap() >= held, "{accounts}");
}

#[test]
fn an_agent_at_its_limit_of_connections_is_refused_and_recorded_while_another_is_served() {
    let other = "[[agent]]\nname = \"other\"\n[limits]\nconnections_per_agent = 8\n";
    let policy = format!(
        "{POLICY}\n@id(\"the-other-may-come\")\npermit (principal == Unidentified::\"other\", action, resource);\n"
    );
    let shop = Shop::open(&Setup { agent: other.to_owned(), ..Setup::under(&policy) }).unwrap();
    let folder = format!("/proc/{}/fd", shop.daemon.pid().unwrap());
    let descriptors = || std::fs::read_dir(&folder).unwrap().count();
    let before = descriptors();
    let mut held: Vec<_> = (0..8).map(|_| shop.talk().unwrap()).collect();
    for one in &mut held {
        one.ask(ITEM).unwrap().cell().unwrap();
    }
    let each = descriptors().saturating_sub(before).div_ceil(held.len());
    assert!(each <= 4, "{each} descriptors for one connection");
    assert!(shop.talk().is_err(), "one more than the limit");
    let refused = wait::until("the refusal in the record", LIMIT, || {
        Ok(shop.records("connection_refused")?.into_iter().next())
    })
    .unwrap();
    assert_eq!(refused["reason"], "the agent has 8 connections open, which is its limit", "{refused}");
    assert!(refused["account"].as_u64().unwrap() > 0, "{refused}");
    let beside = Agent::new(&shop.daemon, "other");
    Talk::open(&beside, &shop.server).unwrap().ask(ITEM).unwrap().cell().unwrap();
    drop(held.pop());
    wait::until("a slot that was given up", LIMIT, || Ok(shop.talk().ok())).unwrap();
}
