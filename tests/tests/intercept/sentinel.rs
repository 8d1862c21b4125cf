//! Sockets that were made outside: opened before their process became an agent, or passed on by an outsider.
//!
//! These tests attach programs to the root of the tree; the world takes them away again.

use super::*;

/// Opens sockets first and enters the cgroup afterwards, as no launcher would; then uses them.
const LATE: &str = "import os, socket, sys\n\
    tcp, six = socket.socket(), socket.socket(socket.AF_INET6)\n\
    udp, udp6 = socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n\
    open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n\
    def attempt(what):\n\
    \x20   try:\n\
    \x20       what(); return 'ok'\n\
    \x20   except OSError as problem:\n\
    \x20       return problem.strerror\n\
    port = int(sys.argv[2])\n\
    print(attempt(lambda: tcp.connect(('127.0.0.1', port))))\n\
    print(attempt(lambda: six.connect(('::ffff:127.0.0.1', port))))\n\
    print(attempt(lambda: udp.sendto(b'x', ('127.0.0.1', port))))\n\
    print(attempt(lambda: udp6.sendto(b'x', ('::1', port))))\n\
    print(attempt(lambda: udp.connect(('127.0.0.1', port))))\n";

fn late(world: &World, port: u16) -> Vec<String> {
    let output = Command::new("python3")
        .args(["-c", LATE])
        .arg(world.agent_cgroup().path())
        .arg(port.to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_socket_from_outside_is_refused_to_an_agent_and_to_nobody_else() {
    let world = World::with(Sentinel::On);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    assert_eq!(late(&world, port), ["Operation not permitted"; 5]);
    assert_eq!(world.denied(Reason::SocketForeign), 5);
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", ("127.0.0.1", port)).unwrap();
    assert_eq!(world.denied(Reason::SocketForeign), 5);
}

#[tokio::test]
async fn without_the_sentinel_a_socket_from_outside_gets_through_which_shows_what_it_is_for() {
    let world = World::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let seen = late(&world, server.local_addr().unwrap().port());
    assert_eq!(seen, ["ok"; 5]);
}

#[tokio::test]
async fn an_agents_own_sockets_pass_the_sentinel() {
    let world = World::with(Sentinel::On);
    let listener = world.listen();
    for (family, address) in [("AF_INET", "192.0.2.10"), ("AF_INET6", "2001:db8::10")] {
        let agent = world.agent(&caller(family, address));
        answer(&mut next(&listener).await).await;
        assert!(said(agent).ends_with("pong"), "{family}");
    }
    assert!(world.guard().name_ports().is_ok());
    let asked = "s = socket.socket(2, 2); print(attempt(lambda: s.connect(('192.0.2.53', 53))))\n\
                 print(attempt(lambda: socket.socket(10, 2).sendto(b'x', ('2001:db8::53', 53))))";
    assert_eq!(world.agent_says(asked), "ok\nok");
    assert_eq!(world.denied(Reason::SocketForeign), 0);
}

#[tokio::test]
async fn what_the_agents_programs_denied_is_told_once() {
    let world = World::with(Sentinel::On);
    let agent = world.agent(
        "import socket\n\
         udp = socket.socket(type=socket.SOCK_DGRAM)\n\
         for use in (lambda: udp.sendto(b'x', ('192.0.2.10', 9)), lambda: udp.connect(('192.0.2.10', 9))):\n\
         \x20   try:\n\
         \x20       use()\n\
         \x20   except PermissionError:\n\
         \x20       print('refused')\n",
    );
    assert_eq!(said(agent), "refused\nrefused");
    assert_eq!((world.denied(Reason::Datagram), world.denied(Reason::ConnectProtocol)), (1, 1));
    assert_eq!(world.denied(Reason::SocketForeign), 0);
}

#[tokio::test]
async fn the_sentinel_comes_and_goes_with_its_setting() {
    let mut world = World::new();
    let listed = |world: &World| world.guard().effective().len();
    let without = listed(&world);
    for sentinel in [Sentinel::On, Sentinel::Off] {
        world.guard = None;
        world.settings.sentinel = sentinel;
        world.install();
        // Four for the internet's sockets, two for unix sockets.
        let more = if sentinel == Sentinel::On { 6 } else { 0 };
        assert_eq!(listed(&world), without + more);
        assert!(world.guard().effective().iter().all(|status| status.effective));
    }
    assert_eq!(late(&world, 9).first().map(String::as_str), Some("Connection refused"));
}
