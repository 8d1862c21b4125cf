//! Life and death of daemon and guard, with an agent that tries to get out all the time.
//!
//! Each test is a row of the table: something ends, hangs, changes or is taken away, and a witness on the far side of a cable
//! counts what arrives of the agent, which must be nothing. A sender without guard goes on all the while, so that a witness
//! that does not look is noticed. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test they serve"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Error;
use chaperone::clock::Clock;
use chaperone::intercept::Tree;
use chaperone_tests::agent::Agent;
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::process::{self, Process, Running};
use chaperone_tests::witness::{CONTROL, Counts, Field, TAGGED};
use chaperone_tests::{daemon, hand, ports, temp, wait};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);
/// An alarm is to come within this time.
const ALARM: Duration = Duration::from_secs(2);
/// Attempts that make a state last long enough to be seen: some seconds on a busy machine.
const MANY: u64 = 600;
const AGENT: &str = "worker";

/// Daemon, agent, witness.
struct Stage {
    // Dropped in this order.
    agent: Option<Running>,
    control: Option<Process>,
    guard: Option<Process>,
    counts: Counts,
    daemon: Daemon,
    field: Field,
}

impl Stage {
    /// With a daemon that holds the guard itself.
    fn open() -> Self {
        Self::with(false)
    }

    /// With a guard process that the daemon follows.
    fn guarded() -> Self {
        Self::with(true)
    }

    fn with(has_guard: bool) -> Self {
        let field = Field::open().unwrap();
        let mut plan = Plan::default().with(&format!("[[agent]]\nname = \"{AGENT}\"\n"));
        plan.prefix = field.prefix();
        let mut daemon = Daemon::prepare(&plan).unwrap();
        let guard = has_guard.then(|| daemon.start_guard().unwrap());
        daemon.launch().unwrap();
        let control = Some(field.control().unwrap());
        let (words, counts) = field.sender(TAGGED, 5).unwrap();
        let agent = Agent::new(&daemon, AGENT).start(&words[0], &words[1..]).unwrap();
        let stage = Self { agent: Some(agent), control, guard, counts, daemon, field };
        stage.lasts();
        stage
    }

    /// Lets the present state last, and fails if anything got out up to its end.
    fn lasts(&self) {
        self.counts.wait(MANY).unwrap();
        self.nothing_out();
    }

    fn nothing_out(&self) {
        self.field.wait_control().unwrap();
        let out = self.field.seen(TAGGED).unwrap();
        assert_eq!(out, 0, "packets of the agent got out; the daemon said:\n{}", self.daemon.log().unwrap());
        assert_eq!(self.field.strange().unwrap(), Vec::<String>::new());
    }

    /// The end of a row.
    fn end(mut self, what: &str) {
        self.lasts();
        let (tried, done) = self.counts.read().unwrap();
        let control = self.field.seen(CONTROL).unwrap();
        println!(
            "{what}: {tried} attempts, {done} of them redirected, 0 packets out; control {control} packets"
        );
        self.stop_agent();
    }

    fn stop_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.signal(Signal::SIGKILL).unwrap();
            agent.finish(LIMIT).unwrap();
        }
    }

    fn bpf(&self) -> PathBuf {
        self.daemon.dir().path().join("bpf")
    }

    fn pins(&self) -> PathBuf {
        self.bpf().join("chaperone")
    }

    fn effective(&self) -> bool {
        let text = self.daemon.cli(&["status", "--json"]).unwrap().success().unwrap();
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        let programs = status["programs"].as_array().unwrap().clone();
        !programs.is_empty() && programs.iter().all(|program| program["effective"] == true)
    }

    /// Waits for so many events of a kind.
    fn event(&self, kind: &str, many: usize) -> serde_json::Value {
        wait::until(kind, LIMIT, || {
            let seen = self.daemon.cli(&["audit", "search", "--json", "--event", kind])?.success()?;
            Ok(seen.lines().nth(many - 1).and_then(|line| serde_json::from_str(line).ok()))
        })
        .unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Also when a row fails: a sender must not outlive its guard.
        if let Some(agent) = self.agent.take()
            && agent.signal(Signal::SIGKILL).is_ok()
            && let Err(error) = agent.finish(LIMIT)
        {
            eprintln!("the agent stays: {error:#}");
        }
        self.control = None;
        self.guard = None;
    }
}

