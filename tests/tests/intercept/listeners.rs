//! An agent's own servers: reached by its own processes past the proxy, and by nobody else.

use std::net::Ipv6Addr;

use super::*;

/// How many sockets listen on a port: state 0A of `/proc/net/tcp`.
const LISTENERS: &str = r"
def listeners(port):
    lines = [line.split() for line in open('/proc/net/tcp')][1:]
    return sum(line[1].endswith(':%04X' % port) and line[3] == '0A' for line in lines)
";

/// A server of the agent in a process of its own, which answers with what it got in capitals; `serve` returns its port.
const SERVER: &str = r"
import ctypes, threading
def talk(c):
    got = b''
    while part := c.recv(65536): got += part
    c.sendall(got.upper()); c.close()
def serve(family, address, port=0, options=()):
    s = socket.socket(family); s.setsockopt(1, 2, 1)
    for level, option, value in options: s.setsockopt(level, option, value)
    s.bind((address, port)); s.listen(64)
    if os.fork() == 0:
        # A test that fails must not leave its server behind: PR_SET_PDEATHSIG, SIGKILL.
        ctypes.CDLL(None).prctl(1, 9)
        while True: threading.Thread(target=talk, args=(s.accept()[0],)).start()
    port = s.getsockname()[1]; s.close(); return port
def say(address, port, word=b'hello'):
    s = socket.create_connection((address, port), timeout=20)
    s.sendall(word); s.shutdown(1); got = b''
    while part := s.recv(65536): got += part
    return got.decode()
def end():
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN); os.killpg(0, signal.SIGTERM)
os.setpgid(0, 0)
";

impl World {
    fn own(&self, script: &str) -> String {
        self.agent_says(&format!("{SERVER}\n{script}\nsys.stdout.flush(); end()"))
    }

    /// Starts an agent's server on `address`, which stays until the process is killed; its port.
    fn server(&self, family: &str, address: &str) -> (Child, u16) {
        let script = format!("{SERVER}\nprint(serve({family}, '{address}'), flush=True); time.sleep(20)");
        let mut agent = self.agent(&script);
        let port = line(&mut agent).parse().unwrap();
        (agent, port)
    }

    fn another(&self, script: &str) -> Child {
        let cgroup = Tree::find().unwrap().create(&self.settings.parent.join("writer").join("1")).unwrap();
        self.python(script, Some(&cgroup))
    }

    fn local(&self) -> u64 {
        let counts = self.guard().accounts().unwrap().counts().unwrap();
        counts.iter().map(|account| account.local).sum()
    }
}

fn line(child: &mut Child) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while child.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        text.push(char::from(byte[0]));
    }
    text
}

/// Ends an agent's server, its children included.
fn stop(mut agent: Child) {
    let group = nix::unistd::Pid::from_raw(i32::try_from(agent.id()).unwrap());
    for pid in descendants(group.as_raw()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        if nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).is_err() {
            continue;
        }
    }
    drop(agent.kill());
    drop(agent.wait());
}

fn descendants(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let own: Vec<i32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    own.iter().flat_map(|pid| descendants(*pid)).chain(own.clone()).collect()
}

#[tokio::test]
async fn an_agent_reaches_its_own_server_past_the_proxy() {
    let world = World::new();
    let listener = world.listen();
    let printed = world.own(
        "four = serve(2, '127.0.0.1'); any4 = serve(2, '0.0.0.0'); six = serve(10, '::1'); both = serve(10, '::')\n\
         print(say('127.0.0.1', four), say('127.0.0.1', any4), say('127.9.9.9', any4), say('::1', six))\n\
         print(say('::1', both), say('127.0.0.1', both), say('::ffff:127.0.0.1', both), say('::ffff:127.0.0.1', four))\n\
         s = socket.create_connection(('127.0.0.1', four)); print(s.getpeername() == ('127.0.0.1', four))",
    );
    assert_eq!(printed, format!("{0}\n{0}\nTrue", ["HELLO"; 4].join(" ")));
    none(&listener).await;
    let counters = world.guard().counters().unwrap();
    assert_eq!((counters.redirected, world.local()), (0, 9));
    assert_eq!(world.denied(Reason::PacketForeign) + world.denied(Reason::PacketUnstamped), 0);
}

