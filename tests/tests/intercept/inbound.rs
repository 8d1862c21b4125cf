//! What outsiders can push into an agent's sockets.

use std::net::UdpSocket;

use super::*;

/// Waits for a datagram on a port it prints, and says what came.
const EAR: &str = "
u = socket.socket(socket.AF_INET6 if ':' in ADDRESS else socket.AF_INET, socket.SOCK_DGRAM)
u.bind((ADDRESS, 0)); u.settimeout(3)
print(u.getsockname()[1], flush=True)
try: print(u.recv(9).decode())
except TimeoutError: print('nothing')
";

/// What an agent that listens for datagrams hears when an outsider sends to it.
fn hears(world: &World, address: &str) -> String {
    let mut agent = world.agent(&format!("ADDRESS = '{address}'\n{EAR}"));
    let mut port = [0_u8; 16];
    let read = agent.stdout.as_mut().unwrap().read(&mut port).unwrap();
    let port: u16 = std::str::from_utf8(&port[..read]).unwrap().trim().parse().unwrap();
    let sender = UdpSocket::bind((address, 0)).unwrap();
    sender.send_to(b"do it", (address, port)).unwrap();
    said(agent)
}

fn open() -> World {
    let mut world = World::new();
    world.guard = None;
    world.settings.ingress = Ingress::Open;
    world.install();
    world
}

#[test]
fn an_outsiders_datagram_does_not_reach_an_agent() {
    let world = World::new();
    for (many, address) in [(1, "127.0.0.1"), (2, "::1")] {
        assert_eq!(hears(&world, address), "nothing");
        assert_eq!(world.denied(Reason::Unsolicited), many);
    }
}

#[test]
fn with_ingress_open_it_does_which_shows_what_the_program_is_for() {
    let world = open();
    assert_eq!(hears(&world, "127.0.0.1"), "do it");
    assert_eq!(hears(&world, "::1"), "do it");
    assert_eq!(world.denied(Reason::Unsolicited), 0);
}

/// A pair of devices between two new network namespaces; the agent is behind one of them, the sender behind the other.
const APART: &str = r#"
set -e
ip link set lo up
ip link add near type veth peer name far
ip address add 192.0.2.1/24 dev near
ip link set near up
unshare --net sleep 20 &
sleeper=$!
trap 'kill $sleeper; wait $sleeper || true' EXIT
look=0
until [ "$(readlink /proc/$sleeper/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; [ $((look += 1)) -lt 400 ]; done
ip link set far netns $sleeper
nsenter --net=/proc/$sleeper/ns/net sh -c 'ip address add 192.0.2.2/24 dev far && ip link set far up'
sh -c 'echo $$ > "$0/cgroup.procs" && exec python3 -c "$1"' "$CGROUP" "$EAR" &
ear=$!
until grep -q ':270F ' /proc/net/udp && grep -q ':270E ' /proc/net/tcp; do sleep 0.05; [ $((look += 1)) -lt 800 ]; done
nsenter --net=/proc/$sleeper/ns/net python3 -c 'import socket
socket.socket(type=socket.SOCK_DGRAM).sendto(b"do it", ("192.0.2.1", 9999))
t = socket.socket(); t.settimeout(1)
try: t.connect(("192.0.2.1", 9998)); print("connected")
except OSError: print("not connected")'
wait $ear
"#;

/// Hears datagrams, and whether somebody's first segment came.
const EAR_APART: &str = "
import socket
u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('192.0.2.1', 9999)); u.settimeout(4)
t = socket.socket(); t.bind(('192.0.2.1', 9998)); t.listen()
try: print('heard', u.recv(9).decode())
except TimeoutError: print('heard nothing')
";

fn from_afar(world: &World) -> String {
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", APART])
        .env("CGROUP", world.agent_cgroup().path())
        .env("EAR", EAR_APART)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines.join(", ")
}

#[test]
fn nothing_reaches_an_agent_from_another_device() {
    let world = World::new();
    assert_eq!(from_afar(&world), "heard nothing, not connected");
    // The datagram, and each attempt at a connection.
    assert!(world.denied(Reason::Unsolicited) >= 2);
    drop(world);
    let world = open();
    assert_eq!(from_afar(&world), "heard do it, not connected");
}

#[tokio::test]
async fn what_the_proxy_answers_arrives() {
    let world = World::new();
    let listener = world.listen();
    for (family, address) in [("AF_INET", "192.0.2.10"), ("AF_INET6", "2001:db8::10")] {
        let agent = world.agent(&caller(family, address));
        answer(&mut next(&listener).await).await;
        assert!(said(agent).ends_with("pong"), "{family}");
    }
    assert_eq!(world.denied(Reason::Unsolicited), 0);
}
