//! Questions to resolvers: which reach the daemon's, as whose, and what the client sees of the answer. The daemon's side here
//! is an echo that tells the port it was asked on.

use std::collections::HashSet;
use std::sync::Arc;

use chaperone::intercept::{AccountCounts, Datagram, NamePort, Origin};
use chaperone::shutdown::Shutdown;
use tokio::sync::mpsc;

use super::*;

/// An echo on all ports; every origin it saw.
pub(super) fn echo(world: &World) -> mpsc::UnboundedReceiver<(Vec<u8>, Origin)> {
    let (seen, origins) = mpsc::unbounded_channel();
    for port in world.guard().name_ports().unwrap() {
        let (port, seen): (Arc<NamePort>, _) = (Arc::new(port), seen.clone());
        Shutdown::default().spawn("echo", async move {
            loop {
                let Datagram { bytes, peer, origin } = port.next().await.unwrap();
                port.answer(&bytes, peer).await.unwrap();
                seen.send((bytes, origin)).unwrap();
            }
        });
    }
    origins
}

/// Waits for a process without keeping the echo from its work.
pub(super) async fn heard(child: Child) -> String {
    tokio::task::spawn_blocking(|| said(child)).await.unwrap()
}

impl World {
    async fn asks(&self, script: &str) -> String {
        let prelude = format!("DNS = {}\n", self.settings.dns_port.unwrap());
        heard(self.agent(&format!("{prelude}{script}"))).await
    }

    fn datagrams(&self) -> u64 {
        let counts: Vec<AccountCounts> = self.guard().accounts().unwrap().counts().unwrap();
        counts.iter().map(|one| one.datagrams).sum()
    }
}

#[tokio::test]
async fn a_question_to_any_resolver_arrives_with_its_process_and_the_answer_comes_from_that_resolver() {
    let world = World::new();
    let mut origins = echo(&world);
    let printed = world
        .asks(
            "for family, address in [(2, '192.0.2.53'), (10, '2001:db8::53'), (10, '::ffff:192.0.2.53'), (2, '127.0.0.53')]:\n\
             \x20   s = socket.socket(family, 2); s.settimeout(5); s.sendto(b'one', (address, 53))\n\
             \x20   data, sender = s.recvfrom(99); print(data.decode(), sender[0], sender[1])\n\
             \x20   c = socket.socket(family, 2); c.settimeout(5); c.connect((address, 53)); c.send(b'two')\n\
             \x20   data, sender = c.recvfrom(99); print(data.decode(), sender[0], sender[1], *c.getpeername()[:2])\n\
             print(os.getpid())",
        )
        .await;
    let lines: Vec<&str> = printed.lines().collect();
    let addresses = ["192.0.2.53", "2001:db8::53", "::ffff:192.0.2.53", "127.0.0.53"];
    for (index, address) in addresses.into_iter().enumerate() {
        assert_eq!(lines[index * 2], format!("one {address} 53"));
        assert_eq!(lines[index * 2 + 1], format!("two {address} 53 {address} 53"));
    }
    for address in addresses {
        for word in [&b"one"[..], b"two"] {
            let (bytes, origin) = timeout(PATIENCE, origins.recv()).await.unwrap().unwrap();
            assert_eq!(bytes, word);
            let ip: std::net::IpAddr = address.parse().unwrap();
            assert_eq!(origin.destination, SocketAddr::new(ip.to_canonical(), 53));
            assert_eq!(origin.pid.to_string(), lines[8]);
            assert_eq!(origin.cgroup_id, world.agent_cgroup().id());
        }
    }
    assert_eq!(world.datagrams(), 8);
    let counters = world.guard().counters().unwrap();
    assert_eq!((counters.redirected, counters.delivered), (0, 0), "datagrams were counted as connections");
}

#[tokio::test]
async fn each_of_eight_resolvers_on_one_socket_answers_as_itself_and_a_ninth_is_refused() {
    let world = World::new();
    let _origins = echo(&world);
    let printed = world
        .asks(
            "s = socket.socket(2, 2); s.settimeout(5)\n\
             for n in range(1, 9): s.sendto(b'%d' % n, ('192.0.2.%d' % n, 53))\n\
             got = dict(s.recvfrom(9) for n in range(8))\n\
             print(sorted((int(k), v) for k, v in got.items()) == [(n, ('192.0.2.%d' % n, 53)) for n in range(1, 9)])\n\
             print(attempt(lambda: s.sendto(b'x', ('192.0.2.9', 53))))\n\
             s.sendto(b'again', ('192.0.2.3', 53)); print(s.recvfrom(9))\n\
             v = socket.socket(10, 2); v.settimeout(5)\n\
             for a in ('::ffff:192.0.2.1', '2001:db8::1'):\n\
             \x20   v.sendto(b'x', (a, 53)); print(v.recvfrom(9)[1][:2])",
        )
        .await;
    let expected =
        "True\nEPERM\n(b'again', ('192.0.2.3', 53))\n('::ffff:192.0.2.1', 53)\n('2001:db8::1', 53)";
    assert_eq!(printed, expected);
    assert_eq!(world.denied(Reason::ResolverSlots), 1);
}

