//! Where agents may go: what nobody registered, what is registered and not read, this machine, metadata services.
//!
//! Real daemon, agents in their own cgroup, servers on another machine (a network namespace). Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use chaperone_tests::agent::Agent;
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::outside::Outside;
use chaperone_tests::{process, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const AGENT: &str = "worker";
/// Local account that may approve.
const APPROVER: &str = "backup";

/// Any connection of the agent, also without a token.
const PERMIT: &str = r#"
@id("anywhere")
permit (principal, action, resource);
@id("the-unidentified-too")
permit (principal == Unidentified::"worker", action, resource);
"#;

/// Answers each connection with what it got, in capitals, after the other side has ended; says when one begins and ends.
const ECHO: &str = r#"
import socket, sys, threading
def talk(c):
    print("begin", flush=True)
    try:
        got = b""
        while part := c.recv(65536): got += part
        c.sendall(got.upper()); c.close(); print("end", flush=True)
    except ConnectionResetError: print("reset", flush=True)
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
while True: threading.Thread(target=talk, args=(s.accept()[0],)).start()
"#;

/// What agents' programs begin with.
const HELPERS: &str = r#"
import errno, hashlib, os, socket, struct, sys, time
def name(problem): return errno.errorcode.get(problem.errno, str(problem)) if isinstance(problem, OSError) and problem.errno else type(problem).__name__
def say(address, port, word=b"hello"):
    try:
        s = socket.create_connection((address, int(port)), timeout=60)
        s.sendall(word)
        try: s.shutdown(socket.SHUT_WR)
        except OSError as problem:
            if problem.errno != errno.ENOTCONN: raise  # The reset came before it; reading says so.
        got = b""
        while part := s.recv(65536): got += part
        return got.decode() or "nothing"
    except OSError as problem: return name(problem)
"#;

struct World {
    daemon: Daemon,
    outside: Outside,
}

impl World {
    fn new(observe: bool, policy: &str, resources: impl Fn(&Outside) -> String) -> Result<Self> {
        let outside = Outside::new()?;
        let mut plan = Plan::default()
            .with(&format!("[[agent]]\nname = \"{AGENT}\"\n[[agent]]\nname = \"other\""))
            .with(&format!("[[approver]]\nname = \"person\"\nuser = \"{APPROVER}\"\ngroups = [\"security\"]"))
            .with(&resources(&outside))
            .policy("test.cedar", policy)
            .policy("columns.toml", "");
        plan.observe = observe;
        Ok(Self { daemon: Daemon::start(&plan)?, outside })
    }

    fn observing() -> Result<Self> {
        Self::new(true, PERMIT, |_| String::new())
    }

    /// What a program of the agent prints.
    fn says(&self, script: &str) -> Result<String> {
        let mut command = Agent::new(&self.daemon, AGENT).python(&format!("{HELPERS}\n{script}"), &[])?;
        Ok(process::run(&mut command, LIMIT)?.success()?.trim().to_owned())
    }

    fn asks(&self, address: IpAddr, port: u16) -> Result<String> {
        self.says(&format!("print(say('{address}', {port}))"))
    }

    fn records(&self, kind: &str) -> Result<Vec<Value>> {
        let text = self.daemon.cli(&["audit", "search", "--json", "--event", kind])?.success()?;
        text.lines().map(|line| serde_json::from_str(line).context("no record")).collect()
    }

    /// The records of one kind, once there are as many.
    fn recorded(&self, kind: &str, count: usize) -> Result<Vec<Value>> {
        wait::until("records", LIMIT, || {
            let records = self.records(kind)?;
            Ok((records.len() >= count).then_some(records))
        })
    }
}

fn opaque(name: &str, addresses: &str, more: &str) -> String {
    format!("[[resource]]\nname = \"{name}\"\nprotocol = \"opaque\"\naddresses = [\"{addresses}\"]\n{more}\n")
}

#[test]
fn what_nobody_registered_is_refused_by_default() {
    let mut world = World::new(false, PERMIT, |_| String::new()).unwrap();
    world.outside.serve(7001, ECHO).unwrap();
    assert_eq!(world.asks(world.outside.v4(), 7001).unwrap(), "ECONNRESET");
    let refused = world.recorded("connection_refused", 1).unwrap();
    assert_eq!(refused[0]["reason"], "no resource is registered at this address");
    assert!(world.records("request_decided").unwrap().is_empty(), "policy was asked");
}

#[test]
fn observing_permits_nothing_by_itself() {
    let policy = r#"@id("elsewhere") permit (principal == Unidentified::"worker", action, resource == Resource::"elsewhere");"#;
    let mut world = World::new(true, policy, |_| String::new()).unwrap();
    let log = world.outside.serve(7002, ECHO).unwrap();
    assert_eq!(world.asks(world.outside.v4(), 7002).unwrap(), "ECONNRESET");
    let decided = world.recorded("request_decided", 1).unwrap();
    assert_eq!(decided[0]["decision"]["verdict"], "deny");
    assert_eq!(decided[0]["resource"], "unregistered");
    assert_eq!(decided[0]["operation"]["destination"], format!("{}:7002", world.outside.v4()));
    assert_eq!(world.recorded("request_ended", 1).unwrap()[0]["outcome"], "denied");
    assert_eq!(std::fs::read_to_string(log).unwrap(), "", "the server was dialled");
}

#[test]
fn what_policy_permits_passes_and_is_recorded_once_before_and_once_after() {
    let mut world = World::observing().unwrap();
    world.outside.serve(7003, ECHO).unwrap();
    for address in [world.outside.v4(), world.outside.v6()] {
        assert_eq!(world.asks(address, 7003).unwrap(), "HELLO");
    }
    let (decided, ended) =
        (world.recorded("request_decided", 2).unwrap(), world.recorded("request_ended", 2).unwrap());
    assert_eq!((decided.len(), ended.len()), (2, 2));
    for (before, after) in decided.iter().zip(&ended) {
        assert_eq!(before["request"], after["request"]);
        assert!(before["seq"].as_u64() < after["seq"].as_u64());
        assert_eq!(before["decision"]["policies"], serde_json::json!(["anywhere", "the-unidentified-too"]));
        assert_eq!(before["operation"]["effects"], serde_json::json!(["connect"]));
        assert_eq!(after["outcome"], "forwarded");
        assert_eq!((&after["tally"]["sent"], &after["tally"]["bytes"]), (&5.into(), &5.into()));
    }
    let closed = world.recorded("session_closed", 2).unwrap();
    assert_eq!((&closed[0]["bytes_in"], &closed[0]["bytes_out"]), (&5.into(), &5.into()));
    assert!(world.daemon.cli(&["audit", "verify"]).unwrap().status.success());
}

#[test]
fn policy_sees_address_and_port() {
    let policy = r#"
@id("one-port-of-one-network")
permit (principal == Unidentified::"worker", action, resource in Label::"registered=no")
when { context has destination && context.destination.isInRange(ip("198.18.0.0/15")) && context has port && context.port == 7004 };
"#;
    let mut world = World::new(true, policy, |_| String::new()).unwrap();
    world.outside.serve(7004, ECHO).unwrap();
    world.outside.serve(7005, ECHO).unwrap();
    assert_eq!(world.asks(world.outside.v4(), 7004).unwrap(), "HELLO");
    assert_eq!(world.asks(world.outside.v4(), 7005).unwrap(), "ECONNRESET");
    assert_eq!(world.asks(world.outside.v6(), 7004).unwrap(), "ECONNRESET");
}

#[test]
fn a_hundred_megabytes_arrive_unchanged_in_both_directions() {
    let mut world = World::observing().unwrap();
    let sum = r#"
import hashlib, socket, sys
s = socket.create_server(("", int(sys.argv[1])))
while True:
    c, _ = s.accept(); h = hashlib.sha256(); parts = []
    while part := c.recv(1 << 20): h.update(part); parts.append(part)
    for part in parts: c.sendall(part)
    print(h.hexdigest(), flush=True); c.close()
"#;
    let log = world.outside.serve(7006, sum).unwrap();
    let script = format!(
        "import threading\n\
         s = socket.create_connection(('{}', 7006)); block = os.urandom(1 << 20); h = hashlib.sha256(); g = hashlib.sha256()\n\
         for n in range(100):\n\
         \x20   part = struct.pack('>I', n) + block[4:]; h.update(part); s.sendall(part)\n\
         s.shutdown(socket.SHUT_WR); size = 0\n\
         while part := s.recv(1 << 20): g.update(part); size += len(part)\n\
         print(size, h.hexdigest(), g.hexdigest())",
        world.outside.v4()
    );
    let printed = world.says(&script).unwrap();
    let words: Vec<&str> = printed.split(' ').collect();
    assert_eq!(words[0], (100 << 20).to_string());
    assert_eq!(words[1], words[2]);
    assert_eq!(world.outside.lines(&log, 1).unwrap()[0], words[1]);
    let ended = world.recorded("request_ended", 1).unwrap();
    assert_eq!(
        (&ended[0]["tally"]["sent"], &ended[0]["tally"]["bytes"]),
        (&(100 << 20).into(), &(100 << 20).into())
    );
}

#[test]
fn a_reset_is_passed_on_as_a_reset_in_both_directions() {
    let mut world = World::observing().unwrap();
    let log = world.outside.serve(7007, ECHO).unwrap();
    let rude = r#"
import socket, struct, sys
s = socket.create_server(("", int(sys.argv[1])))
while True:
    c, _ = s.accept(); c.recv(5); c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); c.close()
"#;
    world.outside.serve(7008, rude).unwrap();
    let go = world.daemon.dir().folder("go").unwrap().join("go");
    let script = format!(
        "{HELPERS}\ns = socket.create_connection(('{0}', 7007)); s.sendall(b'x')\n\
         while not os.path.exists('{1}'): time.sleep(0.05)\n\
         s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()\n\
         print(say('{0}', 7008))",
        world.outside.v4(),
        go.display()
    );
    let mut command = Agent::new(&world.daemon, AGENT).python(&script, &[]).unwrap();
    let agent = process::Running::start(&mut command).unwrap();
    // Reset before it was dialled, the server would hear of nothing.
    world.outside.lines(&log, 1).unwrap();
    std::fs::write(go, "").unwrap();
    assert_eq!(agent.finish(LIMIT).unwrap().success().unwrap().trim(), "ECONNRESET");
    assert_eq!(world.outside.lines(&log, 2).unwrap(), ["begin", "reset"]);
    let ended = world.recorded("request_ended", 2).unwrap();
    assert_eq!(ended[0]["outcome"], "cut");
    assert_eq!((&ended[1]["outcome"], &ended[1]["code"]), (&"failed".into(), &"ECONNRESET".into()));
}

