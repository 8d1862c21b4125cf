//! The sockets of a quarantined agent are ended: what waits on one is told so within a second, and nobody else is.
//!
//! Real daemon, real sockets: of an agent of `chaperone run`, of one in a network namespace of its own, of another agent and of a
//! process that is none. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test they serve"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chaperone::abort;
use chaperone::clock::Clock;
use chaperone::intercept::Tree;
use chaperone_tests::agent::Agent;
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::process::{Process, Running};
use chaperone_tests::wait;

#[path = "namespaces/far.rs"]
mod far;

use far::Far;

const LIMIT: Duration = Duration::from_secs(60);
const POLICY: &str = "@id(\"echo\") permit (principal, action, resource);\n\
    @id(\"worker\") permit (principal == Unidentified::\"worker\", action, resource);\n\
    @id(\"other\") permit (principal == Unidentified::\"other\", action, resource);";

/// Connects, waits, and says what came and when, in milliseconds since 1970. Arguments: a folder, then address and port.
const WAITING: &str = r#"
import errno, os, socket, sys, threading, time
address = (sys.argv[2], int(sys.argv[3]))
def told(name, call):
    try: what = call()
    except OSError as problem: what = errno.errorcode.get(problem.errno, problem)
    os.write(1, f'{name} {what} {int(time.time() * 1000)}\n'.encode())  # In one piece: threads print at once.
def connected():
    for _ in range(2000):
        try:
            s = socket.create_connection(address, timeout=50)
            s.sendall(b'x')
            assert s.recv(1) == b'x'
            return s
        except PermissionError: time.sleep(0.005)
stream = connected()
server = socket.create_server(('127.0.0.1', 0))
near = socket.create_connection(server.getsockname())
datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagram.bind(('127.0.0.1', 0))
waits = [('stream', lambda: stream.recv(1)), ('server', lambda: server.accept()[0].recv(1)), ('near', lambda: near.recv(1)),
         ('datagram', lambda: datagram.recv(1))]
threads = [threading.Thread(target=told, args=one, daemon=True) for one in waits]
for one in threads: one.start()
time.sleep(0.3)
open(f'{sys.argv[1]}/{os.getpid()}', 'w').close()
for one in threads: one.join(40)
"#;

/// Connects, waits for a file, and says whether its connection still answers. Arguments: a folder, then address and port.
const GOING_ON: &str = r#"
import os, socket, sys, time
s = socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=30)
s.sendall(b'x'); assert s.recv(1) == b'x'
open(f'{sys.argv[1]}/{os.getpid()}', 'w').close()
while not os.path.exists(f'{sys.argv[1]}/go'): time.sleep(0.01)
s.sendall(b'y'); print(s.recv(1))
"#;

/// Daemon, perhaps a guard process, an echo.
struct Stage {
    // Dropped in this order.
    guard: Option<Process>,
    daemon: Daemon,
    far: Far,
}

impl Stage {
    fn open(has_guard: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = Far::new().unwrap();
        far.lead_to(listener.local_addr().unwrap());
        std::thread::spawn(move || echo(&listener));
        let resource = format!(
            "[[resource]]\nname = \"echo\"\nprotocol = \"opaque\"\naddresses = [\"{}\"]\n",
            far.address()
        );
        let plan = Plan::default()
            .with("[[agent]]\nname = \"worker\"\n\n[[agent]]\nname = \"other\"\n")
            .with(&resource)
            .policy("test.cedar", POLICY)
            .policy("columns.toml", "");
        let mut daemon = Daemon::prepare(&plan).unwrap();
        let guard = has_guard.then(|| daemon.start_guard().unwrap());
        daemon.launch().unwrap();
        let folder = daemon.dir().folder("ready").unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
        Self { guard, daemon, far }
    }

    fn arguments(&self) -> [String; 3] {
        let (folder, address) = (self.daemon.dir().path().join("ready"), self.far.address());
        [folder.display().to_string(), address.ip().to_string(), address.port().to_string()]
    }

    fn agent(&self, name: &str, script: &str) -> Running {
        let [folder, ip, port] = self.arguments();
        let mut command = Agent::new(&self.daemon, name).python(script, &[&folder, &ip, &port]).unwrap();
        Running::start(&mut command).unwrap()
    }

    /// As a container's runtime starts it: into the cgroup first, a network namespace of its own then.
    fn contained(&self, script: &str) -> Running {
        let place = Path::new(self.daemon.parent()).join("worker/box/inner");
        let cgroup = Tree::find().unwrap().create(&place).unwrap();
        let text = format!(
            "echo $$ > '{}/cgroup.procs' && exec unshare --net -- sh -c 'ip link set lo up && exec \"$@\"' sh \"$@\"",
            cgroup.path().display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &text, "sh", "/usr/bin/python3", "-c", script]).args(self.arguments());
        Running::start(&mut command).unwrap()
    }

    fn wait_ready(&self, many: usize, mut running: Vec<&mut Running>) {
        let folder = self.daemon.dir().path().join("ready");
        let ready = wait::until("all to wait", LIMIT, || {
            for one in &mut running {
                anyhow::ensure!(one.is_alive()?, "one has ended; the daemon said: {}", self.daemon.log()?);
            }
            Ok((fs::read_dir(&folder)?.count() >= many).then_some(()))
        });
        ready.unwrap();
    }
}

