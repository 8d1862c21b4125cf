//! Sudden ends: the daemon killed at any moment, the disk full. Nothing leaks, nothing passes without a record.
//!
//! Real daemon, real PostgreSQL. The moments of killing come from a fixed seed, in confirmed statements, so that a
//! failure can be repeated. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaperone::clock::Clock;
use chaperone::config::Config;
use chaperone::intercept;
use chaperone_tests::shop::{APPROVERS, Setup, Shop};
use chaperone_tests::talk::{Reply, Talk};
use chaperone_tests::{process, temp, wait};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);
const EMAIL: &str = "SELECT email FROM customers WHERE id = 7";
const CLEAR: &str = "customer7@mail.example";
const ITEM: &str = "SELECT item FROM orders WHERE id = 7";
const MARKS: &str =
    "CREATE TABLE marks (id integer PRIMARY KEY); GRANT SELECT, INSERT ON marks TO svc_reporter";

fn code(reply: &Reply) -> &str {
    reply.code.as_deref().unwrap_or("none")
}

/// Fails unless the kernel runs every program on the agents' parent.
fn require_guard(settings: &intercept::Settings) -> Result<usize> {
    let parent = intercept::Tree::find()?.open(&settings.parent)?;
    let programs = intercept::effective(settings, &parent)?;
    let off: Vec<_> = programs.iter().filter(|program| !program.effective).collect();
    ensure!(!programs.is_empty() && off.is_empty(), "not effective: {off:?}");
    Ok(programs.len())
}

#[test]
fn without_the_daemon_agents_reach_nothing_and_a_restart_serves_within_a_second_without_a_gap() {
    let mut shop = Shop::open(&Setup::default()).unwrap();
    let settings = Config::load(shop.daemon.config()).unwrap().intercept;
    let mut open = shop.talk().unwrap();
    let mut probe = Talk::probe(&shop.agent(), &shop.server).unwrap();
    assert_eq!(code(&probe.reply().unwrap()), "served");
    let (stop, looks) = (AtomicBool::new(false), AtomicU32::new(0));
    let took = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                require_guard(&settings)?;
                looks.fetch_add(1, Ordering::SeqCst);
                // The daemon needs the processor as well.
                std::thread::sleep(Duration::from_millis(2));
            }
            anyhow::Ok(())
        });
        let outcome = kill_and_restart(&mut shop, &mut open, &mut probe);
        stop.store(true, Ordering::SeqCst);
        watcher.join().unwrap().unwrap();
        outcome.unwrap()
    });
    let looks = looks.load(Ordering::SeqCst);
    println!("served again after {} ms; the guard was looked at {looks} times", took.as_millis());
    assert!(looks > 10, "the guard was looked at {looks} times only");
    assert!(took < Duration::from_secs(1), "the restart took {} ms", took.as_millis());
    probe.end_of_input();
    let seen = wait::until("the end of the attempts", LIMIT, || {
        let next = probe.reply()?;
        Ok((code(&next) == "end").then_some(next.message))
    })
    .unwrap();
    println!("what the agent saw: {seen}");
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let outcomes: BTreeSet<&str> = seen.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(outcomes, BTreeSet::from(["no-connection", "served"]), "an agent got elsewhere");
    shop.verify_record().unwrap();
}

/// Returns the time from the start of the new daemon to the first answer of its control socket.
fn kill_and_restart(shop: &mut Shop, open: &mut Talk, probe: &mut Talk) -> Result<Duration> {
    open.listen()?;
    shop.daemon.stop(Signal::SIGKILL)?;
    let cut = open.reply()?;
    ensure!(cut.closed && cut.rows.is_empty(), "an open session lives on: {cut:?}");
    let refused = probe.reply()?;
    ensure!(code(&refused) == "no-connection", "{refused:?}");
    let clock = Clock::system();
    let start = clock.instant();
    let hello = shop.hello()?;
    ensure!(code(&hello) == "no-connection", "an agent reached something: {hello:?}");
    ensure!(clock.instant().duration_since(start) < Duration::from_secs(10), "the refusal was not at once");
    let outside = shop.outsider(EMAIL)?.success()?;
    ensure!(outside.trim() == CLEAR, "an outsider was touched: {outside}");
    let start = clock.instant();
    shop.daemon.launch()?;
    let took = clock.instant().duration_since(start);
    shop.talk()?.ask(ITEM)?.cell()?;
    Ok(took)
}

