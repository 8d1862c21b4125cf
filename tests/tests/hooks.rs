//! What the daemon tells of the kernel's hooks: which are in effect, what they saw and denied, what stays open.
//!
//! Real daemon, real kernel programs; the agent is a unit's process, in the agents' cgroup and in no jail. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test they serve")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use chaperone::intercept::Tree;
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::postgres::{Options, Server, program_path};
use chaperone_tests::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
const UNIT: &str = "reporter.service";

/// A daemon and the cgroup of a unit that it knows as an agent.
struct Stage {
    daemon: Daemon,
    unit: PathBuf,
}

impl Stage {
    fn open(intercept: &str) -> Self {
        let mut plan =
            Plan::default().with(&format!("[[agent]]\nname = \"reporter\"\nmatch = {{ unit = \"{UNIT}\" }}"));
        plan.intercept = intercept.to_owned();
        let daemon = Daemon::start(&plan).unwrap();
        let unit = Tree::find().unwrap().mount().join(daemon.parent()).join(UNIT);
        fs::create_dir(&unit).unwrap();
        Self { daemon, unit }
    }

    /// A program as the unit's process.
    fn unit(&self, words: &[&str]) -> Command {
        let enter = format!("echo $$ > '{}/cgroup.procs' || exit 99; exec \"$@\"", self.unit.display());
        let mut command = Command::new("sh");
        command.args(["-c", &enter, "sh"]).args(words).current_dir("/");
        command
    }

    /// `psql` over the server's unix socket, under the account that may open it.
    fn psql(&self, server: &Server) -> Output {
        let (socket, port) = (server.socket(), server.port().to_string());
        let (psql, folder) = (program_path("psql"), socket.parent().unwrap());
        let words =
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", psql.to_str().unwrap()];
        let rest =
            ["-XAtw", "-h", folder.to_str().unwrap(), "-p", &port, "-d", "postgres", "-c", "SELECT 41 + 1"];
        self.unit(&[&words[..], &rest[..]].concat()).output().unwrap()
    }

    fn records(&self, kind: &str) -> Vec<Value> {
        let found = self.daemon.cli(&["audit", "search", "--json"]).unwrap();
        let lines = found.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|record| record["event"] == kind).collect()
    }

    /// Waits for a record of this kind about unix sockets under this key.
    fn record(&self, kind: &str, key: &str, word: &str) -> Value {
        wait::until("a record", LIMIT, || Ok(self.records(kind).into_iter().find(|one| one[key] == word)))
            .unwrap()
    }
}

#[test]
fn a_unit_that_goes_to_postgres_by_its_unix_socket_is_denied_and_recorded() {
    let server = Server::start(&Options::default()).unwrap();
    let stage = Stage::open("");
    let seen = stage.psql(&server);
    let told = String::from_utf8_lossy(&seen.stderr).into_owned();
    assert!(!seen.status.success() && told.contains("Operation not permitted"), "{told}");
    let record = stage.record("kernel_denied", "reason", "unix-socket");
    let account = nix::unistd::User::from_name("postgres").unwrap().unwrap().uid.as_raw();
    assert_eq!((&record["uid"], record["pid"].as_u64() > Some(0)), (&account.into(), true), "{record}");
}

#[test]
fn where_unix_sockets_are_audited_it_gets_its_answer_and_the_record_shows_it() {
    let server = Server::start(&Options::default()).unwrap();
    let stage = Stage::open("unix_sockets = \"audited\"");
    let seen = stage.psql(&server);
    assert_eq!(
        String::from_utf8_lossy(&seen.stdout).trim(),
        "42",
        "{}",
        String::from_utf8_lossy(&seen.stderr)
    );
    let record = stage.record("kernel_saw", "what", "unix-socket-seen");
    assert!(record["pid"].as_u64() > Some(0) && record["cgroup_id"].as_u64() > Some(0), "{record}");
    assert!(stage.records("kernel_denied").is_empty());
}

#[test]
fn status_and_the_record_tell_which_optional_programs_the_kernel_took() {
    let stage = Stage::open("");
    let status: Value =
        serde_json::from_str(&stage.daemon.cli(&["status", "--json"]).unwrap().stdout).unwrap();
    let features = status["features"].as_array().unwrap();
    let recorded = stage.record("daemon_started", "event", "daemon_started")["features"].clone();
    assert!(!features.is_empty());
    for feature in features {
        let (name, refused) = (feature["name"].as_str().unwrap(), feature["refused"].as_str());
        assert_eq!(recorded[name], refused.unwrap_or("in effect"), "{name}");
        let listed = status["programs"].as_array().unwrap().iter().any(|one| one["name"] == name);
        // Ending sockets is the kernel's own, and no program.
        let is_program = name != "sock_destroy";
        assert_eq!(
            (feature["effective"] == true, listed),
            (refused.is_none(), is_program && refused.is_none()),
            "{name}"
        );
    }
    let told = |name: &str| features.iter().find(|one| one["name"] == name).unwrap()["effective"] == true;
    assert!(told("agent_ingress") && told("agent_unixconn") && told("agent_unixsend"), "{features:?}");
}

/// A process of the unit that lives until it is dropped.
struct Living(Child);

impl Drop for Living {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What `doctor` says of agents, once the process that was started is the one asked for.
fn doctor(stage: &Stage, words: &[&str]) -> (Option<i32>, String) {
    let child = stage.unit(&[words, &["sleep", "30"]].concat()).stdout(Stdio::null()).spawn().unwrap();
    let name = format!("/proc/{}/comm", child.id());
    let living = Living(child);
    wait::until("the unit's process", LIMIT, || {
        Ok((fs::read_to_string(&name).unwrap_or_default().trim() == "sleep").then_some(()))
    })
    .unwrap();
    let found = stage.daemon.cli(&["doctor"]).unwrap();
    drop(living);
    let mut lines =
        found.stdout.lines().skip_while(|line| !(line.contains(UNIT) && line.contains(" agent ")));
    let told = [lines.next(), lines.next()].map(Option::unwrap_or_default).join("\n");
    (found.status.code(), told)
}

#[test]
fn doctor_names_what_a_running_agent_keeps_and_how_to_take_it_away() {
    let stage = Stage::open("");
    let (code, told) = doctor(&stage, &[]);
    assert_eq!(code, Some(1));
    for word in
        ["BAD   agent", "CAP_NET_RAW", "CAP_SYS_ADMIN", "runs as root", "no seccomp", "`User=`", "run --uid"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    ];
    let (_, told) = doctor(&stage, &nobody);
    assert!(told.starts_with("note  agent") && told.contains("no seccomp filter"), "{told}");
    assert!(!told.contains("CAP_") && !told.contains("root"), "{told}");
}

#[test]
fn doctor_finds_nothing_open_in_an_agent_that_was_launched() {
    let stage = Stage::open("");
    let mut run = stage.daemon.command(&["run"]);
    run.args(["--agent", "reporter", "--uid", "65534", "--", "/bin/sleep", "30"]);
    let living = Living(run.stdout(Stdio::null()).spawn().unwrap());
    let name = format!("/proc/{}/comm", living.0.id());
    wait::until("the agent", LIMIT, || {
        Ok((fs::read_to_string(&name).unwrap_or_default().trim() == "sleep").then_some(()))
    })
    .unwrap();
    let told = stage.daemon.cli(&["doctor"]).unwrap().stdout;
    let line = told.lines().find(|line| line.contains("agent          reporter:")).unwrap_or_default();
    assert!(line.starts_with("good"), "{told}");
}