#[test]
fn a_registered_resource_is_judged_by_its_own_policy_and_ends_when_it_is_idle() {
    let policy = r#"@id("echo-only") permit (principal == Unidentified::"worker", action, resource == Resource::"echo");"#;
    let echo = |outside: &Outside| opaque("echo", &format!("{}:7009", outside.v4()), "idle = \"1s\"");
    let mut world = World::new(false, policy, echo).unwrap();
    let log = world.outside.serve(7009, ECHO).unwrap();
    assert_eq!(world.asks(world.outside.v4(), 7009).unwrap(), "HELLO");
    let script = format!(
        "s = socket.create_connection(('{}', 7009)); began = time.time(); s.sendall(b'x'); s.settimeout(20)\n\
         try: s.recv(1)\n\
         except OSError as problem: print(name(problem), 0.9 < time.time() - began < 6)",
        world.outside.v4()
    );
    assert_eq!(world.says(&script).unwrap(), "ECONNRESET True");
    assert_eq!(world.outside.lines(&log, 4).unwrap(), ["begin", "end", "begin", "reset"]);
    let ended = world.recorded("request_ended", 2).unwrap();
    assert_eq!((&ended[0]["outcome"], &ended[1]["outcome"]), (&"forwarded".into(), &"cut".into()));
    assert!(
        world.recorded("session_closed", 2).unwrap()[1]["why"].as_str().unwrap().contains("nothing moved")
    );
}