/// A small file system, full on demand.
struct Disk {
    dir: temp::Dir,
}

impl Disk {
    fn mount() -> Result<Self> {
        let dir = temp::Dir::new("disk")?;
        let folder = dir.folder("small")?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs"]).arg(&folder);
        process::run(&mut mount, LIMIT)?.success().context("cannot mount a tmpfs")?;
        Ok(Self { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("small")
    }

    fn fill(&self) -> Result<PathBuf> {
        let path = self.path().join("ballast");
        let filled = std::fs::write(&path, vec![1_u8; 4 << 20]);
        ensure!(filled.is_err(), "the small disk took everything");
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        match process::run(Command::new("umount").arg(self.path()), LIMIT)
            .and_then(process::Finished::success)
        {
            Ok(_) => {}
            Err(error) => eprintln!("cannot unmount the small disk: {error:#}"),
        }
    }
}

fn insert(number: u32) -> String {
    format!("INSERT INTO marks VALUES ({number})")
}

#[test]
fn a_full_disk_stops_every_statement_with_effects_and_ends_in_a_gap_in_the_record() {
    let disk = Disk::mount().unwrap();
    let mut shop = Shop::prepare(&Setup::default()).unwrap();
    std::os::unix::fs::symlink(disk.path(), shop.daemon.state()).unwrap();
    shop.daemon.launch().unwrap();
    shop.server.query(MARKS).unwrap();
    let mut talk = shop.talk().unwrap();
    assert_eq!(code(&talk.ask(&insert(0)).unwrap()), "none");
    let ballast = disk.fill().unwrap();
    // The last page of the log still has some room.
    let mut served = 1;
    let refused = loop {
        let reply = talk.ask(&insert(served)).unwrap();
        if reply.code.is_some() {
            break reply;
        }
        served += 1;
        assert!(served < 50, "the full disk is not noticed");
    };
    assert_eq!(code(&refused), "53100", "{refused:?}");
    assert!(refused.message.contains("record"), "{refused:?}");
    assert!(!refused.closed);
    // The gap that stands for a refused statement is a smaller record: while the page has room for one, the log goes on
    // and refuses the next statement anew.
    let mut number = 100;
    wait::until("a record that takes nothing any more", LIMIT, || {
        for _ in 0..3 {
            number += 1;
            let reply = talk.ask(&insert(number))?;
            ensure!(code(&reply) == "53100", "{reply:?}");
        }
        let status = shop.daemon.cli(&["status"])?.success()?;
        let doctor = shop.daemon.cli(&["doctor"])?;
        let found = doctor.status.code() == Some(1) && doctor.stdout.contains("BAD   record");
        Ok((found && !status.contains("takes events")).then_some(()))
    })
    .unwrap();
    assert_eq!(shop.server.query("SELECT count(*) FROM marks").unwrap(), served.to_string());
    std::fs::remove_file(ballast).unwrap();
    wait::until("service after room was made", LIMIT, || {
        Ok(talk.ask(&insert(1000))?.code.is_none().then_some(()))
    })
    .unwrap();
    assert_eq!(shop.server.query("SELECT count(*) FROM marks").unwrap(), (served + 1).to_string());
    let gaps = shop.records("gap").unwrap();
    let refused: u64 = gaps.iter().filter_map(|gap| gap["refused"].as_u64()).sum();
    assert!(refused > u64::from(number - 100), "{gaps:?}");
    let status = shop.daemon.cli(&["status"]).unwrap().success().unwrap();
    assert!(status.contains("takes events"), "{status}");
    shop.verify_record().unwrap();
    drop(talk);
    shop.daemon.stop(Signal::SIGTERM).unwrap();
    drop(shop);
    assert!(Path::new(&disk.path()).is_dir());
}

/// A fixed sequence that looks random: Knuth's constants for a linear congruential generator.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[test]
fn whenever_the_daemon_is_killed_under_load_every_executed_write_has_its_record() {
    const ROUNDS: u32 = 10;
    let mut shop = Shop::open(&Setup::default()).unwrap();
    shop.server.query(MARKS).unwrap();
    let mut moments = Moments(20_260_131);
    for round in 0..ROUNDS {
        let confirmed = 1 + moments.next(120);
        let mut load = Talk::load(&shop.agent(), &shop.server, round * 100_000).unwrap();
        for _ in 0..confirmed {
            let reply = load.reply().unwrap();
            assert_eq!(reply.code, None, "round {round}: the load ended before the kill");
        }
        shop.daemon.stop(Signal::SIGKILL).unwrap();
        while code(&load.reply().unwrap()) != "end" {}
        shop.daemon.launch().unwrap();
        shop.verify_record().unwrap();
        shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
    }
    let recorded: BTreeSet<String> = shop
        .records("request_decided")
        .unwrap()
        .iter()
        .filter(|record| record["decision"]["verdict"] != "deny")
        .filter_map(|record| {
            record["statement"].as_str()?.strip_prefix("INSERT INTO marks VALUES (").map(str::to_owned)
        })
        .map(|rest| rest.trim_end_matches(')').to_owned())
        .collect();
    let executed: BTreeSet<String> =
        shop.server.query("SELECT id FROM marks").unwrap().lines().map(str::to_owned).collect();
    assert!(executed.len() > 100, "the load was too small: {}", executed.len());
    let unrecorded: Vec<_> = executed.difference(&recorded).collect();
    assert!(unrecorded.is_empty(), "executed without a record: {unrecorded:?}");
    println!("{} writes executed, {} recorded", executed.len(), recorded.len());
    assert_eq!(shop.records("daemon_started").unwrap().len(), 11);
}

#[test]
fn whenever_a_daemon_is_killed_while_it_starts_the_guard_holds_and_the_next_one_serves() {
    const ROUNDS: u32 = 10;
    let mut shop = Shop::open(&Setup::default()).unwrap();
    let settings = Config::load(shop.daemon.config()).unwrap().intercept;
    shop.daemon.stop(Signal::SIGKILL).unwrap();
    let mut moments = Moments(7);
    let log = shop.daemon.dir().path().join("short-lived.log");
    for round in 0..ROUNDS {
        let mut command = shop.daemon.command(&["daemon"]);
        let mut process =
            process::Process::start("a short-lived daemon", &mut command, &log, Signal::SIGKILL).unwrap();
        // Any moment of the start will do, so the time needs no reason.
        std::thread::sleep(Duration::from_millis(moments.next(150)));
        process.stop(Signal::SIGKILL, LIMIT).unwrap();
        require_guard(&settings).unwrap();
        let hello = shop.hello().unwrap();
        assert_eq!(code(&hello), "no-connection", "round {round}: {hello:?}");
    }
    assert_eq!(shop.outsider(EMAIL).unwrap().success().unwrap().trim(), CLEAR);
    shop.daemon.launch().unwrap();
    shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
    shop.verify_record().unwrap();
}

#[test]
fn a_ticket_outlives_a_killed_daemon_and_its_approval_releases_one_retry() {
    let mut shop = Shop::open(&Setup::default()).unwrap();
    let delete = "DELETE FROM orders WHERE id = 1000";
    let mut talk = shop.talk().unwrap();
    talk.send(delete).unwrap();
    let ticket = shop.pending().unwrap();
    shop.daemon.stop(Signal::SIGKILL).unwrap();
    assert!(talk.reply().unwrap().closed);
    shop.daemon.launch().unwrap();
    assert_eq!(shop.pending().unwrap(), ticket);
    shop.vote(APPROVERS[0], "approve", &ticket).unwrap().success().unwrap();
    assert_eq!(shop.server.query("SELECT count(*) FROM orders").unwrap(), "1000");
    let mut talk = shop.talk().unwrap();
    let released = talk.ask(delete).unwrap();
    assert_eq!(code(&released), "none", "{released:?}");
    assert_eq!(shop.server.query("SELECT count(*) FROM orders").unwrap(), "999");
    talk.send(delete).unwrap();
    let anew = shop.pending().unwrap();
    assert_ne!(anew, ticket, "an approval was used twice");
    assert!(talk.is_waiting().unwrap());
    shop.vote(APPROVERS[0], "deny", &anew).unwrap().success().unwrap();
    assert_eq!(code(&talk.reply().unwrap()), "42501");
    shop.verify_record().unwrap();
}
