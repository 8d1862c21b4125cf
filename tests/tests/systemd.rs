//! The shipped units under a real systemd: boot, ready, reload, watchdog, kill, upgrade, stop.
//!
//! Drop-ins say where program, log and credential are, and nothing else: the hardening is what ships. Real PostgreSQL for what is
//! served, the witness of `life.rs` for what must not get out. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test they serve")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use chaperone::clock::Clock;
use chaperone_tests::agent::dsn;
use chaperone_tests::postgres::{Options, Server, program_path};
use chaperone_tests::process::{self, Process};
use chaperone_tests::shop::{AGENT, POLICY, RESOURCE};
use chaperone_tests::systemd::{STAGE, Systemd, packaged};
use chaperone_tests::witness::{CONTROL, Field, SEND, TAGGED};
use chaperone_tests::{daemon, hand, ports, sample, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

#[path = "namespaces/far.rs"]
mod far;

use far::Far;

const LIMIT: Duration = Duration::from_secs(60);
const CONFIG: &str = "/etc/chaperone/chaperone.toml";
const ITEM: &str = "SELECT item FROM orders WHERE id = 7";
const DAEMON: &str = "chaperone.service";
const GUARD: &str = "chaperone-guard.service";
const GUARDED: &str = "chaperone-guarded.service";
const WORKER: &str = "worker.service";
/// Attempts of the sender that make a state last.
const MANY: u64 = 300;

type Files = Vec<(String, String)>;

/// The shipped units, where the program is, and a configuration.
fn files(resource: &str, more: &[(&str, &str)]) -> Files {
    let drop_in = |name: &str| {
        format!(
            "[Service]\nExecStart=\nExecStart={STAGE}/bin/chaperone {name} --config {CONFIG}\n\
             StandardError=append:{STAGE}/{log}.log\n",
            log = name.split(' ').next().unwrap(),
        )
    };
    let config = format!(
        "state_dir = \"/var/lib/chaperone\"\nruntime_dir = \"/run/chaperone\"\n\
         policy_dir = \"/etc/chaperone/policies\"\ndefault = \"deny\"\n\n\
         [intercept]\nparent = \"{{slice}}/agents.slice\"\nport = {port}\n\
         pin_dir = \"/sys/fs/bpf/chaperone\"\nsentinel = false\n\n[dns]\nport = {dns}\n\n\
         [[agent]]\nname = \"{AGENT}\"\nmatch = {{ unit = \"{WORKER}\" }}\n\n{resource}",
        port = ports::free().unwrap(),
        dns = ports::free_block().unwrap(),
    );
    let credential = format!("[Service]\nLoadCredential={RESOURCE}:/etc/chaperone/password\n");
    let mut files = vec![
        ("units/chaperone.service.d/stage.conf", drop_in("daemon --follow")),
        ("units/chaperone.service.d/credential.conf", credential),
        ("units/chaperone-guard.service.d/stage.conf", drop_in("guard")),
        ("units/chaperone-guarded.service.d/stage.conf", drop_in("guard --check")),
        ("etc/chaperone/chaperone.toml", config),
        ("etc/chaperone/password", sample::PASSWORD.to_owned()),
        ("etc/chaperone/policies/test.cedar", POLICY.to_owned()),
        ("etc/chaperone/policies/columns.toml", sample::columns_toml(RESOURCE)),
        ("bin/send.py", SEND.to_owned()),
    ];
    files.extend(more.iter().map(|(path, text)| (*path, (*text).to_owned())));
    let mut files: Files = files.into_iter().map(|(path, text)| (path.to_owned(), text)).collect();
    for unit in [DAEMON, GUARD, GUARDED, "agents.slice"] {
        files.push((format!("units/{unit}"), packaged(unit).unwrap()));
    }
    files
}

/// A unit of an agent that asks the database once.
fn asking(server: &Server) -> String {
    format!(
        "[Service]\nType=oneshot\nSlice=agents.slice\nUser=nobody\nStandardOutput=append:{STAGE}/agent.out\n\
         StandardError=append:{STAGE}/agent.err\nExecStart={psql} -XAtw -d \"{dsn}\" -c \"{ITEM}\"\n",
        psql = program_path("psql").display(),
        dsn = dsn(server),
    )
}

/// A unit of an agent that tries to get out all the time, and is there from the start.
fn sending(wants: &str) -> [(&'static str, String); 2] {
    let unit = format!(
        "[Unit]\n{wants}\n[Service]\nSlice=agents.slice\nUser=nobody\nRuntimeDirectory=worker\n\
         ExecStart=/usr/bin/python3 -B {STAGE}/bin/send.py {TAGGED} 5 /run/worker/counts\n"
    );
    [
        ("units/worker.service", unit),
        ("units/stage.target.d/worker.conf", "[Unit]\nWants=worker.service\n".to_owned()),
    ]
}

/// Systemd with an agent that sends, and the witness.
struct Stage {
    // Dropped in this order.
    control: Option<Process>,
    systemd: Systemd,
    field: Field,
}

impl Stage {
    fn boot(more: &[(&str, &str)]) -> Self {
        let stage = Self::with("Wants=chaperone.service", more);
        stage.wait_for(DAEMON);
        stage.lasts();
        stage
    }

    /// With a worker's unit that wants this.
    fn with(wants: &str, more: &[(&str, &str)]) -> Self {
        let field = Field::open().unwrap();
        let control = Some(field.control().unwrap());
        let sending = sending(wants);
        let mut all: Vec<(&str, &str)> = sending.iter().map(|(path, text)| (*path, text.as_str())).collect();
        all.extend(more);
        let systemd = Systemd::boot_after(&field.prefix(), &files("", &all)).unwrap();
        let stage = Self { control, systemd, field };
        stage.wait_for(WORKER);
        stage.lasts();
        stage
    }

    fn wait_for(&self, unit: &str) {
        let active = self.systemd.wait(unit, "active");
        active.unwrap_or_else(|error| fail(&format!("{error:#}\n{}", self.told())));
    }

    fn told(&self) -> String {
        let read = |file| fs::read_to_string(self.systemd.dir().path().join(file)).unwrap_or_default();
        format!("guard:\n{}\ndaemon:\n{}", read("guard.log"), read("daemon.log"))
    }

    fn attempts(&self) -> u64 {
        let text = self.systemd.read("/run/worker/counts");
        text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Lets the present state last, and fails if anything got out up to its end.
    fn lasts(&self) {
        let before = self.attempts();
        let more =
            wait::until("more attempts", LIMIT, || Ok((self.attempts() >= before + MANY).then_some(())));
        more.unwrap_or_else(|error| {
            fail(&format!("{error:#}\n{}\n{}", self.systemd.status(WORKER), self.told()))
        });
        self.nothing_out();
    }

    fn nothing_out(&self) {
        self.field.wait_control().unwrap();
        assert_eq!(self.field.seen(TAGGED).unwrap(), 0, "packets of the agent got out\n{}", self.told());
        assert_eq!(self.field.strange().unwrap(), Vec::<String>::new());
    }

    fn number(&self, unit: &str, property: &str) -> u64 {
        self.systemd.property(unit, property).unwrap().parse().unwrap()
    }

    fn signal(&self, unit: &str, signal: Signal) {
        let pid = self.systemd.main_pid(unit).unwrap();
        // Nought would be this very process's group.
        assert!(pid > 0, "{unit} has no process");
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Signals a unit so that it ends, and waits until it was started again and is up.
    fn ends(&self, unit: &str, signal: Signal) {
        let before = self.number(unit, "NRestarts");
        self.signal(unit, signal);
        wait::until("a restart", LIMIT, || Ok((self.number(unit, "NRestarts") > before).then_some(())))
            .unwrap();
        self.systemd.wait(unit, "active").unwrap();
    }

    fn whole(&self) -> bool {
        let mut command =
            self.systemd.command(&[&format!("{STAGE}/bin/chaperone"), "status", "--config", CONFIG]);
        let told = process::run(&mut command, LIMIT).unwrap().stdout;
        let line =
            told.lines().find_map(|line| line.strip_prefix("guard     ")).unwrap_or_default().to_owned();
        let (good, rest) = line.split_once(" of ").unwrap_or_default();
        !good.is_empty() && rest.split_once(' ').is_some_and(|(all, _)| all == good)
    }

    fn end(mut self, what: &str) {
        let control = self.field.seen(CONTROL).unwrap();
        println!("{what}: {} attempts, 0 packets out; control {control} packets", self.attempts());
        self.control = None;
    }
}

fn fail(why: &str) -> ! {
    panic!("{why}")
}

#[test]
fn the_shipped_units_serve_an_agents_unit_and_reload() {
    let server = Server::start(&Options::default()).unwrap();
    let credential = format!("/run/credentials/{DAEMON}/{RESOURCE}");
    let resource = server.resource(RESOURCE, credential.as_ref());
    let agent = asking(&server);
    let systemd = Systemd::boot(&files(&resource, &[("units/worker.service", &agent)])).unwrap();
    let told = |file: &str| fs::read_to_string(systemd.dir().path().join(file)).unwrap_or_default();
    let cli = |words: &[&str]| {
        let mut command = systemd.command(&[&format!("{STAGE}/bin/chaperone")]);
        process::run(command.args(words).args(["--config", CONFIG]), LIMIT).unwrap()
    };
    let records = |kind: &str| -> Vec<Value> {
        let text = cli(&["audit", "search", "--json", "--event", kind]).success().unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let started = systemd.systemctl(&["start", DAEMON]).unwrap();
    assert!(
        started.status.success(),
        "{}\n{}\n{}",
        systemd.status(DAEMON),
        told("guard.log"),
        told("daemon.log")
    );
    assert_eq!(systemd.property(DAEMON, "StatusText").unwrap(), "guarding agents");
    assert!(told("daemon.log").contains("the guard is held by its own process"), "{}", told("daemon.log"));
    let ran = systemd.systemctl(&["start", WORKER]).unwrap();
    assert!(ran.status.success(), "{}{}{}", systemd.status(WORKER), told("agent.err"), told("daemon.log"));
    assert_eq!(told("agent.out").trim(), server.query(ITEM).unwrap());
    let opened = records("session_opened");
    assert_eq!(opened.len(), 1);
    systemd.systemctl(&["reload", DAEMON]).unwrap().success().unwrap();
    wait::until("policy to be read again", LIMIT, || Ok((records("policy_loaded").len() == 1).then_some(())))
        .unwrap();
    let verified = cli(&["audit", "verify", "--kernel"]);
    assert!(verified.status.success(), "{}", verified.both());
    let quarantined = cli(&["quarantine", AGENT, "--freeze"]);
    assert!(
        quarantined.status.success() && quarantined.stdout.contains("sockets ended"),
        "{}\n{}",
        quarantined.both(),
        told("daemon.log")
    );
    let doctor = cli(&["doctor"]);
    assert!(doctor.stdout.contains("programs at the agents' cgroup are effective"), "{}", doctor.both());
    systemd.systemctl(&["stop", DAEMON]).unwrap().success().unwrap();
    assert_eq!(systemd.property(DAEMON, "Result").unwrap(), "success");
}

/// In a network of its own: reaches what is registered, not what is not, and then waits. Arguments: address, its port, another.
const LONELY: &str = r#"
import errno, socket, sys, time
def name(problem): return errno.errorcode.get(problem.errno, str(problem))
def connected(port):
    end = time.monotonic() + 20
    while True:
        try: return socket.create_connection((sys.argv[1], int(port)), timeout=60)
        except PermissionError:
            if time.monotonic() > end: raise
            time.sleep(0.01)
print('devices', *(device for _, device in socket.if_nameindex()), flush=True)
one = connected(sys.argv[2]); one.sendall(b'x'); print('registered', one.recv(1), flush=True)
try: other = connected(sys.argv[3]); other.sendall(b'x'); print('another', other.recv(1), flush=True)
except OSError as problem: print('another', name(problem), flush=True)
try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], 9)); print('datagram out', flush=True)
except OSError as problem: print('datagram', name(problem), flush=True)
server = socket.create_server(('127.0.0.1', 0))
near = socket.create_connection(server.getsockname())
print('waits', flush=True)
try: near.recv(1)
except OSError as problem: print('ended', name(problem), flush=True)
"#;

#[test]
fn a_unit_with_a_network_of_its_own_is_served_and_its_sockets_end_with_the_rights_that_ship() {
    let (listener, far) = (TcpListener::bind("127.0.0.1:0").unwrap(), Far::new().unwrap());
    far.lead_to(listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        }
    });
    let (ip, port) = (far.address().ip(), far.address().port());
    // Somebody listens there too: who gets an answer went past the daemon.
    let unregistered = TcpListener::bind((ip, 0)).unwrap();
    let resource =
        format!("[[resource]]\nname = \"echo\"\nprotocol = \"opaque\"\naddresses = [\"{ip}:{port}\"]\n");
    let unit = format!(
        "[Unit]\nWants=chaperone.service\nAfter=chaperone.service\n[Service]\nSlice=agents.slice\nUser=nobody\n\
         PrivateNetwork=yes\nStandardOutput=append:{STAGE}/agent.out\nStandardError=append:{STAGE}/agent.out\n\
         ExecStart=/usr/bin/python3 -B {STAGE}/bin/lonely.py {ip} {port} {}\n",
        unregistered.local_addr().unwrap().port()
    );
    let policy = "@id(\"echo\") permit (principal == Unidentified::\"worker\", action, resource == Resource::\"echo\");";
    let more = [
        ("units/worker.service", unit.as_str()),
        ("bin/lonely.py", LONELY),
        ("etc/chaperone/policies/echo.cedar", policy),
    ];
    let systemd = Systemd::boot(&files(&resource, &more)).unwrap();
    let told = |file: &str| fs::read_to_string(systemd.dir().path().join(file)).unwrap_or_default();
    let cli = |words: &[&str]| {
        let mut command = systemd.command(&[&format!("{STAGE}/bin/chaperone")]);
        process::run(command.args(words).args(["--config", CONFIG]), LIMIT).unwrap().success().unwrap()
    };
    systemd.systemctl(&["start", DAEMON, WORKER]).unwrap().success().unwrap();
    let waits =
        wait::until("the unit to wait", LIMIT, || Ok(told("agent.out").contains("waits").then_some(())));
    waits.unwrap_or_else(|error| {
        fail(&format!("{error:#}\n{}\n{}", told("agent.out"), told("daemon.log")));
    });
    let said = cli(&["quarantine", AGENT]);
    let ended =
        wait::until("its call to end", LIMIT, || Ok(told("agent.out").contains("ended").then_some(())));
    ended.unwrap_or_else(|error| fail(&format!("{error:#}\n{said}\n{}", told("daemon.log"))));
    assert!(said.contains("sockets ended"), "{said}");
    assert_eq!(
        told("agent.out").lines().collect::<Vec<_>>(),
        [
            "devices lo",
            "registered b'x'",
            "another ECONNRESET",
            "datagram EPERM",
            "waits",
            "ended ECONNABORTED"
        ]
    );
    assert!(told("guard.log").contains("ended sockets of an agent"), "{}", told("guard.log"));
    let opened = cli(&["audit", "search", "--json", "--event", "session_opened"]);
    assert_eq!(opened.lines().count(), 1, "{opened}");
    let opened: Value = serde_json::from_str(&opened).unwrap();
    assert!(opened["evidence"]["netns"].is_u64(), "{opened}");
    unregistered.set_nonblocking(true).unwrap();
    assert!(unregistered.accept().is_err(), "something reached what nobody registered");
}

