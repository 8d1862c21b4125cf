//! The kernel guard on a real kernel: what is redirected, what is refused, what stays out.
//!
//! Needs root. Each test makes its own cgroup tree and its own bpf file system and removes both, also when it
//! fails. The hostile side is python3 inside the agents' cgroup. One test at a time: the guard moves this
//! process between cgroups. INVARIANT: nothing here talks to an address that a packet could reach; the
//! documentation ranges stand for the outside, and every test of them expects that no packet leaves.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::tests_outside_test_module,
    reason = "a test stops where it fails, and this file holds nothing else"
)]

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use chaperone::intercept::{
    Cgroup, Connection, Guard, Ingress, InterceptError, Listener, Reason, SecurityHooks, Sentinel, Settings,
    Tree, UnixSockets, effective, uninstall,
};
use chaperone_tests::ports;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[path = "intercept/accounts.rs"]
mod accounts;
#[path = "intercept/foreign.rs"]
mod foreign;
#[path = "intercept/full.rs"]
mod full;
#[path = "intercept/inbound.rs"]
mod inbound;
#[path = "intercept/launch.rs"]
mod launch;
#[path = "intercept/listeners.rs"]
mod listeners;
#[path = "intercept/local.rs"]
mod local;
#[path = "intercept/names.rs"]
mod names;
#[path = "intercept/namespaces.rs"]
mod namespaces;
#[path = "intercept/security.rs"]
mod security;
#[path = "intercept/sentinel.rs"]
mod sentinel;
#[path = "intercept/sources.rs"]
mod sources;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const PATIENCE: Duration = Duration::from_secs(20);

/// A guarded world of its own.
struct World {
    guard: Option<Guard>,
    settings: Settings,
    bpffs: PathBuf,
    home: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    fn new() -> Self {
        Self::with(Sentinel::Off)
    }