fn echo(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
    }
}

fn answers(mut stream: &TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"z").is_ok() && stream.read_exact(&mut byte).is_ok() && byte == *b"z"
}

/// What each call was told, and that it came within a second of the command's end.
fn told(running: Running, since: u64) -> Vec<(String, String)> {
    let printed = running.finish(LIMIT).unwrap().success().unwrap();
    let mut lines: Vec<(String, String)> = Vec::new();
    for line in printed.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let took = words[2].parse::<u64>().unwrap().saturating_sub(since);
        println!("{} {} after {took} ms", words[0], words[1]);
        assert!(took < 1000, "{line}");
        lines.push((words[0].to_owned(), words[1].to_owned()));
    }
    lines.sort();
    lines
}

/// The stream to the resource may have been reset by the daemon a moment before.
fn all_ended(seen: &[(String, String)]) -> bool {
    let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    let aborted =
        |(name, what): &(String, String)| what == "ECONNABORTED" || name == "stream" && what == "ECONNRESET";
    names == ["datagram", "near", "server", "stream"] && seen.iter().all(aborted)
}

fn quarantine_ends_waiting(stage: &Stage) {
    let outsider: SocketAddr = stage.far.address();
    let outsider = TcpStream::connect(outsider).unwrap();
    outsider.set_read_timeout(Some(LIMIT)).unwrap();
    assert!(answers(&outsider));
    let mut run = stage.agent("worker", WAITING);
    let mut contained = stage.contained(WAITING);
    let mut other = stage.agent("other", GOING_ON);
    stage.wait_ready(3, vec![&mut run, &mut contained, &mut other]);
    let begun = Clock::system().instant();
    let said = stage.daemon.cli(&["quarantine", "worker"]).unwrap().success().unwrap();
    let (took, since) = (Clock::system().instant().duration_since(begun), Clock::system().now().0);
    assert!(took < Duration::from_secs(10), "the command took {took:?}");
    println!("{}", said.trim());
    assert!(said.contains("2 sessions ended") && said.contains("sockets ended"), "{said}");
    for waiting in [run, contained] {
        let seen = told(waiting, since);
        assert!(all_ended(&seen), "{seen:?}");
    }
    assert!(answers(&outsider), "the connection of a process that is no agent was ended");
    stage.daemon.dir().write("ready/go", "", 0o644).unwrap();
    assert_eq!(other.finish(LIMIT).unwrap().success().unwrap().trim(), "b'y'", "another agent's was ended");
}

#[test]
fn calls_that_wait_are_told_within_a_second_in_containers_too_and_nobody_elses_are() {
    quarantine_ends_waiting(&Stage::open(false));
}

#[test]
fn a_guard_process_ends_them_for_its_daemon() {
    let stage = Stage::open(true);
    quarantine_ends_waiting(&stage);
    let log = stage.guard.as_ref().unwrap().log().unwrap();
    // A look that comes between may send the errand once more.
    assert!(
        log.matches("ended sockets of an agent").count() >= 2,
        "the host's namespace and the container's: {log}"
    );
}

#[test]
fn who_asks_the_guard_process_for_the_sockets_of_others_than_agents_gets_none() {
    let stage = Stage::open(true);
    let outsider = TcpStream::connect(stage.far.address()).unwrap();
    outsider.set_read_timeout(Some(LIMIT)).unwrap();
    let tree = Tree::find().unwrap();
    let own = tree.open(&tree.own().unwrap()).unwrap().id();
    let desk = stage.daemon.dir().path().join("run-guard/errands.sock");
    let count = abort::end_sockets(Path::new(stage.daemon.parent()), &[own].into(), &desk).unwrap();
    assert_eq!(count.ended, 0);
    assert!(answers(&outsider));
    let log = stage.guard.as_ref().unwrap().log().unwrap();
    assert!(log.contains("ended sockets of an agent"), "the errand did not arrive: {log}");
}

#[test]
fn status_says_whether_this_kernel_ends_sockets() {
    let stage = Stage::open(false);
    let text = stage.daemon.cli(&["status", "--json"]).unwrap().success().unwrap();
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let features = status["features"].as_array().unwrap();
    let feature = features.iter().find(|one| one["name"] == "sock_destroy").unwrap();
    assert_eq!(feature["effective"], true, "{feature}");
}