#[tokio::test]
async fn a_connected_socket_with_control_messages_still_asks_and_an_unconnected_one_sends_nothing() {
    let world = World::new();
    let _origins = echo(&world);
    let printed = world
        .asks(
            "for f, a, cmsg in [(2, '192.0.2.53', (0, 2, struct.pack('i', 9))), (10, '2001:db8::53', (41, 52, struct.pack('i', 9)))]:\n\
             \x20   c = socket.socket(f, 2); c.settimeout(5); c.connect((a, 53))\n\
             \x20   c.sendmsg([b'x'], [cmsg]); print(c.recvfrom(9)[1][:2])\n\
             \x20   print(attempt(lambda: c.sendto(b'x', (a, 5353))), attempt(lambda: c.sendmsg([b'x'], [cmsg], 0, (a, 5353))))\n\
             \x20   print(attempt(lambda: socket.socket(f, 2).sendmsg([b'x'], [cmsg])))",
        )
        .await;
    let one = |address: &str| format!("('{address}', 53)\nEPERM EPERM\nEDESTADDRREQ");
    assert_eq!(printed, format!("{}\n{}", one("192.0.2.53"), one("2001:db8::53")));
}

#[tokio::test]
async fn a_socket_that_asks_reaches_nothing_but_the_resolver_whatever_its_options_say() {
    let mut world = World::new();
    let mut origins = echo(&world);
    world.without(&["agent_option"]);
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // Stamped first; then every way to make its packets go elsewhere that the other programs do not see.
    let script = format!(
        "DNS = {}\nroute = struct.pack('BBBBBBH', 0, 2, 4, 0, 0, 0, 0) + socket.inet_pton(10, '::1')\n\
         u = socket.socket(2, 2); u.connect(('192.0.2.53', 53))\n\
         v = socket.socket(10, 2); v.connect(('2001:db8::53', 53))\n\
         lsrr = b'\\x83\\x07\\x04\\x7f\\0\\0\\1\\0'\n\
         for send in [\n\
         \x20   lambda: u.sendmsg([b'x'], [(0, 7, lsrr)]),\n\
         \x20   lambda: u.sendmsg([b'x'], [(0, 7, lsrr)], 0, ('192.0.2.53', 53)),\n\
         \x20   lambda: (v.setsockopt(41, 57, route), v.send(b'x')),\n\
         \x20   lambda: v.sendmsg([b'x'], [(41, 54, b'\\0' * 8)]),\n\
         \x20   lambda: u.sendto(b'x', ('127.0.0.1', {port})),\n\
         \x20   lambda: u.sendto(b'x', ('127.0.0.1', DNS + 1)),\n\
         \x20   lambda: socket.socket(2, 2).sendto(b'x', ('127.0.0.1', DNS))]:\n\
         \x20   print(attempt(send))",
        world.settings.dns_port.unwrap()
    );
    assert_eq!(heard(world.agent(&script)).await, ["EPERM"; 7].join("\n"));
    server.set_nonblocking(true).unwrap();
    assert!(server.recv_from(&mut [0; 9]).is_err(), "a datagram got through");
    assert!(timeout(Duration::from_millis(300), origins.recv()).await.is_err(), "a crooked datagram arrived");
    world.install();
    assert!(world.denied(Reason::PacketShape) >= 4, "another program was counted");
}

#[tokio::test]
async fn a_source_port_is_never_charged_to_the_agent_that_had_it_before() {
    let world = World::new();
    let mut origins = echo(&world);
    let port = ports::free_block().unwrap();
    let ask = |word: &str| {
        format!(
            "s = socket.socket(2, 2); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', {port})); s.settimeout(5)\n\
             print(attempt(lambda: s.sendto(b'{word}', ('192.0.2.53', 53))))"
        )
    };
    let writer = Tree::find().unwrap().create(&world.settings.parent.join("writer").join("1")).unwrap();
    assert_eq!(world.asks(&ask("one")).await, "ok");
    // The same agent may: many sockets of one client use one port after another.
    assert_eq!(world.asks(&ask("two")).await, "ok");
    assert_eq!(heard(world.python(&ask("three"), Some(&writer))).await, "EPERM");
    assert_eq!(world.denied(Reason::FlowShared), 1);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(heard(world.python(&ask("four"), Some(&writer))).await, "ok");
    let mut seen = Vec::new();
    while let Ok(Some((bytes, origin))) = timeout(Duration::from_millis(300), origins.recv()).await {
        seen.push((String::from_utf8(bytes).unwrap(), origin.cgroup_id));
    }
    let (reporter, writer) = (world.agent_cgroup().id(), writer.id());
    let expected = [("one", reporter), ("two", reporter), ("four", writer)];
    assert_eq!(seen, expected.map(|(word, id)| (word.to_owned(), id)));
}

