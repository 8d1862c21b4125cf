//! Where packets say they come from: an answer goes there, so a source of the agent's choice would be a way out.

use std::net::UdpSocket;

use super::names::{echo, heard};
use super::*;

/// A documentation address that is nobody's here.
const FOREIGN: &str = "2001:db8:5ec::7";

/// An agent's socket with `IPV6_FREEBIND`, where the program that refuses that option is gone.
fn with_free_socket(world: &mut World, kind: u8, script: &str) -> String {
    world.without(&["agent_option"]);
    world.agent_says(&format!(
        "s = socket.socket(socket.AF_INET6, {kind}); s.setsockopt(41, 78, 1); FOREIGN = '{FOREIGN}'\n{script}"
    ))
}

#[test]
fn agents_may_not_ask_for_a_foreign_source() {
    let world = World::new();
    let printed = world.agent_says(
        "v = socket.socket(socket.AF_INET6); s = socket.socket()\n\
         print(attempt(lambda: v.setsockopt(41, 78, 1)), attempt(lambda: s.setsockopt(0, 15, 1)))",
    );
    assert_eq!(printed, "EPERM EPERM");
    assert_eq!(world.denied(Reason::SocketOption), 2);
}

#[test]
fn a_socket_that_is_bound_to_a_foreign_source_connects_to_nothing() {
    let mut world = World::new();
    let listener = TcpListener::bind(("::1", world.port())).unwrap();
    listener.set_nonblocking(true).unwrap();
    let printed = with_free_socket(
        &mut world,
        1,
        "s.bind((FOREIGN, 0)); print(attempt(lambda: s.connect(('2001:db8::1', 443))))",
    );
    assert_eq!(printed, "EPERM");
    let asked = with_free_socket(
        &mut world,
        2,
        "s.bind((FOREIGN, 0)); print(attempt(lambda: s.connect(('2001:db8::1', 53))), attempt(lambda: s.sendto(b'x', ('2001:db8::1', 53))))",
    );
    assert_eq!(asked, "EPERM EPERM");
    assert!(listener.accept().is_err(), "a connection from a foreign source arrived");
}

#[test]
fn a_datagram_with_a_foreign_source_in_its_control_message_does_not_leave() {
    let mut world = World::new();
    let resolver = UdpSocket::bind(("::1", world.settings.dns_port.unwrap())).unwrap();
    resolver.set_nonblocking(true).unwrap();
    let printed = with_free_socket(
        &mut world,
        2,
        "info = lambda address: [(41, 50, socket.inet_pton(10, address) + struct.pack('i', 0))]\n\
         print(attempt(lambda: s.sendmsg([b'x'], info(FOREIGN), 0, ('2001:db8::1', 53))))\n\
         print(attempt(lambda: s.sendmsg([b'own'], info('::1'), 0, ('2001:db8::1', 53))))",
    );
    assert_eq!(printed, "EPERM\nok");
    let mut heard = [0_u8; 9];
    let (length, _) = resolver.recv_from(&mut heard).unwrap();
    assert_eq!(&heard[..length], b"own");
    assert!(resolver.recv_from(&mut heard).is_err(), "a datagram from a foreign source arrived");
}

#[test]
fn whoever_has_a_resolvers_port_at_another_loopback_address_tells_an_agent_nothing() {
    let world = World::new();
    let dns = world.settings.dns_port.unwrap();
    let resolver = UdpSocket::bind(("127.0.0.1", dns)).unwrap();
    let forger = UdpSocket::bind(("127.0.0.2", dns)).unwrap();
    resolver.set_read_timeout(Some(PATIENCE)).unwrap();
    let agent = world.agent(
        "s = socket.socket(2, 2); s.settimeout(5); s.sendto(b'name?', ('192.0.2.53', 53)); print(s.recvfrom(9))",
    );
    let mut question = [0_u8; 9];
    let (_, asker) = resolver.recv_from(&mut question).unwrap();
    forger.send_to(b"forged", asker).unwrap();
    resolver.send_to(b"true", asker).unwrap();
    assert_eq!(said(agent), "(b'true', ('192.0.2.53', 53))");
    assert_eq!(world.denied(Reason::Unsolicited), 1);
}

#[tokio::test]
async fn who_takes_an_agents_source_port_afterwards_does_not_ask_in_its_name() {
    let world = World::new();
    let dns = world.settings.dns_port.unwrap();
    let mut questions = echo(&world);
    for (family, resolver, loopback) in [(2, "192.0.2.53", "127.0.0.1"), (10, "2001:db8::53", "::1")] {
        let script = format!(
            "s = socket.socket({family}, 2); s.settimeout(5); s.sendto(b'agent', ('{resolver}', 53)); s.recv(9)\n\
             print(s.getsockname()[1])"
        );
        let port: u16 = heard(world.agent(&script)).await.parse().unwrap();
        let (bytes, _) = timeout(PATIENCE, questions.recv()).await.unwrap().unwrap();
        assert_eq!(bytes, b"agent");
        let outsider = UdpSocket::bind((loopback, port)).unwrap();
        outsider.send_to(b"outsider", (loopback, dns)).unwrap();
        let nothing = timeout(Duration::from_millis(300), questions.recv()).await;
        assert!(nothing.is_err(), "an outsider's question was taken for the agent's");
    }
}