fn other_build(daemon: &Daemon) -> PathBuf {
    let path = daemon.dir().folder("other").unwrap().join("chaperone");
    daemon::other_build(daemon.program(), &path).unwrap();
    path
}

/// Generations that are pinned.
fn generations(pins: &Path) -> Vec<String> {
    let listed = fs::read_dir(pins).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    listed.filter(|name| !name.ends_with("-maps")).collect()
}

#[test]
fn a_daemon_that_is_killed_and_started_again_leaves_no_gap() {
    let mut stage = Stage::open();
    for _ in 0..3 {
        stage.daemon.stop(Signal::SIGKILL).unwrap();
        stage.lasts();
        stage.daemon.launch().unwrap();
        stage.lasts();
    }
    stage.end("killed and started");
}

#[test]
fn a_daemon_that_hangs_leaves_no_gap() {
    let mut stage = Stage::open();
    stage.daemon.signal(Signal::SIGSTOP).unwrap();
    stage.lasts();
    stage.daemon.stop(Signal::SIGKILL).unwrap();
    stage.daemon.launch().unwrap();
    stage.end("hung");
}

#[test]
fn a_restart_leaves_no_gap() {
    let mut stage = Stage::open();
    for _ in 0..3 {
        stage.daemon.stop(Signal::SIGTERM).unwrap();
        stage.daemon.launch().unwrap();
    }
    stage.end("restarted");
}

#[test]
fn an_upgrade_and_a_downgrade_leave_no_gap_and_one_generation() {
    let mut stage = Stage::open();
    let (old, new) = (stage.daemon.program().to_owned(), other_build(&stage.daemon));
    let first = generations(&stage.pins());
    for (program, signal) in [(&new, Signal::SIGTERM), (&old, Signal::SIGTERM), (&new, Signal::SIGKILL)] {
        stage.daemon.stop(signal).unwrap();
        stage.daemon.replace_program(program.clone());
        stage.daemon.launch().unwrap();
        assert_eq!(generations(&stage.pins()) == first, *program == old);
        assert_eq!(generations(&stage.pins()).len(), 1);
        assert!(stage.effective());
        stage.lasts();
    }
    stage.end("upgraded and downgraded");
}

#[test]
fn a_version_that_starts_while_another_runs_refuses_and_changes_nothing() {
    let stage = Stage::open();
    let new = other_build(&stage.daemon);
    let before = generations(&stage.pins());
    let refused = process::run(&mut stage.daemon.command_of(&new, &["daemon"]), LIMIT).unwrap();
    assert!(!refused.status.success() && refused.stderr.contains("another"), "{}", refused.both());
    assert_eq!(generations(&stage.pins()), before);
    assert!(stage.effective());
    stage.end("overlapped");
}

#[test]
fn a_change_of_the_tables_layout_leaves_no_gap_and_nothing_of_the_old() {
    let mut stage = Stage::open();
    stage.daemon.stop(Signal::SIGKILL).unwrap();
    // What a build of another layout left: the same objects under that layout's names.
    let aged = |name: &str| format!("v999-{}", name.split_once('-').unwrap().1);
    let pins = stage.pins();
    for entry in fs::read_dir(&pins).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        fs::rename(entry.path(), pins.join(aged(&name))).unwrap();
    }
    stage.lasts();
    stage.daemon.launch().unwrap();
    assert!(stage.effective());
    let left: Vec<_> = fs::read_dir(&pins).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("v999")), "{left:?}");
    stage.end("another layout");
}

#[test]
fn pins_whose_file_system_is_unmounted_leave_no_gap_while_the_daemon_lives() {
    let stage = Stage::open();
    hand::unmount(&stage.bpf()).unwrap();
    stage.event("guard_broken", 1);
    stage.nothing_out();
    hand::mount_bpf(&stage.bpf()).unwrap();
    stage.event("guard_mended", 1);
    stage.end("unmounted");
}

#[test]
fn each_program_that_root_detaches_is_back_in_time_and_nothing_gets_out_meanwhile() {
    let stage = Stage::open();
    let generation = stage.pins().join(&generations(&stage.pins())[0]);
    let mut names: Vec<_> = fs::read_dir(&generation)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() > 13, "{names:?}");
    let mut longest = Duration::ZERO;
    for (many, name) in names.iter().enumerate() {
        hand::detach(&generation.join(name)).unwrap();
        let since = Clock::system().now().0;
        let found = stage.event("guard_mended", many + 1);
        assert_eq!(found["missing"], serde_json::json!([name]));
        let took = Duration::from_millis(found["time"].as_u64().unwrap().saturating_sub(since));
        assert!(took < ALARM, "{name} was missed for {took:?}");
        longest = longest.max(took);
        stage.nothing_out();
    }
    println!("detached one by one: noticed after {longest:?} at most");
    stage.end("detached");
}