    fn with(sentinel: Sentinel) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        assert!(nix::unistd::Uid::effective().is_root(), "these tests need root");
        let tree = Tree::find().unwrap();
        let home = tree.own().unwrap();
        let number =
            u32::from_ne_bytes(fs::read("/proc/sys/kernel/random/uuid").unwrap()[..4].try_into().unwrap());
        let name = format!("chaperone-test-{}-{number:x}", std::process::id());
        let bpffs = std::env::temp_dir().join(&name);
        fs::create_dir(&bpffs).unwrap();
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&bpffs).status().unwrap();
        assert!(mounted.success(), "could not mount a bpf file system");
        let settings = Settings {
            parent: name.into(),
            pin_dir: bpffs.join("pins"),
            port: ports::free().unwrap(),
            dns_port: Some(ports::free_block().unwrap()),
            sentinel,
            unix_sockets: UnixSockets::DeniedUnlessRoot,
            ingress: Ingress::Closed,
            security_hooks: SecurityHooks::On,
        };
        let mut world = Self { guard: None, settings, bpffs, home, _turn: turn };
        world.install();
        world
    }

    fn install(&mut self) {
        self.guard = Some(Guard::install(&self.settings).unwrap());
    }

    fn guard(&self) -> &Guard {
        self.guard.as_ref().unwrap()
    }

    fn port(&self) -> u16 {
        self.settings.port
    }

    fn listen(&self) -> Listener {
        self.guard().listen().unwrap()
    }

    fn agent_cgroup(&self) -> Cgroup {
        Tree::find().unwrap().create(&self.settings.parent.join("reporter").join("1")).unwrap()
    }

    /// Starts python in the agent's cgroup; `PORT` is the proxy's port there.
    fn agent(&self, script: &str) -> Child {
        self.python(script, Some(&self.agent_cgroup()))
    }

    fn python(&self, script: &str, cgroup: Option<&Cgroup>) -> Child {
        let enter = cgroup
            .map(|cgroup| format!("echo $$ > '{}/cgroup.procs' || exit 99; ", cgroup.path().display()))
            .unwrap_or_default();
        let prelude =
            format!("import errno, os, socket, struct, sys, time\nPORT = {}\n{HELPERS}", self.port());
        Command::new("sh")
            .arg("-c")
            .arg(format!("{enter}exec timeout -s KILL 30 python3 -c \"$0\""))
            .arg(format!("{prelude}\n{script}"))
            // Without a home python asks for the account's when it starts, over a unix socket by name: the kernel tells that too.
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("HOME", "/nonexistent"), ("LC_ALL", "C.UTF-8")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// What an agent prints; it must end well.
    fn agent_says(&self, script: &str) -> String {
        said(self.agent(script))
    }

    fn denied(&self, reason: Reason) -> u64 {
        self.guard().counters().unwrap().denied_for(reason)
    }

    /// Takes programs out of a guard whose owner is gone, to see what the others catch.
    fn without(&mut self, programs: &[&str]) {
        self.guard = None;
        for generation in fs::read_dir(&self.settings.pin_dir).unwrap().flatten() {
            for program in programs {
                let pin = generation.path().join(program);
                if pin.exists() {
                    fs::remove_file(pin).unwrap();
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.guard = None;
        if let Ok(tree) = Tree::find()
            && let Ok(home) = tree.open(&self.home)
        {
            drop(home.admit(std::process::id()));
        }
        let mount = Tree::find().unwrap().mount().to_owned();
        let parent = mount.join(&self.settings.parent);
        let daemon = mount.join(format!("{}-daemon", self.settings.parent.display()));
        if std::thread::panicking() {
            // What a test started before it failed would outlive it.
            drop(fs::write(parent.join("cgroup.kill"), "1"));
        }
        for _ in 0..50 {
            drop(uninstall(&self.settings, true));
            if !parent.exists() && !daemon.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(Command::new("umount").arg(&self.bpffs).status());
        drop(fs::remove_dir(&self.bpffs));
        if !std::thread::panicking() {
            assert!(!self.bpffs.exists(), "left `{}` behind", self.bpffs.display());
            assert!(!parent.exists(), "left `{}` behind", parent.display());
            let there = fs::read_to_string(daemon.join("cgroup.procs")).unwrap_or_default();
            let names: Vec<String> = there
                .split_whitespace()
                .map(|pid| {
                    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
                })
                .collect();
            assert!(!daemon.exists(), "left `{}` behind: {names:?}", daemon.display());
        }
    }
}

const HELPERS: &str = r"
def name(problem):
    return errno.errorcode.get(problem.errno, str(problem))
def attempt(what):
    try:
        what()
        return 'ok'
    except OSError as problem:
        return name(problem)
";

fn said(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the process failed: {:?}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn next(listener: &Listener) -> Connection {
    timeout(PATIENCE, listener.accept()).await.expect("no connection arrived").unwrap()
}

async fn none(listener: &Listener) {
    assert!(timeout(Duration::from_millis(500), listener.accept()).await.is_err(), "a connection arrived");
}

/// Connects, shows its peer, exchanges a word.
fn caller(family: &str, address: &str) -> String {
    format!(
        "s = socket.socket(socket.{family}, socket.SOCK_STREAM)\n\
         s.connect(('{address}', 5432))\n\
         s.sendall(b'ping')\n\
         print(os.getpid(), s.getpeername()[0], s.getpeername()[1], s.recv(4).decode())"
    )
}

async fn answer(connection: &mut Connection) {
    let mut word = [0_u8; 4];
    connection.stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
    connection.stream.write_all(b"pong").await.unwrap();
}

async fn is_redirected(family: &str, dialled: &str, origin: &str) {
    let world = World::new();
    let listener = world.listen();
    let agent = world.agent(&caller(family, dialled));
    let mut connection = next(&listener).await;
    answer(&mut connection).await;
    let printed = said(agent);
    let words: Vec<&str> = printed.split(' ').collect();
    let origin: SocketAddr = origin.parse().unwrap();
    assert_eq!(connection.origin.destination, origin);
    assert_eq!(words, [&connection.origin.pid.to_string(), dialled, "5432", "pong"]);
    assert_eq!(connection.origin.cgroup_id, world.agent_cgroup().id());
    assert_eq!(connection.origin.uid, 0);
    let counters = world.guard().counters().unwrap();
    assert_eq!((counters.redirected, counters.delivered, counters.flows_lost), (1, 1, 0));
    assert_eq!(world.guard().flows_waiting().unwrap(), 0);
}

#[tokio::test]
async fn an_ipv4_connection_arrives_with_its_destination_and_process() {
    is_redirected("AF_INET", "192.0.2.10", "192.0.2.10:5432").await;
}

#[tokio::test]
async fn an_ipv6_connection_arrives_with_its_destination_and_process() {
    is_redirected("AF_INET6", "2001:db8::10", "[2001:db8::10]:5432").await;
}

#[tokio::test]
async fn an_ipv4_connection_of_an_ipv6_socket_arrives_as_ipv4() {
    is_redirected("AF_INET6", "::ffff:192.0.2.10", "192.0.2.10:5432").await;
}

#[tokio::test]
async fn loopback_destinations_are_captured_too() {
    is_redirected("AF_INET", "127.0.0.1", "127.0.0.1:5432").await;
}

#[tokio::test]
async fn an_agent_that_dials_the_proxy_is_seen_doing_so() {
    let world = World::new();
    let listener = world.listen();
    let agent = world.agent("socket.create_connection(('127.0.0.1', PORT)); time.sleep(0.2)");
    let connection = next(&listener).await;
    assert_eq!(connection.origin.destination, SocketAddr::from((Ipv4Addr::LOCALHOST, world.port())));
    said(agent);
}

#[tokio::test]
async fn multipath_tcp_is_redirected() {
    let world = World::new();
    let listener = world.listen();
    let agent = world.agent(
        "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
         s.connect(('192.0.2.10', 443)); s.sendall(b'ping'); print(s.recv(4).decode())",
    );
    let mut connection = next(&listener).await;
    answer(&mut connection).await;
    assert_eq!(connection.origin.destination, "192.0.2.10:443".parse().unwrap());
    assert_eq!(said(agent), "pong");
}

#[tokio::test]
async fn non_blocking_connect_and_fast_open_are_redirected() {
    let world = World::new();
    let listener = world.listen();
    let agent = world.agent(
        "import select\n\
         s = socket.socket(); s.setblocking(False)\n\
         assert s.connect_ex(('192.0.2.11', 443)) in (0, errno.EINPROGRESS)\n\
         p = select.poll(); p.register(s, select.POLLOUT); assert p.poll(5000)\n\
         s.setblocking(True); s.sendall(b'ping'); print(s.recv(4).decode())\n\
         t = socket.socket(); t.sendto(b'ping', socket.MSG_FASTOPEN, ('192.0.2.12', 443))\n\
         print(t.recv(4).decode())",
    );
    for expected in ["192.0.2.11:443", "192.0.2.12:443"] {
        let mut connection = next(&listener).await;
        assert_eq!(connection.origin.destination, expected.parse().unwrap());
        answer(&mut connection).await;
    }
    assert_eq!(said(agent), "pong\npong");
}

#[tokio::test]
async fn many_connections_at_once_keep_their_own_destinations() {
    let world = World::new();
    let listener = world.listen();
    let agent = world.agent(
        "import threading\n\
         def one(n):\n\
         \x20   s = socket.create_connection(('192.0.2.1', 2000 + n)); s.sendall(struct.pack('>H', 2000 + n)); s.recv(1)\n\
         threads = [threading.Thread(target=one, args=(n,)) for n in range(200)]\n\
         [t.start() for t in threads]; [t.join() for t in threads]",
    );
    for _ in 0..200 {
        let mut connection = next(&listener).await;
        let told = connection.stream.read_u16().await.unwrap();
        assert_eq!(told, connection.origin.destination.port());
        connection.stream.write_all(b".").await.unwrap();
    }
    said(agent);
    assert_eq!(world.guard().counters().unwrap().delivered, 200);
}

#[tokio::test]
async fn datagrams_that_ask_no_resolver_are_refused_and_reported() {
    let world = World::new();
    let mut events = world.guard().events().unwrap();
    let printed = world.agent_says(
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         v = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n\
         print(attempt(lambda: u.sendto(b'x', ('192.0.2.1', 5353))))\n\
         print(attempt(lambda: u.connect(('192.0.2.1', 5353))))\n\
         print(attempt(lambda: v.sendto(b'x', ('2001:db8::1', 5353))))\n\
         print(attempt(lambda: v.sendto(b'x', ('::ffff:192.0.2.1', 5353))))\n\
         print(attempt(lambda: v.connect(('::1', 5353))))\n\
         print(attempt(lambda: u.sendto(b'x', ('127.0.0.1', 5353))))",
    );
    assert_eq!(printed, ["EPERM"; 6].join("\n"));
    assert_eq!(world.denied(Reason::Datagram) + world.denied(Reason::ConnectProtocol), 6);
    let event = timeout(PATIENCE, events.next()).await.unwrap().unwrap();
    assert_eq!(event.reason, Reason::Datagram);
    assert_eq!(event.destination, Some("192.0.2.1:5353".parse().unwrap()));
    assert_eq!(event.cgroup_id, world.agent_cgroup().id());
    assert!(event.pid.is_some());
}

#[tokio::test]
async fn other_kinds_of_socket_are_refused() {
    let world = World::new();
    let printed = world.agent_says(
        "for f, t, p in [(2, 3, 1), (2, 3, 255), (10, 3, 58), (2, 2, 136), (10, 2, 136)]:\n\
         \x20   print(attempt(lambda: socket.socket(f, t, p)))\n\
         print(all(attempt(lambda: socket.socket(f, 2, p)) in ('EPERM', 'EACCES') for f, p in [(2, 1), (10, 58)]))\n\
         print(attempt(lambda: socket.socket(2, 1, 132)) in ('EPERM', 'EPROTONOSUPPORT'))\n\
         print(attempt(lambda: socket.socket(2, 1, 0)), attempt(lambda: socket.socket(10, 1, 262)))",
    );
    let expected = format!("{}\nTrue\nTrue\nok ok", ["EPERM"; 5].join("\n"));
    assert_eq!(printed, expected);
    assert!(world.denied(Reason::SocketKind) >= 5);
}

#[tokio::test]
async fn options_that_steer_packets_are_refused_and_others_work() {
    let world = World::new();
    let printed = world.agent_says(
        "s = socket.socket(); v = socket.socket(socket.AF_INET6)\n\
         route = struct.pack('BBBBBBH', 0, 2, 4, 0, 0, 0, 0) + socket.inet_pton(10, '2001:db8::6')\n\
         for k, level, option, value in [\n\
         \x20   (s, 0, 4, b'\\x83\\x07\\x04\\xc0\\x00\\x02\\x01\\x00'), (s, 0, 19, 1), (v, 41, 57, route), (v, 41, 54, b'\\0' * 8),\n\
         \x20   (v, 41, 59, b'\\0' * 8), (v, 41, 50, b'\\0' * 20), (v, 41, 32, b'\\0' * 32),\n\
         \x20   (s, 1, 25, b'lo\\0'), (s, 1, 36, 1), (s, 1, 62, 1), (s, 6, 31, b'tls'), (s, 6, 19, 1),\n\
         \x20   (s, 0, 35, b'\\0' * 12), (s, 0, 42, b'\\0' * 136), (v, 41, 20, b'\\0' * 20), (v, 41, 42, b'\\0' * 136)]:\n\
         \x20   print(attempt(lambda: k.setsockopt(level, option, value)))\n\
         print(attempt(lambda: s.setsockopt(6, 1, 1)), attempt(lambda: s.setsockopt(1, 9, 1)))\n\
         print(attempt(lambda: s.setsockopt(6, 13, b'cubic')))\n\
         print(attempt(lambda: s.setsockopt(1, 8, b'\\1\\0\\0\\0' * 3000)))",
    );
    assert_eq!(printed, format!("{}\nok ok\nok\nok", ["EPERM"; 16].join("\n")));
    assert_eq!(world.denied(Reason::SocketOption), 16);
}

#[tokio::test]
async fn an_agent_cannot_take_the_proxys_port() {
    let world = World::new();
    let printed = world.agent_says(
        "for f, a in [(2, '127.0.0.1'), (2, '0.0.0.0'), (10, '::1'), (10, '::')]:\n\
         \x20   for t in (1, 2):\n\
         \x20       s = socket.socket(f, t); s.setsockopt(1, 15, 1)\n\
         \x20       print(attempt(lambda: s.bind((a, PORT))))\n\
         print(attempt(lambda: socket.socket().bind(('127.0.0.1', 0))))",
    );
    assert_eq!(printed, format!("{}\nok", ["EPERM"; 8].join("\n")));
}

#[tokio::test]
async fn a_socket_bound_to_a_device_beforehand_cannot_connect() {
    let mut world = World::new();
    world.without(&["agent_option"]);
    let printed = world.agent_says(
        "s = socket.socket(); s.setsockopt(1, 25, b'lo\\0')\n\
         print(attempt(lambda: s.connect(('192.0.2.1', 80))))\n\
         print(attempt(lambda: socket.socket().connect(('192.0.2.1', 0))))",
    );
    assert_eq!(printed, "EPERM\nEPERM");
}

#[tokio::test]
async fn an_unstamped_connection_to_the_proxy_is_reset() {
    let world = World::new();
    let listener = world.listen();
    let outsider =
        world.python("print(attempt(lambda: socket.create_connection(('127.0.0.1', PORT)).recv(1)))", None);
    let told = tokio::task::spawn_blocking(|| said(outsider));
    tokio::select! {
        told = told => assert_eq!(told.unwrap(), "ECONNRESET"),
        connection = listener.accept() => panic!("accepted {connection:?}"),
    }
}

#[tokio::test]
async fn a_process_outside_is_untouched() {
    let world = World::new();
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let outsider = world.python(
        &format!(
            "s = socket.create_connection(('127.0.0.1', {port})); print(s.getpeername()[1])\n\
             u = socket.socket(2, 2); print(u.sendto(b'x', ('127.0.0.1', 9)))\n\
             socket.socket(2, 3, 1).setsockopt(1, 36, 7)"
        ),
        None,
    );
    drop(server.accept().unwrap());
    assert_eq!(said(outsider), format!("{port}\n1"));
    assert_eq!(world.guard().counters().unwrap().redirected, 0);
}

#[tokio::test]
async fn without_a_listener_agents_are_refused_and_nothing_leaves() {
    let mut world = World::new();
    let listener = world.listen();
    drop(listener);
    world.guard = None;
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let printed = world.agent_says(&format!(
        "for a in [('192.0.2.1', 80), ('127.0.0.1', {port}), ('2001:db8::1', 80), ('::ffff:192.0.2.1', 80)]:\n\
         \x20   s = socket.socket(10 if ':' in a[0] else 2)\n\
         \x20   print(attempt(lambda: s.connect(a)))\n\
         print(attempt(lambda: socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 5353))))",
    ));
    assert_eq!(printed, "ECONNREFUSED\nECONNREFUSED\nECONNREFUSED\nECONNREFUSED\nEPERM");
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "the agent reached a server directly");
    world.install();
    assert_eq!(world.guard().counters().unwrap().redirected, 4);
    assert_eq!(world.guard().flows_waiting().unwrap(), 0, "refused connections left entries behind");
}

#[tokio::test]
async fn the_packet_guard_alone_stops_what_the_other_programs_let_through() {
    let mut world = World::new();
    world.without(&["agent_option", "agent_sendmsg4", "agent_sendmsg6", "agent_connect4", "agent_create"]);
    let printed = world.agent_says(
        "route = struct.pack('BBBBBBH', 0, 2, 4, 0, 0, 0, 0) + socket.inet_pton(10, '::1')\n\
         u = socket.socket(2, 2); v = socket.socket(10, 2); w = socket.socket(10, 2); w.setsockopt(41, 57, route)\n\
         r = socket.socket(2, 3, 1)\n\
         for send in [\n\
         \x20   lambda: u.sendto(b'x', ('127.0.0.1', 5353)), lambda: v.sendto(b'x', ('::1', 5353)),\n\
         \x20   lambda: w.sendto(b'x', ('::1', 5353)), lambda: r.sendto(b'\\x08\\0\\xf7\\xff\\0\\0\\0\\0', ('127.0.0.1', 0)),\n\
         \x20   lambda: u.sendmsg([b'x'], [(0, 7, b'\\x83\\x07\\x04\\x7f\\0\\0\\1\\0')], 0, ('127.0.0.1', 5353))]:\n\
         \x20   print(attempt(send))\n\
         t = socket.socket(); t.settimeout(1)\n\
         try: t.connect(('127.0.0.1', 80)); print('through')\n\
         except (OSError, TimeoutError): print('stopped')",
    );
    assert_eq!(printed, format!("{}\nstopped", ["EPERM"; 5].join("\n")));
    world.install();
    assert!(world.denied(Reason::PacketUnstamped) >= 6, "another program was counted");
}

#[tokio::test]
async fn a_routing_header_on_a_redirected_connection_is_dropped() {
    let mut world = World::new();
    let listener = world.listen();
    world.without(&["agent_option"]);
    let printed = world.agent_says(
        "route = struct.pack('BBBBBBH', 0, 2, 4, 0, 0, 0, 0) + socket.inet_pton(10, '::1')\n\
         s = socket.socket(10); s.setsockopt(41, 57, route); s.settimeout(1)\n\
         try: s.connect(('2001:db8::1', 80)); print('through')\n\
         except (OSError, TimeoutError): print('stopped')\n\
         q = socket.socket(2); q.setsockopt(0, 4, b'\\x83\\x07\\x04\\x7f\\0\\0\\1\\0'); q.settimeout(1)\n\
         try: q.connect(('192.0.2.1', 80)); print('through')\n\
         except (OSError, TimeoutError): print('stopped')",
    );
    assert_eq!(printed, "stopped\nstopped");
    none(&listener).await;
    world.install();
    assert!(world.denied(Reason::PacketShape) >= 2, "another program was counted");
}

#[tokio::test]
async fn a_new_network_namespace_is_refused() {
    let world = World::new();
    let printed = world.agent_says(
        "import ctypes\n\
         assert ctypes.CDLL(None).unshare(0x40000000) == 0\n\
         print(attempt(lambda: socket.socket().connect(('127.0.0.1', 80))))",
    );
    assert_eq!(printed, "EPERM");
    assert_eq!(world.denied(Reason::NamespaceUnknown), 1);
}

#[tokio::test]
async fn a_server_inside_an_agent_reaches_nobody() {
    let world = World::new();
    let mut agent = world.agent(
        "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True); time.sleep(2)",
    );
    let mut port = [0_u8; 6];
    let read = agent.stdout.as_mut().unwrap().read(&mut port).unwrap();
    let port: u16 = std::str::from_utf8(&port[..read]).unwrap().trim().parse().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    assert!(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err());
    drop(agent.kill());
    drop(agent.wait());
}

#[tokio::test]
async fn a_restarted_daemon_takes_the_guard_over_without_a_gap() {
    let mut world = World::new();
    let listener = world.listen();
    let agent = world.agent(&caller("AF_INET", "192.0.2.10"));
    let mut connection = next(&listener).await;
    let before = pins(&world.settings.pin_dir);
    drop(listener);
    world.guard = None;
    world.install();
    assert_eq!(pins(&world.settings.pin_dir), before, "a complete guard was replaced");
    assert!(world.guard().effective().iter().all(|status| status.effective));
    answer(&mut connection).await;
    assert!(said(agent).ends_with("pong"));
}

#[tokio::test]
async fn an_incomplete_guard_is_replaced_and_open_connections_live_on() {
    let mut world = World::new();
    let listener = world.listen();
    let agent = world.agent(&caller("AF_INET", "192.0.2.10"));
    let mut connection = next(&listener).await;
    drop(listener);
    world.without(&["agent_egress"]);
    let status = effective(&world.settings, &world.agent_cgroup()).unwrap();
    assert_eq!(status.iter().filter(|status| !status.effective).count(), 1);
    world.install();
    assert!(world.guard().effective().iter().all(|status| status.effective));
    assert_eq!(fs::read_dir(&world.settings.pin_dir).unwrap().count(), 2, "an old generation was left");
    answer(&mut connection).await;
    assert!(said(agent).ends_with("pong"));
}

#[tokio::test]
async fn a_port_the_kernel_could_hand_out_is_refused() {
    let mut world = World::new();
    world.guard = None;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let port = range.split_whitespace().next().unwrap().parse().unwrap();
    let settings = Settings { port, ..world.settings.clone() };
    let refused = Guard::install(&settings).unwrap_err();
    assert!(matches!(refused, InterceptError::PortEphemeral { .. }), "{refused:?}");
}

#[test]
fn a_parent_that_others_may_rearrange_is_refused() {
    let mut world = World::new();
    world.guard = None;
    let parent = Tree::find().unwrap().mount().join(&world.settings.parent);
    std::os::unix::fs::chown(parent.join("cgroup.procs"), Some(64_123), None).unwrap();
    assert!(Guard::install(&world.settings).is_err());
}

#[test]
fn effective_is_false_for_an_unguarded_cgroup() {
    let world = World::new();
    let root = Tree::find().unwrap().open(Path::new("/")).unwrap();
    let status = effective(&world.settings, &root).unwrap();
    assert!(status.iter().all(|status| !status.effective));
}

#[test]
fn a_bpf_file_system_is_mounted_where_there_is_none() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // The mount stays in the child's own mount namespace.
    let status = Command::new("unshare")
        .arg("--mount")
        .arg(env!("CARGO_BIN_EXE_guard-helper"))
        .arg("mount")
        .env("LAUNCH_PORT", ports::free().unwrap().to_string())
        .status()
        .unwrap();
    assert!(status.success());
}

fn pins(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(pins(&entry.path()));
        } else {
            found.push((entry.path(), entry.metadata().unwrap().ino()));
        }
    }
    found.sort();
    found
}
