//! An agent that forks without end: it meets its own limit, and nobody else feels it.

use std::fs;
use std::path::PathBuf;

use chaperone::intercept::Tree;
use chaperone_tests::process::Running;
use chaperone_tests::wait;

use super::*;

/// Accounts that nobody has: what is limited where the controller is not at hand is the account.
const BOMBER: u32 = 61_841;
const OTHER: u32 = 61_842;
/// What the agent may have.
const MOST: usize = 48;
/// What the bomb makes if nothing stops it: the machine that tests must survive.
const FUSE: usize = 300;

/// Every process makes more, until a fuse of so many bytes in a pipe has burnt down. What could not be made is tried again.
const BOMB: &str = "
import time
near, far = os.pipe()
os.write(far, b'x' * FUSE); os.close(far)
while True:
    if not os.read(near, 1): time.sleep(1); continue
    while True:
        try: os.fork(); break
        except BlockingIOError: time.sleep(0.05)
";

/// The cgroup of the agent's one run.
fn run_of(daemon: &Daemon) -> Option<PathBuf> {
    let agent = Tree::find().unwrap().mount().join(daemon.parent()).join(AGENT);
    fs::read_dir(agent).ok()?.flatten().map(|entry| entry.path()).find(|path| path.is_dir())
}

fn processes(run: &Path) -> usize {
    fs::read_to_string(run.join("cgroup.procs")).unwrap_or_default().lines().count()
}

/// A bomb that has reached its limit. Dropping it kills every process of the run.
struct Bomb {
    run: PathBuf,
    running: Option<Running>,
}

impl Bomb {
    fn start(daemon: &Daemon) -> Self {
        let script = format!("{PRELUDE}\nFUSE = {FUSE}\n{BOMB}");
        let mut agent = Agent::new(daemon, AGENT).with_uid(BOMBER).command("/usr/bin/python3");
        let running = Running::start(agent.args(["-c", &script])).unwrap();
        let run = wait::until("the run", LIMIT, || Ok(run_of(daemon))).unwrap();
        let bomb = Self { run, running: Some(running) };
        // A limit that is off by more than the launcher's own would be none.
        wait::until("it to burn", LIMIT, || Ok((processes(&bomb.run) >= MOST - 2).then_some(()))).unwrap();
        bomb
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        let killed = fs::write(self.run.join("cgroup.kill"), "1");
        let ended = self.running.take().map(|running| running.finish(LIMIT));
        if killed.is_err() || !matches!(ended, Some(Ok(_))) {
            eprintln!("the bomb may still burn: {killed:?} {ended:?}");
        }
    }
}

#[test]
fn a_fork_bomb_meets_its_own_limit_and_others_go_on() {
    let agents = format!(
        "[[agent]]\nname = \"{AGENT}\"\nprocesses = {MOST}\n\n[[agent]]\nname = \"other\"\nprocesses = {MOST}"
    );
    let plan = Plan { jail: String::new(), ..Plan::default() };
    let daemon = Daemon::start(&plan.with(&agents)).unwrap();
    let bomb = Bomb::start(&daemon);
    for _ in 0..20 {
        let many = processes(&bomb.run);
        assert!(many <= MOST, "{many} processes");
        std::thread::sleep(Duration::from_millis(50));
    }
    let other = Agent::new(&daemon, "other").with_uid(OTHER);
    let said = other.run("/bin/sh", ["-c", "echo $(echo goes on | cat)"]).unwrap().success().unwrap();
    assert_eq!(said.trim(), "goes on");
    daemon.cli(&["status"]).unwrap().success().unwrap();
    daemon.cli(&["quarantine", AGENT, "--freeze"]).unwrap().success().unwrap();
    wait::until("it to stand still", LIMIT, || {
        let told = fs::read_to_string(bomb.run.join("cgroup.events"))?;
        Ok(told.contains("frozen 1").then_some(()))
    })
    .unwrap();
    let run = bomb.run.clone();
    drop(bomb);
    // The launcher ends first; the others are killed, and gone a moment later.
    wait::until("nothing of it to be left", LIMIT, || Ok((processes(&run) == 0).then_some(()))).unwrap();
}

#[test]
fn root_is_told_where_nothing_limits_its_processes() {
    let daemon = stage("");
    let mut command = daemon.command(&["run"]);
    command.args(["--agent", AGENT, "--", "/bin/sh", "-c", "cat /proc/self/cgroup"]).current_dir("/");
    let ran = process::run(&mut command, LIMIT).unwrap();
    let parent = Tree::find().unwrap().mount().join(daemon.parent());
    let controllers = fs::read_to_string(parent.join("cgroup.controllers")).unwrap();
    let at_hand = controllers.split_whitespace().any(|name| name == "pids");
    assert_eq!(ran.stderr.contains("nothing limits how many processes"), !at_hand, "{}", ran.both());
    ran.success().unwrap();
}