#[test]
fn at_boot_and_whenever_the_slice_starts_again_the_guard_is_there_before_the_agents() {
    // No daemon at all, and a guard that takes its time: an agent that does not wait for it gets out.
    let late = "[Service]\nExecStartPre=/bin/sleep 1\n";
    let stage = Stage::with("", &[("units/chaperone-guard.service.d/late.conf", late)]);
    let in_order = || {
        let guard = stage.number(GUARDED, "ActiveEnterTimestampMonotonic");
        let agent = stage.number(WORKER, "ExecMainStartTimestampMonotonic");
        assert!(guard > 0 && guard < agent, "guard at {guard}, agent at {agent}");
    };
    in_order();
    let slice = stage.systemd.cgroup().join("agents.slice");
    for _ in 0..3 {
        stage.systemd.systemctl(&["stop", "agents.slice"]).unwrap().success().unwrap();
        wait::until(
            "no cgroup",
            LIMIT,
            || Ok((!slice.exists() || hand::remove_cgroup(&slice)).then_some(())),
        )
        .unwrap();
        stage.systemd.systemctl(&["start", WORKER]).unwrap().success().unwrap();
        in_order();
        stage.lasts();
    }
    stage.end("slice started anew");
}

#[test]
fn a_daemon_that_dies_is_started_again_however_often_and_one_that_hangs_is_killed() {
    let stage = Stage::boot(&[("units/chaperone.service.d/watchdog.conf", "[Service]\nWatchdogSec=2s\n")]);
    for _ in 0..7 {
        stage.ends(DAEMON, Signal::SIGKILL);
    }
    stage.lasts();
    let clock = Clock::system();
    let since = clock.instant();
    stage.ends(DAEMON, Signal::SIGSTOP);
    println!("hung: back after {:?}", clock.instant().duration_since(since));
    assert!(stage.whole(), "{}", stage.told());
    stage.lasts();
    stage.end("daemon killed seven times, hung once");
}

