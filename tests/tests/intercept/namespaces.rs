//! Network namespaces other than the host's, on the kernel's side and in the room itself.

use std::collections::BTreeSet;

use chaperone::intercept::{Elsewhere, Namespaces};
use chaperone::shutdown::Shutdown;

use super::*;

const ENTER: &str = "import ctypes, fcntl\n\
    def unshare():\n\
    \x20   assert ctypes.CDLL(None).unshare(0x40000000) == 0\n\
    def raise_loopback():\n\
    \x20   with socket.socket() as s: fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'lo', 0x41))\n";

fn namespaces(world: &World) -> (Namespaces, Elsewhere) {
    let (namespaces, elsewhere, _askers) = world.guard().namespaces(&Shutdown::default()).unwrap();
    (namespaces, elsewhere)
}

async fn arrived(elsewhere: &mut Elsewhere) -> Connection {
    timeout(PATIENCE, elsewhere.next()).await.expect("no connection arrived")
}

#[tokio::test]
async fn the_proxys_port_cannot_be_taken_in_a_namespace_that_nobody_knows() {
    let mut world = World::new();
    let take = format!(
        "{ENTER}unshare(); raise_loopback()\n\
         for f, a in [(2, '127.0.0.1'), (2, '0.0.0.0'), (10, '::1'), (10, '::')]:\n\
         \x20   for t in (1, 2):\n\
         \x20       s = socket.socket(f, t); s.setsockopt(1, 15, 1); print(attempt(lambda: s.bind((a, PORT))))\n\
         print(attempt(lambda: socket.socket().bind(('127.0.0.1', PORT + 1))))"
    );
    let expected = format!("{}\nok", ["EPERM"; 8].join("\n"));
    assert_eq!(world.agent_says(&take), expected);
    // And while there is no daemon at all.
    world.guard = None;
    assert_eq!(world.agent_says(&take), expected);
    world.install();
    assert_eq!(world.denied(Reason::ProxyPort), 16);
}

#[tokio::test]
async fn a_namespace_is_told_when_a_socket_is_made_in_it_and_not_again_at_once() {
    let world = World::new();
    let mut sights = world.guard().sights().unwrap();
    let agent = world.agent(&format!(
        "{ENTER}unshare()\nprint(os.getpid(), flush=True)\nsocks = [socket.socket() for _ in range(50)]; time.sleep(0.3); socket.socket()"
    ));
    let pid = agent.id();
    let first = timeout(PATIENCE, sights.next()).await.unwrap().unwrap();
    let second = timeout(PATIENCE, sights.next()).await.unwrap().unwrap();
    said(agent);
    assert_eq!((first.netns_cookie, first.tid), (second.netns_cookie, second.tid));
    assert!(pid > 0 && first.pid == first.tid);
    assert!(second.at_ns - first.at_ns >= 100_000_000, "told twice within {} ns", second.at_ns - first.at_ns);
    assert!(timeout(Duration::from_millis(200), sights.next()).await.is_err(), "told a third time");
    // The control: sockets in the host's namespace tell nothing.
    world.agent_says("socket.socket()");
    assert!(
        timeout(Duration::from_millis(200), sights.next()).await.is_err(),
        "the host's namespace was told"
    );
}

#[tokio::test]
async fn equal_addresses_and_ports_in_two_namespaces_are_two_flows() {
    let world = World::new();
    let (namespaces, mut elsewhere) = namespaces(&world);
    let script = |destination: &str| {
        format!(
            "{ENTER}unshare(); raise_loopback(); sys.stdout.flush()\n\
             while attempt(lambda: socket.socket().connect(('192.0.2.99', 1))) == 'EPERM': time.sleep(0.005)\n\
             s = socket.socket(); s.bind(('127.0.0.1', 23456)); s.connect(('{destination}', 80)); s.sendall(b'ping')\n\
             print(s.recv(4).decode())"
        )
    };
    let agents = ["192.0.2.1", "192.0.2.2"].map(|destination| world.agent(&script(destination)));
    let pids: BTreeSet<u32> = agents.iter().map(Child::id).collect();
    let mut seen = BTreeSet::new();
    while seen.len() < 2 {
        assert!(namespaces.glance().unwrap().iter().all(|met| met.outcome.is_ok()));
        let Ok(mut connection) = timeout(Duration::from_millis(20), elsewhere.next()).await else { continue };
        if connection.origin.destination.port() == 80 {
            assert_eq!(connection.stream.peer_addr().unwrap(), "127.0.0.1:23456".parse().unwrap());
            seen.insert((connection.origin.netns.unwrap(), connection.origin.destination));
            answer(&mut connection).await;
        }
    }
    for agent in agents {
        assert_eq!(said(agent), "pong");
    }
    let cookies: BTreeSet<u64> = seen.iter().map(|(netns, _)| *netns).collect();
    assert_eq!((cookies.len(), pids.len(), namespaces.count()), (2, 2, 2));
}

#[tokio::test]
async fn a_namespace_is_given_up_after_two_empty_looks_and_its_scope_with_it() {
    let world = World::new();
    let (namespaces, mut elsewhere) = namespaces(&world);
    let scopes = || chaperone::intercept::scopes(&world.settings).unwrap();
    let before = scopes();
    let agent = world.agent(&format!(
        "{ENTER}unshare(); raise_loopback()\n\
         while attempt(lambda: socket.socket().connect(('192.0.2.1', 80))) == 'EPERM': time.sleep(0.005)\n\
         time.sleep(2)"
    ));
    while namespaces.count() == 0 {
        namespaces.glance().unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    arrived(&mut elsewhere).await;
    assert_eq!(scopes(), before + 1);
    namespaces.look().unwrap();
    said(agent);
    namespaces.look().unwrap();
    assert_eq!(namespaces.count(), 1, "given up after one look");
    namespaces.look().unwrap();
    assert_eq!((namespaces.count(), scopes()), (0, before));
}

#[tokio::test]
async fn scopes_of_an_earlier_daemon_are_forgotten_unless_somebody_is_there() {
    let mut world = World::new();
    let agent = world.agent(&format!("{ENTER}unshare(); raise_loopback(); time.sleep(3)"));
    let (first, _elsewhere) = namespaces(&world);
    while first.count() == 0 {
        first.glance().unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.close();
    assert!(first.glance().unwrap().is_empty() && first.count() == 0, "opened again after the end");
    let scopes = |world: &World| chaperone::intercept::scopes(&world.settings).unwrap();
    assert_eq!(scopes(&world), 3, "the scope went with the daemon");
    world.guard = None;
    world.install();
    let (second, _elsewhere) = namespaces(&world);
    // The first one's listeners wait a moment for what was on its way.
    tokio::time::sleep(Duration::from_millis(200)).await;
    second.look().unwrap();
    assert_eq!((second.forget_stale().unwrap(), scopes(&world)), (0, 3));
    second.close();
    said(agent);
    let (third, _elsewhere) = namespaces(&world);
    third.look().unwrap();
    assert_eq!((third.forget_stale().unwrap(), scopes(&world)), (1, 2));
}