#[tokio::test]
async fn a_datagram_from_outside_the_agents_is_not_answered() {
    let world = World::new();
    let mut origins = echo(&world);
    let dns = world.settings.dns_port.unwrap();
    let outsider = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    outsider.send_to(b"x", ("127.0.0.1", dns)).unwrap();
    outsider.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(outsider.recv_from(&mut [0; 9]).is_err());
    // Nor is one that takes over the port of an agent that is done.
    let script = "s = socket.socket(2, 2); s.settimeout(5); s.sendto(b'a', ('192.0.2.53', 53)); s.recv(9)\n\
                  print(s.getsockname()[1])";
    let port: u16 = world.asks(script).await.parse().unwrap();
    timeout(PATIENCE, origins.recv()).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let heir = std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
    heir.send_to(b"x", ("127.0.0.1", dns)).unwrap();
    assert!(
        timeout(Duration::from_millis(300), origins.recv()).await.is_err(),
        "an heir was taken for the agent"
    );
}

#[tokio::test]
async fn an_agent_cannot_take_a_port_of_the_resolver() {
    let world = World::new();
    let printed = world
        .asks(
            "for n in (0, 7):\n\
             \x20   for f, a in [(2, '127.0.0.1'), (2, '0.0.0.0'), (10, '::1'), (10, '::')]:\n\
             \x20       for t in (1, 2):\n\
             \x20           s = socket.socket(f, t); s.setsockopt(1, 15, 1)\n\
             \x20           print(attempt(lambda: s.bind((a, DNS + n))))\n\
             print(attempt(lambda: socket.socket(2, 2).bind(('127.0.0.1', DNS + 8))))",
        )
        .await;
    assert_eq!(printed, format!("{}\nok", ["EPERM"; 16].join("\n")));
}

#[tokio::test]
async fn without_a_resolver_questions_are_refused_and_without_a_daemon_nothing_answers() {
    let mut world = World::new();
    let script = "s = socket.socket(2, 2); s.settimeout(0.3); s.connect(('192.0.2.53', 53))\n\
                  print(attempt(lambda: s.send(b'x')))\n\
                  try: s.recv(9)\n\
                  except OSError as problem: print(type(problem).__name__)";
    assert_eq!(world.asks(script).await, "ok\nConnectionRefusedError");
    world.guard = None;
    world.settings.dns_port = None;
    world.install();
    assert!(world.guard().name_ports().unwrap().is_empty());
    assert_eq!(
        world.agent_says(
            "print(attempt(lambda: socket.socket(2, 2).sendto(b'x', ('192.0.2.53', 53))))\n\
             print(attempt(lambda: socket.socket(2, 2).connect(('192.0.2.53', 53))))"
        ),
        "EPERM\nEPERM"
    );
}

#[tokio::test]
async fn a_quarantined_agent_asks_no_resolver_not_even_on_a_socket_it_had() {
    let world = World::new();
    let mut origins = echo(&world);
    let mut agent = world.agent(
        "s = socket.socket(2, 2); s.settimeout(5); s.connect(('192.0.2.53', 53)); s.send(b'x'); s.recv(9)\n\
         print('first', flush=True); time.sleep(1.5)\n\
         print(attempt(lambda: s.send(b'x')), attempt(lambda: s.sendto(b'x', ('192.0.2.53', 53))))",
    );
    timeout(PATIENCE, origins.recv()).await.unwrap().unwrap();
    let mut word = [0; 6];
    agent.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
    let account = Tree::find().unwrap().create(&world.settings.parent.join("reporter")).unwrap().id();
    world.guard().accounts().unwrap().quarantine(&[account]).unwrap();
    assert_eq!(heard(agent).await, "EPERM EPERM");
    assert!(world.denied(Reason::Quarantined) >= 2);
}

#[tokio::test]
async fn questions_of_many_sockets_at_once_keep_their_own_answers() {
    let world = World::new();
    let mut origins = echo(&world);
    let printed = world
        .asks(
            "socks = [socket.socket(2, 2) for n in range(200)]\n\
             for n, s in enumerate(socks): s.settimeout(5); s.sendto(b'%d' % n, ('192.0.2.%d' % (n % 200 + 1), 53))\n\
             print(all(s.recvfrom(9) == (b'%d' % n, ('192.0.2.%d' % (n % 200 + 1), 53)) for n, s in enumerate(socks)))",
        )
        .await;
    assert_eq!(printed, "True");
    let mut destinations = HashSet::new();
    while let Ok(Some((bytes, origin))) = timeout(Duration::from_millis(300), origins.recv()).await {
        let number: u32 = String::from_utf8(bytes).unwrap().parse().unwrap();
        assert_eq!(origin.destination, format!("192.0.2.{}:53", number % 200 + 1).parse().unwrap());
        destinations.insert(origin.destination);
    }
    assert_eq!(destinations.len(), 200);
}