#[test]
fn a_guard_process_that_dies_hangs_or_is_reloaded_leaves_no_gap() {
    let stage =
        Stage::boot(&[("units/chaperone-guard.service.d/watchdog.conf", "[Service]\nWatchdogSec=2s\n")]);
    for _ in 0..7 {
        stage.ends(GUARD, Signal::SIGKILL);
    }
    stage.lasts();
    stage.ends(GUARD, Signal::SIGSTOP);
    stage.lasts();
    let pid = stage.systemd.main_pid(GUARD).unwrap();
    let log = stage.systemd.dir().path().join("guard.log");
    let placed = || fs::read_to_string(&log).map(|told| told.matches("the guard is in place").count());
    let before = placed().unwrap();
    stage.systemd.systemctl(&["reload", GUARD]).unwrap().success().unwrap();
    wait::until("a new guard", LIMIT, || Ok((placed()? > before).then_some(()))).unwrap();
    wait::until("the daemon to follow again", LIMIT, || Ok(stage.whole().then_some(()))).unwrap();
    assert_eq!(stage.systemd.main_pid(GUARD).unwrap(), pid);
    assert_eq!(stage.systemd.property(WORKER, "NRestarts").unwrap(), "0");
    stage.lasts();
    stage.end("guard process killed seven times, hung once, reloaded");
}