#[test]
fn an_agents_cgroup_that_is_made_anew_is_guarded_before_its_first_agent() {
    let mut stage = Stage::open();
    stage.stop_agent();
    let parent = Tree::find().unwrap().mount().join(stage.daemon.parent());
    wait::until("an empty cgroup", LIMIT, || Ok(hand::remove_cgroup(&parent).then_some(()))).unwrap();
    let (words, counts) = stage.field.sender(TAGGED, 5).unwrap();
    stage.counts = counts;
    // The launcher refuses until the new one is guarded.
    let started = wait::until("a guarded cgroup", LIMIT, || {
        let mut running = Agent::new(&stage.daemon, AGENT).start(&words[0], &words[1..])?;
        let alive = wait::until("a start or a refusal", LIMIT, || {
            let alive = running.is_alive()?;
            Ok((!alive || stage.counts.read()?.0 > 0).then_some(alive))
        })?;
        Ok(if alive { Some(running) } else { None })
    });
    stage.agent = Some(started.unwrap());
    stage.end("made anew");
}

#[test]
fn a_guard_process_keeps_the_guard_while_the_daemon_is_dead_and_its_pins_are_unmounted() {
    let mut stage = Stage::guarded();
    assert!(stage.effective());
    stage.daemon.stop(Signal::SIGKILL).unwrap();
    stage.lasts();
    hand::unmount(&stage.bpf()).unwrap();
    // The agents stand still within two looks, and nothing of theirs is out.
    let frozen = Tree::find().unwrap().mount().join(stage.daemon.parent()).join("cgroup.freeze");
    let is_frozen = |wanted: &str| Ok((fs::read_to_string(&frozen)?.trim() == wanted).then_some(()));
    let since = Clock::system().instant();
    wait::until("frozen agents", LIMIT, || is_frozen("1")).unwrap();
    let took = Clock::system().instant().duration_since(since);
    assert!(took < ALARM, "{took:?}");
    stage.nothing_out();
    hand::mount_bpf(&stage.bpf()).unwrap();
    wait::until("agents that go on", LIMIT, || is_frozen("0")).unwrap();
    stage.lasts();
    stage.daemon.launch().unwrap();
    assert!(stage.effective());
    println!("unmounted while dead: frozen after {took:?}");
    stage.end("unmounted while the daemon was dead");
}

#[test]
fn what_root_detaches_while_the_daemon_is_dead_is_back_in_time_and_recorded_when_it_returns() {
    let mut stage = Stage::guarded();
    stage.daemon.stop(Signal::SIGKILL).unwrap();
    let generation = stage.pins().join(&generations(&stage.pins())[0]);
    let log = stage.daemon.dir().path().join("guard.log");
    hand::detach(&generation.join("agent_egress")).unwrap();
    let since = Clock::system().instant();
    wait::until("an alarm", LIMIT, || {
        let said = fs::read_to_string(&log)?;
        Ok(said.contains("parts of the kernel guard were gone; they are back").then_some(()))
    })
    .unwrap();
    let took = Clock::system().instant().duration_since(since);
    assert!(took < ALARM, "{took:?}");
    stage.lasts();
    stage.daemon.launch().unwrap();
    let found = stage.event("guard_mended", 1);
    assert_eq!(found["missing"], serde_json::json!(["agent_egress"]));
    println!("detached while dead: alarm after {took:?}");
    stage.end("detached while the daemon was dead");
}

#[test]
fn a_guard_process_that_is_killed_leaves_no_gap_and_the_record_says_so_in_time() {
    let mut stage = Stage::guarded();
    for many in 1..=2 {
        let since = Clock::system().now().0;
        stage.guard.take().unwrap().stop(Signal::SIGKILL, LIMIT).unwrap();
        let found = stage.event("guard_broken", many);
        let took = Duration::from_millis(found["time"].as_u64().unwrap().saturating_sub(since));
        assert!(took < ALARM, "{took:?}");
        // The programs are attached, so the agents may go on.
        assert_eq!(found["frozen"], false);
        stage.lasts();
        stage.guard = Some(stage.daemon.start_guard().unwrap());
        stage.event("guard_mended", many);
        assert!(stage.effective());
        println!("guard killed: alarm after {took:?}");
    }
    stage.end("guard process killed");
}