#[test]
fn a_held_connection_waits_unconnected_until_a_person_agrees() {
    let policy = format!(
        "{PERMIT}\n@id(\"people-first\") @approvers(\"security\") @quorum(\"1\") @window(\"10m\")\n\
         forbid (principal, action == Action::\"runUnattended\", resource in Label::\"registered=no\");"
    );
    let mut world = World::new(true, &policy, |_| String::new()).unwrap();
    let log = world.outside.serve(7010, ECHO).unwrap();
    for (vote, answer) in [("approve", "HELLO"), ("deny", "ECONNRESET")] {
        let script = format!("{HELPERS}\nprint(say('{}', 7010))", world.outside.v4());
        let mut command = Agent::new(&world.daemon, AGENT).python(&script, &[]).unwrap();
        let waiting = process::Running::start(&mut command).unwrap();
        let ticket = pending(&world).unwrap();
        let before = std::fs::read_to_string(&log).unwrap().lines().count();
        assert_eq!(before, if vote == "approve" { 0 } else { 2 }, "it was dialled before anybody agreed");
        world.daemon.cli_as(APPROVER, &["approvals", vote, &ticket]).unwrap().success().unwrap();
        assert_eq!(waiting.finish(LIMIT).unwrap().success().unwrap().trim(), answer);
    }
    let outcomes: Vec<Value> =
        world.recorded("request_ended", 2).unwrap().iter().map(|one| one["outcome"].clone()).collect();
    assert_eq!(outcomes, ["forwarded", "denied"]);
}