#[test]
fn an_upgrade_and_a_downgrade_as_packages_do_them_leave_no_gap() {
    let stage = Stage::boot(&[]);
    let program = stage.systemd.dir().path().join("bin/chaperone");
    let (old, new) = (program.with_file_name("old"), program.with_file_name("new"));
    fs::copy(&program, &old).unwrap();
    daemon::other_build(&program, &new).unwrap();
    // Pins of one object have one name.
    let generations = || {
        let listed =
            process::run(&mut stage.systemd.command(&["ls", "/sys/fs/bpf/chaperone"]), LIMIT).unwrap();
        let names = listed.stdout.lines().filter(|name| !name.ends_with("-maps")).map(str::to_owned);
        names.collect::<Vec<_>>()
    };
    let first = generations();
    assert_eq!(first.len(), 1);
    let worker = stage.systemd.main_pid(WORKER).unwrap();
    for (build, is_first) in [(&new, false), (&old, true)] {
        let daemon = stage.systemd.main_pid(DAEMON).unwrap();
        fs::rename(build, &program).unwrap();
        stage.systemd.systemctl(&["reload", GUARD]).unwrap().success().unwrap();
        wait::until("one generation of the other build", LIMIT, || {
            let now = generations();
            Ok((now.len() == 1 && (now == first) == is_first).then_some(()))
        })
        .unwrap();
        stage.lasts();
        stage.systemd.systemctl(&["restart", DAEMON]).unwrap().success().unwrap();
        assert_ne!(stage.systemd.main_pid(DAEMON).unwrap(), daemon);
        wait::until("the daemon to follow", LIMIT, || Ok(stage.whole().then_some(()))).unwrap();
        stage.lasts();
    }
    assert_eq!(stage.systemd.main_pid(WORKER).unwrap(), worker, "the agent did not live through it");
    stage.end("upgraded and downgraded");
}

#[test]
fn at_shutdown_agents_stop_first_and_the_guard_last() {
    // What a reboot starts, without the reboot.
    let down = "[Unit]\nDefaultDependencies=no\nRequires=shutdown.target\nAfter=shutdown.target\n";
    let noting = [WORKER, DAEMON, GUARD].map(|unit| {
        let note = format!("[Service]\nExecStopPost=+/bin/sh -c 'echo {unit} >>{STAGE}/ended'\n");
        (format!("units/{unit}.d/note.conf"), note)
    });
    let mut more: Vec<_> = noting.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    more.push(("units/down.target", down));
    let stage = Stage::boot(&more);
    stage.systemd.systemctl(&["start", "--no-block", "down.target"]).unwrap().success().unwrap();
    stage.systemd.wait(GUARD, "inactive").unwrap();
    stage.nothing_out();
    let ended = fs::read_to_string(stage.systemd.dir().path().join("ended")).unwrap();
    assert_eq!(ended.lines().collect::<Vec<_>>(), [WORKER, DAEMON, GUARD]);
    stage.end("shut down");
}