#[test]
fn daemons_come_and_go_beside_a_guard_process() {
    let mut stage = Stage::guarded();
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM] {
        stage.daemon.stop(signal).unwrap();
        stage.daemon.launch().unwrap();
        assert!(stage.effective());
    }
    stage.end("daemons beside a guard process");
}

#[test]
fn a_guard_process_becomes_another_build_and_back_without_a_gap() {
    let stage = Stage::guarded();
    let (program, new) = (stage.daemon.program().to_owned(), other_build(&stage.daemon));
    let old = new.with_file_name("old");
    fs::copy(&program, &old).unwrap();
    let first = generations(&stage.pins());
    for (build, same) in [(&new, false), (&old, true)] {
        // As packages do it: a new file takes the name.
        fs::rename(build, &program).unwrap();
        stage.guard.as_ref().unwrap().signal(Signal::SIGHUP).unwrap();
        wait::until("one generation of the other build", LIMIT, || {
            let now = generations(&stage.pins());
            Ok((now.len() == 1 && (now == first) == same).then_some(()))
        })
        .unwrap();
        wait::until("the daemon to hear of it", LIMIT, || Ok(stage.effective().then_some(()))).unwrap();
        stage.lasts();
    }
    stage.end("guard process upgraded and downgraded");
}

/// A memory cgroup of a test's own, removed when dropped.
struct Memory(PathBuf);

impl Memory {
    fn open() -> Self {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mut places =
            fields.filter(|one| one[2] == "cgroup" && one[3].split(',').any(|option| option == "memory"));
        let mount =
            places.next().map_or_else(|| Tree::find().unwrap().mount().to_owned(), |one| one[1].into());
        let own = Self(mount.join(format!("chaperone-test-{}", temp::unique())));
        fs::create_dir(&own.0).unwrap();
        own
    }

    /// Takes a process in and gives it next to nothing.
    fn starve(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        let limit = ["memory.limit_in_bytes", "memory.max"].map(|name| self.0.join(name));
        fs::write(limit.iter().find(|file| file.exists()).unwrap(), (256 << 10).to_string()).unwrap();
    }

    /// How many processes the kernel killed for want of memory.
    fn killed(&self) -> String {
        let text = ["memory.oom_control", "memory.events"].map(|name| fs::read_to_string(self.0.join(name)));
        let text = text.into_iter().flatten().collect::<String>();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap_or("0").to_owned()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Err(error) = wait::until("an empty cgroup", LIMIT, || Ok(fs::remove_dir(&self.0).ok())) {
            eprintln!("`{}` stays: {error:#}", self.0.display());
        }
    }
}

#[test]
fn a_daemon_that_the_kernel_kills_for_want_of_memory_leaves_no_gap() {
    let mut stage = Stage::guarded();
    // A text of megabytes gets fresh memory each time; what a small one needs, the daemon has already.
    let padding = "// padding\n".repeat(300_000);
    fs::write(stage.daemon.policies().join("padding.cedar"), padding).unwrap();
    let memory = Memory::open();
    memory.starve(stage.daemon.pid().unwrap());
    wait::until("the kernel to kill it", LIMIT, || {
        // Reading policy again takes memory; to a process that is gone nothing can be sent.
        stage.daemon.signal(Signal::SIGHUP).or_else(|_gone| Ok::<(), Error>(()))?;
        Ok((memory.killed() != "0").then_some(()))
    })
    .unwrap();
    stage.daemon.stop(Signal::SIGKILL).unwrap();
    stage.lasts();
    fs::remove_file(stage.daemon.policies().join("padding.cedar")).unwrap();
    stage.daemon.launch().unwrap();
    assert!(stage.effective());
    stage.end("out of memory");
}

/// Fails unless what got out has come to an end, and says how much it was.
fn has_ended(stage: &Stage, what: &str) {
    // What got out may not have been counted yet.
    stage.field.wait_control().unwrap();
    let out = stage.field.seen(TAGGED).unwrap();
    stage.counts.wait(MANY).unwrap();
    stage.field.wait_control().unwrap();
    assert_eq!(stage.field.seen(TAGGED).unwrap(), out, "it goes on");
    println!("{what}: {out} packets out before it was closed again");
}