#[test]
fn much_passes_to_an_own_server_and_connections_may_follow_each_other_at_once() {
    let world = World::new();
    let printed = world.own(
        "port = serve(2, '127.0.0.1'); word = b'x' * (20 << 20)\n\
         print(len(say('127.0.0.1', port, word)))\n\
         print(sum(say('127.0.0.1', port) == 'HELLO' for n in range(300)))",
    );
    assert_eq!(printed, format!("{}\n300", 20 << 20));
    assert_eq!(world.denied(Reason::PacketForeign) + world.denied(Reason::PacketUnstamped), 0);
}

#[test]
fn connections_of_the_same_ends_may_follow_each_other() {
    let world = World::new();
    // The server ends first, so that its side of the old connection lingers when the new one comes from the same port.
    let printed = world.own(
        "s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', 0)); s.listen(); port = s.getsockname()[1]; mine = 0\n\
         for n in range(3):\n\
         \x20   c = socket.socket(); c.setsockopt(1, 2, 1); c.settimeout(3); c.bind(('127.0.0.1', mine)); mine = c.getsockname()[1]\n\
         \x20   c.connect(('127.0.0.1', port)); d = s.accept()[0]; d.close(); print(c.recv(1)); c.close()",
    );
    assert_eq!(printed, ["b''"; 3].join("\n"));
}

#[tokio::test]
async fn another_agent_is_captured_where_it_dials_an_agents_server() {
    let world = World::new();
    let listener = world.listen();
    let (agent, port) = world.server("2", "127.0.0.1");
    let other = world.another(&format!("{SERVER}\nprint(attempt(lambda: say('127.0.0.1', {port})))"));
    let connection = next(&listener).await;
    assert_eq!(connection.origin.destination, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    drop(connection);
    assert_ne!(said(other), "HELLO");
    // The agent itself still reaches it, from another process.
    assert_eq!(world.own(&format!("print(say('127.0.0.1', {port}))")), "HELLO");
    stop(agent);
}

#[test]
fn nobody_outside_reaches_an_agents_server() {
    let world = World::new();
    for (family, address, dialled) in [
        ("2", "127.0.0.1", Ipv4Addr::LOCALHOST.into()),
        ("2", "0.0.0.0", Ipv4Addr::LOCALHOST.into()),
        ("10", "::", Ipv4Addr::LOCALHOST.into()),
        ("10", "::1", std::net::IpAddr::from(Ipv6Addr::LOCALHOST)),
    ] {
        let (agent, port) = world.server(family, address);
        let address = SocketAddr::new(dialled, port);
        assert!(
            TcpStream::connect_timeout(&address, Duration::from_millis(1500)).is_err(),
            "{family} {address}"
        );
        stop(agent);
    }
    assert!(world.denied(Reason::PacketForeign) >= 4);
}

#[tokio::test]
async fn servers_of_others_are_captured_also_where_the_port_was_once_the_agents() {
    let world = World::new();
    let listener = world.listen();
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let agent = world.agent(&format!(
        "s = socket.socket(); s.setsockopt(1, 2, 1); s.setsockopt(1, 15, 1)\n\
         print(attempt(lambda: s.bind(('127.0.0.1', {port}))))\n\
         t = socket.create_connection(('127.0.0.1', {port})); time.sleep(0.3)"
    ));
    let connection = next(&listener).await;
    assert_eq!(connection.origin.destination.port(), port);
    assert_eq!(said(agent), "EADDRINUSE");
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "the agent reached somebody else's server");
}