#[test]
fn an_agent_that_leaves_while_its_connection_is_held_is_not_connected_later() {
    let policy = format!(
        "{PERMIT}\n@id(\"people-first\") @approvers(\"security\") @quorum(\"1\") @window(\"10m\")\n\
         forbid (principal, action == Action::\"runUnattended\", resource in Label::\"registered=no\");"
    );
    let mut world = World::new(true, &policy, |_| String::new()).unwrap();
    let log = world.outside.serve(7011, ECHO).unwrap();
    let script = format!(
        "s = socket.create_connection(('{}', 7011)); s.sendall(b'x'); time.sleep(1)\n\
         s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()",
        world.outside.v4()
    );
    world.says(&script).unwrap();
    assert_eq!(world.recorded("request_ended", 1).unwrap()[0]["outcome"], "cut");
    let ticket = pending(&world).unwrap();
    world.daemon.cli_as(APPROVER, &["approvals", "approve", &ticket]).unwrap().success().unwrap();
    assert_eq!(world.recorded("session_closed", 1).unwrap().len(), 1);
    assert_eq!(std::fs::read_to_string(log).unwrap(), "");
}

fn pending(world: &World) -> Result<String> {
    wait::until("a pending ticket", LIMIT, || {
        let text = world.daemon.cli(&["approvals", "list", "--json"])?.success()?;
        let list: Value = serde_json::from_str(&text)?;
        let first = list.as_array().and_then(|all| all.iter().find(|one| one["state"] == "pending"));
        Ok(first.and_then(|one| one["id"].as_str()).map(str::to_owned))
    })
}

#[test]
fn a_destination_out_of_reach_resets_once_and_then_gives_its_own_error_for_a_moment() {
    let world = World::observing().unwrap();
    let dead = world.outside.v4();
    let script = format!(
        "print(say('{dead}', 7012))\n\
         def dial(address, port):\n\
         \x20   try: socket.create_connection((address, port), timeout=30); return 'connected'\n\
         \x20   except OSError as problem: return name(problem)\n\
         print(dial('{dead}', 7012), dial('::ffff:{dead}', 7012), dial('{dead}', 7013))\n\
         time.sleep(2.5); print(dial('{dead}', 7012))",
    );
    assert_eq!(world.says(&script).unwrap(), "ECONNRESET\nECONNREFUSED ECONNREFUSED connected\nconnected");
    let first = world.recorded("request_ended", 3).unwrap();
    assert!(
        first.iter().all(|one| one["outcome"] == "failed"
            && one["code"] == "ECONNREFUSED"
            && one["fault"] == "server")
    );
    let denied = wait::until("a denial by the kernel", LIMIT, || {
        let denied = world.records("kernel_denied")?;
        Ok((!denied.is_empty()).then_some(denied))
    });
    assert_eq!(denied.unwrap()[0]["reason"], "unreachable");
    // Nobody else is told.
    let mut other = Agent::new(&world.daemon, "other");
    other = other.with_uid(65_533);
    world.says(&format!("say('{dead}', 7014)")).unwrap();
    let script = format!("{HELPERS}\nprint(say('{dead}', 7014))");
    let mut command = other.python(&script, &[]).unwrap();
    assert_eq!(process::run(&mut command, LIMIT).unwrap().success().unwrap().trim(), "ECONNRESET");
}

#[test]
fn a_denial_names_its_agent_also_when_it_is_read_after_the_process_is_gone() {
    let world = World::observing().unwrap();
    world.daemon.signal(Signal::SIGSTOP).unwrap();
    let send = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.7', 4242))";
    let said = world.says(&format!("try: {send}\nexcept OSError as problem: print(name(problem))"));
    world.daemon.signal(Signal::SIGCONT).unwrap();
    assert_eq!(said.unwrap(), "EPERM");
    let denied = world.recorded("kernel_denied", 1).unwrap();
    assert_eq!((denied[0]["reason"].as_str(), denied[0]["agent"].as_str()), (Some("datagram"), Some(AGENT)));
}

/// A server of this machine, on every address of it.
struct Local(process::Process, SocketAddr);