#[test]
fn root_who_detaches_everything_at_once_is_undone_in_time() {
    let stage = Stage::guarded();
    let generation = stage.pins().join(&generations(&stage.pins())[0]);
    let pins: Vec<_> = fs::read_dir(&generation).unwrap().flatten().map(|entry| entry.path()).collect();
    let since = Clock::system().now().0;
    hand::detach_all(&pins.iter().map(PathBuf::as_path).collect::<Vec<_>>()).unwrap();
    let found = stage.event("guard_mended", 1);
    let took = Duration::from_millis(found["time"].as_u64().unwrap().saturating_sub(since));
    assert!(took < ALARM, "{took:?}");
    assert!(stage.effective());
    has_ended(&stage, "everything detached at once");
    println!("everything detached at once: alarm after {took:?}");
}

#[test]
fn a_cgroup_that_somebody_makes_anew_and_fills_at_once_is_closed_in_time() {
    let mut stage = Stage::guarded();
    stage.stop_agent();
    let parent = Tree::find().unwrap().mount().join(stage.daemon.parent());
    let (words, counts) = stage.field.sender(TAGGED, 5).unwrap();
    stage.counts = counts;
    // Nobody asks whether it is guarded: neither the launcher nor the slice's unit is in the way.
    let fill = "until rmdir \"$0\"/*/* \"$0\"/* \"$0\" 2>/dev/null || [ ! -d \"$0\" ]; do :; done\n\
                mkdir -p \"$0\" && echo 0 >\"$0/cgroup.procs\" && exec \"$@\"";
    let mut command = Command::new("nsenter");
    command.args(&stage.field.prefix()[1..]).args(["sh", "-c", fill]).arg(&parent).args(&words);
    stage.agent = Some(Running::start(&mut command).unwrap());
    let found = stage.event("guard_mended", 1);
    println!("made anew and filled at once: {found}");
    has_ended(&stage, "made anew and filled at once");
    assert!(stage.effective());
}

#[test]
fn a_daemon_with_other_settings_is_not_served_until_the_guard_process_reads_them_too() {
    let mut stage = Stage::guarded();
    stage.daemon.stop(Signal::SIGTERM).unwrap();
    let text = fs::read_to_string(stage.daemon.config()).unwrap();
    let old = text.lines().find(|line| line.starts_with("port = ")).unwrap();
    fs::write(stage.daemon.config(), text.replace(old, &format!("port = {}", ports::free().unwrap())))
        .unwrap();
    let refused = stage.daemon.cli(&["daemon"]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.both());
    assert!(refused.stderr.contains("reload chaperone-guard"), "{}", refused.both());
    stage.lasts();
    stage.guard.as_ref().unwrap().signal(Signal::SIGHUP).unwrap();
    let log = stage.daemon.dir().path().join("guard.log");
    wait::until("a guard process that read again", LIMIT, || {
        Ok((fs::read_to_string(&log)?.matches("the guard is in place").count() == 2).then_some(()))
    })
    .unwrap();
    stage.daemon.launch().unwrap();
    assert!(stage.effective());
    stage.end("other settings");
}

#[test]
fn a_guard_process_that_dies_while_its_pins_are_unmounted_leaves_agents_that_stand_still() {
    let mut stage = Stage::guarded();
    hand::unmount(&stage.bpf()).unwrap();
    let frozen = Tree::find().unwrap().mount().join(stage.daemon.parent()).join("cgroup.freeze");
    let is_frozen = |wanted: &str| Ok((fs::read_to_string(&frozen)?.trim() == wanted).then_some(()));
    wait::until("frozen agents", LIMIT, || is_frozen("1")).unwrap();
    // Now nothing holds the programs.
    stage.guard.take().unwrap().stop(Signal::SIGKILL, LIMIT).unwrap();
    stage.nothing_out();
    hand::mount_bpf(&stage.bpf()).unwrap();
    stage.guard = Some(stage.daemon.start_guard().unwrap());
    // The tables are new ones, so the daemon ends, and is started again.
    wait::until("the daemon's end", LIMIT, || {
        let said = stage.daemon.log()?;
        Ok(said.contains("made the kernel's tables anew").then_some(()))
    })
    .unwrap();
    stage.daemon.stop(Signal::SIGTERM).unwrap();
    stage.daemon.launch().unwrap();
    assert!(stage.effective());
    wait::until("agents that go on", LIMIT, || is_frozen("0")).unwrap();
    stage.end("guard process killed while unmounted");
}