#[test]
fn a_port_that_somebody_else_took_meanwhile_gets_no_packet() {
    let world = World::new();
    // The queue is full, so the second connection asks again after a second; by then the port is another's.
    let mut agent = world.agent(
        "s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', 0)); s.listen(0); address = s.getsockname()\n\
         first = socket.create_connection(address); second = socket.socket(); second.setblocking(False)\n\
         print(second.connect_ex(address) == errno.EINPROGRESS, flush=True); time.sleep(0.2)\n\
         first.close(); s.close(); print(address[1], flush=True)\n\
         second.settimeout(4); print(attempt(lambda: second.send(b'secret')), flush=True); time.sleep(4)",
    );
    assert_eq!(line(&mut agent), "True");
    let port: u16 = line(&mut agent).parse().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    taken.set_nonblocking(true).unwrap();
    drop(agent.wait());
    assert!(taken.accept().is_err(), "a connection of the agent arrived");
    assert!(world.denied(Reason::PacketForeign) >= 1, "nothing was sent: the test shows nothing");
}

#[test]
fn whoever_shares_the_port_gets_no_connection_whatever_the_kernel_would_pick() {
    let world = World::new();
    // By hash, and by a filter of the agent's own that picks the second socket of the group.
    for filter in [
        "",
        "f = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 1)); s.setsockopt(1, 51, struct.pack('HxxxxxxQ', 1, ctypes.addressof(f)))",
    ] {
        // Before a sender is known the hash is the same for every port since Linux 6.15: in one of the two orders it picks the
        // agent's server, and the connection is let through to begin.
        for agent_is_first in [true, false] {
            share_a_port(&world, filter, agent_is_first);
        }
    }
    assert!(world.denied(Reason::PacketForeign) >= 1, "nothing was sent: the test shows nothing");
}

/// An agent and somebody else listen on one port while the agent connects to it.
fn share_a_port(world: &World, filter: &str, agent_is_first: bool) {
    let listen = |port: u16| {
        format!(
            "s = socket.socket(); s.setsockopt(1, 15, 1); s.bind(('127.0.0.1', {port})); s.listen(64); port = s.getsockname()[1]; print(port, flush=True)\n"
        )
    };
    let agent = |port: u16| {
        world.agent(&format!(
            "{SERVER}\n{LISTENERS}\n{}\
             while listeners(port) < 2: time.sleep(0.05)\n\
             {filter}\n\
             socks = []\n\
             for n in range(20):\n\
             \x20   c = socket.socket(); c.setblocking(False); c.connect_ex(('127.0.0.1', port)); socks.append(c)\n\
             time.sleep(0.5)\n\
             for c in socks: attempt(lambda: c.send(b'secret'))\n\
             time.sleep(2)",
            listen(port)
        ))
    };
    let outsider = |port: u16| {
        let accept =
            "s.settimeout(6)\ntry: s.accept(); print('reached')\nexcept TimeoutError: print('alone')";
        world.python(&format!("{}{accept}", listen(port)), None)
    };
    let (mut agent, other) = if agent_is_first {
        let mut agent = agent(0);
        let port = line(&mut agent).parse().unwrap();
        let mut other = outsider(port);
        assert_eq!(line(&mut other), port.to_string());
        (agent, other)
    } else {
        let mut other = outsider(0);
        let port = line(&mut other).parse().unwrap();
        let mut agent = agent(port);
        assert_eq!(line(&mut agent), port.to_string());
        (agent, other)
    };
    assert!(agent.wait().unwrap().success());
    assert_eq!(said(other), "alone", "{filter}");
}

#[test]
fn a_quarantined_agent_does_not_reach_its_own_server_either() {
    let world = World::new();
    let (agent, port) = world.server("2", "127.0.0.1");
    let script = format!("print(attempt(lambda: say('127.0.0.1', {port})))");
    assert_eq!(world.own(&script), "ok");
    let account = Tree::find().unwrap().create(&world.settings.parent.join("reporter")).unwrap().id();
    world.guard().accounts().unwrap().quarantine(&[account]).unwrap();
    assert_eq!(world.own(&script), "EPERM");
    stop(agent);
}

#[test]
fn an_own_server_is_reached_under_the_sentinel_too() {
    let world = World::with(Sentinel::On);
    assert_eq!(world.own("print(say('127.0.0.1', serve(2, '127.0.0.1')))"), "HELLO");
}