impl Local {
    fn serve(world: &World) -> Result<Self> {
        let port = chaperone_tests::ports::free()?;
        let file = world.daemon.dir().write("local.py", ECHO, 0o644)?;
        let log: PathBuf = world.daemon.dir().path().join("local.log");
        let mut command = std::process::Command::new("/usr/bin/python3");
        command.arg("-Bu").arg(file).arg(port.to_string());
        let mut server = process::Process::start("a local server", &mut command, &log, Signal::SIGTERM)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        server.wait_ready(LIMIT, || Ok(std::net::TcpStream::connect(address).is_ok().then_some(())))?;
        Ok(Self(server, address))
    }
}

#[test]
fn this_machine_is_never_observed() {
    let world = World::observing().unwrap();
    let Local(_server, address) = Local::serve(&world).unwrap();
    let port = address.port();
    let dialled = ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::ffff:127.0.0.1"].map(str::to_owned);
    let dialled: Vec<String> = dialled.into_iter().chain([world.outside.host().to_string()]).collect();
    for address in &dialled {
        let script = format!("print(say('{address}', {port}))");
        assert_eq!(world.says(&script).unwrap(), "ECONNRESET", "{address}");
    }
    let port: u16 = std::fs::read_to_string(world.daemon.config())
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("port = ").map(|port| port.parse().unwrap()))
        .unwrap();
    assert_eq!(world.says(&format!("print(say('127.0.0.1', {port}))")).unwrap(), "ECONNRESET");
    let closed = world.recorded("session_closed", dialled.len() + 1).unwrap();
    assert!(closed.iter().all(|one| one["why"].as_str().unwrap().contains("this machine")), "{closed:?}");
    assert!(world.records("request_decided").unwrap().is_empty());
}

#[test]
fn this_machine_is_reached_where_its_very_address_is_registered() {
    let port = chaperone_tests::ports::free().unwrap();
    let resources = |_: &Outside| {
        opaque("exact", &format!("127.0.0.1:{port}"), "")
            + &opaque("wide", &format!("127.0.0.2/31:{port}"), "")
    };
    let world = World::new(false, PERMIT, resources).unwrap();
    let file = world.daemon.dir().write("local.py", ECHO, 0o644).unwrap();
    let log = world.daemon.dir().path().join("local.log");
    let mut command = std::process::Command::new("/usr/bin/python3");
    command.arg("-Bu").arg(file).arg(port.to_string());
    let mut server = process::Process::start("a local server", &mut command, &log, Signal::SIGTERM).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    server.wait_ready(LIMIT, || Ok(std::net::TcpStream::connect(address).is_ok().then_some(()))).unwrap();
    assert_eq!(world.says(&format!("print(say('127.0.0.1', {port}))")).unwrap(), "HELLO");
    assert_eq!(world.says(&format!("print(say('127.0.0.2', {port}))")).unwrap(), "ECONNRESET");
}

#[test]
fn resolvers_are_refused_under_observation_and_reached_where_they_are_registered() {
    let registered = |outside: &Outside| opaque("own-resolver", &format!("{}:853", outside.v4()), "");
    let mut world = World::new(true, PERMIT, registered).unwrap();
    world.outside.serve(853, ECHO).unwrap();
    // By the port, by the address, and both however they are written; the same port is reached where it is a resource's.
    let v6 = world.outside.v6();
    for (address, port) in
        [(v6.to_string(), 853), ("1.1.1.1".to_owned(), 443), ("::ffff:9.9.9.9".to_owned(), 80)]
    {
        assert_eq!(world.says(&format!("print(say('{address}', {port}))")).unwrap(), "ECONNRESET");
    }
    assert_eq!(world.asks(world.outside.v4(), 853).unwrap(), "HELLO");
    let refused = world.recorded("connection_refused", 3).unwrap();
    assert_eq!(refused.len(), 3);
    assert!(refused.iter().all(|one| one["reason"].as_str().unwrap().contains("a resolver")), "{refused:?}");
}

#[test]
fn metadata_services_are_refused_under_a_wide_network_and_under_observation() {
    let wide = |_: &Outside| opaque("wide", "169.254.0.0/16:80", "");
    let world = World::new(true, PERMIT, wide).unwrap();
    for address in
        ["169.254.169.254", "::ffff:169.254.169.254", "168.63.129.16", "64:ff9b::a9fe:a9fe", "fd00:ec2::254"]
    {
        assert_eq!(world.says(&format!("print(say('{address}', 80))")).unwrap(), "ECONNRESET", "{address}");
    }
    let refused = world.recorded("connection_refused", 5).unwrap();
    assert!(refused.iter().all(|one| one["reason"].as_str().unwrap().contains("metadata")), "{refused:?}");
    assert!(world.records("request_decided").unwrap().is_empty());
}
