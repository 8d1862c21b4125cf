//! One agent in excess: it floods the kernel's reports and its tables. It is refused, and every other agent goes on.
//!
//! Real daemon, which is stopped for the time of the flood so that nothing drains what fills up. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test they serve"
)]

use std::time::Duration;

use chaperone_tests::agent::Agent;
use chaperone_tests::shop::{Setup, Shop};
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
    let told: u64 = wait::until("what the ring still held", LIMIT, || {
        let records = shop.records("kernel_denied")?;
        let counts = records.iter().filter(|one| one["reason"] == "datagram");
        let sum: u64 = counts.filter_map(|one| one["count"].as_u64()).sum();
        Ok((sum > 0).then_some(sum))
    })
    .unwrap();
    assert!(told < DENIALS, "nothing was lost: the flood was none");
}

#[test]
fn half_open_connections_in_thousands_hinder_nobody_once_the_daemon_answers_again() {
    let shop = Shop::open(&Setup::default()).unwrap();
    let mut other = shop.talk().unwrap();
    shop.daemon.signal(Signal::SIGSTOP).unwrap();
    let script = "import errno, os, resource, socket, time\n\
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n\
        held = []\n\
        for number in range(min(hard - 64, 9000)):\n\
        \x20   s = socket.socket(); s.setblocking(False)\n\
        \x20   s.connect_ex(('192.0.2.1', 1 + number)); held.append(s)\n\
        print(len(held), flush=True)\n\
        time.sleep(1)\n";
    let mut flood = shop.agent().command("/usr/bin/python3");
    let flood = chaperone_tests::process::run(flood.args(["-c", script]), LIMIT);
    shop.daemon.signal(Signal::SIGCONT).unwrap();
    let held: u64 = flood.unwrap().success().unwrap().trim().parse().unwrap();
    assert!(held > 900, "{held}");
    other.ask(ITEM).unwrap().cell().unwrap();
    wait::until("a new session", LIMIT, || Ok(shop.talk().ok())).unwrap().ask(ITEM).unwrap().cell().unwrap();
    // What never arrived is counted as unanswered, and what arrived is recorded: nothing is left in between.
    let report = wait::until("the kernel's counts and the record to agree", LIMIT, || {
        let seen = shop.daemon.cli(&["audit", "verify", "--kernel", "--json"])?;
        let report: Value = serde_json::from_str(seen.stdout.lines().last().unwrap_or_default())?;
        let kernel = report["kernel"]["accounts"][0]["kernel"].clone();
        let number = |name: &str| kernel[name].as_u64().unwrap_or_default();
        let settled = number("redirected") == number("delivered") + number("unanswered");
        Ok((seen.status.success() && settled).then_some(report))
    })
    .unwrap();
    assert!(report["kernel"]["accounts"][0]["kernel"]["redirected"].as_u64().unwrap() >= held, "{report}");
}

#[test]
fn an_agent_at_its_limit_of_connections_is_refused_and_recorded_while_another_is_served() {
    let other = "[[agent]]\nname = \"other\"\n[limits]\nconnections_per_agent = 8\n";
    let policy = "@id(\"all\") permit (principal, action, resource);";
    let shop = Shop::open(&Setup { agent: other.to_owned(), ..Setup::under(policy) }).unwrap();
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
