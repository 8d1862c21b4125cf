//! What an agent can try with the rights that it has over a namespace, for real.
//!
//! The uplink is a pair of devices to a namespace of the test's own, in which a listener takes down everything that arrives.
//! Nothing of this touches the host's network. Ways that are known to be open are asserted to be open: `THREATS.md` names them, and
//! whoever closes one turns its test around.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use super::*;

const WAYS: &str = include_str!("uplink.py");

/// Takes down what arrives, until it is told to stop: how many packets were from the agent, and whether the canary was in one.
const SINK: &str = r#"
import socket, sys, threading
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("up0", 0))
s.settimeout(0.2)
seen, canary = 0, False
ended = []
print("ready", flush=True)
threading.Thread(target=lambda: (sys.stdin.readline(), ended.append(1)), daemon=True).start()
while True:
    # What came before the end is taken down after it as well.
    last = bool(ended)
    try:
        frame, sender = s.recvfrom(65535)
    except TimeoutError:
        if last:
            break
        continue
    # IPv4 alone: every device announces itself on IPv6.
    if sender[2] != socket.PACKET_OUTGOING and frame[12:14] == b"\x08\x00":
        seen += 1
        canary = canary or b"canary-of-the-namespace" in frame
print(seen, canary)
"#;

/// A namespace that lives as long as its process.
struct Held(Child);

impl Held {
    fn new(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process cannot be started");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Self(child)
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg(program);
        command
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}

/// What arrives at the other end of the uplink when the agent tries one way: packets, and the canary.
fn tried(stage: &Stage, way: &str) -> (u32, bool) {
    let wait = "import sys; print('ready', flush=True); sys.stdin.readline()";
    let outside = Held::new(Command::new("unshare").args(["--net", "python3", "-c", wait]));
    let hold = format!("unshare(); raise_loopback(); {wait}");
    let container = Held::new(&mut stage.python(way, &hold));
    let run = |command: &mut Command| process::run(command, LIMIT).unwrap().success().unwrap();
    let (near, far) = (container.0.id().to_string(), outside.0.id().to_string());
    run(Command::new("ip")
        .args(["link", "add", "eth0", "netns", &near, "type", "veth", "peer", "up0", "netns", &far]));
    for (namespace, device, address) in
        [(&container, "eth0", "198.19.77.2/24"), (&outside, "up0", "198.19.77.1/24")]
    {
        run(namespace.inside("ip").args(["addr", "add", address, "dev", device]));
        run(namespace.inside("ip").args(["link", "set", device, "up"]));
    }
    let doctor = stage.shop.daemon.cli(&["doctor", "--json"]).unwrap();
    assert!(doctor.stdout.contains("NET_ADMIN and NET_RAW over eth0"), "{}", doctor.both());
    let mut sink = Held::new(outside.inside("python3").args(["-c", SINK]));
    let (port, ip, far_port) = (stage.port(), stage.far.address().ip(), stage.far.address().port());
    let text = format!("{HELPERS}\nPORT = {port}\nFAR = ('{ip}', {far_port})\n{WAYS}");
    let enter = format!("--net=/proc/{near}/ns/net");
    // What could not be tried at all shows nothing.
    process::run(&mut stage.tagged(way, "nsenter", &[&enter, "python3", "-c", &text, way]), LIMIT)
        .unwrap()
        .success()
        .unwrap();
    sink.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut line = String::new();
    BufReader::new(sink.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let (seen, canary) = line.trim().split_once(' ').unwrap();
    let denied = stage.shop.status().unwrap()["kernel_denied"].as_array().unwrap().clone();
    let device = denied.iter().find(|one| one[0] == "packet-device").map(|one| one[1].clone());
    println!("{way}: {seen} packets arrived, canary: {canary}; dropped for the device so far {device:?}");
    (seen.parse().unwrap(), canary == "True")
}

#[test]
fn who_administers_a_namespace_with_an_uplink_gets_no_packet_of_a_socket_out() {
    let stage = Stage::open();
    for way in [
        "dial",
        "datagram",
        "output_dnat",
        "output_route",
        "prerouting_dnat",
        "loopback_routed_away",
        "loopback_renamed",
    ] {
        assert_eq!(tried(&stage, way), (0, false), "{way} is a way out");
    }
}

#[test]
fn packets_that_no_socket_sends_leave_by_an_uplink_as_the_threats_say() {
    let stage = Stage::open();
    for way in ["tee", "mirred", "netdev_dup", "tun", "packet"] {
        let (_, canary) = tried(&stage, way);
        assert!(canary, "{way} is closed: say so in THREATS.md and turn this around");
    }
}

/// What an account without rights can do in a user and network namespace of its own, where no jail refuses to make one.
const OWN: &str = r"
raise_loopback()
def sh(line):
    return os.system(line + ' 2>/dev/null') == 0
print('delete loopback', sh('ip link del lo'), 'move it', sh('ip link set lo netns 1'))
print('served', patient(FAR).getpeername()[0])
# `listen` without `bind` picks a port from a range that the owner of the namespace sets, and asks no program.
open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('%d %d' % (PORT, PORT))
s = socket.socket(); print('listen on its port', attempt(lambda: s.listen()))
open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('32768 60999')
# A server of its own behind the proxy's port.
t = socket.socket(); t.bind(('127.0.0.1', 9999)); t.listen()
nft = os.popen('nft -f - 2>&1', 'w')
nft.write('table ip t {\nchain o {\ntype nat hook output priority -100;\ntcp dport %d redirect to :9999\n}\n}\n' % PORT)
print('turn it round', nft.close() is None)
c = socket.socket(); c.settimeout(1.5)
try:
    c.connect(('192.0.2.9', 80)); print('met itself')
except (TimeoutError, OSError) as problem:
    print('met nobody')
# Two namespaces of its own with a wire between them: neither has another way.
there, tell = os.pipe()
pid = os.fork()
if pid == 0:
    unshare(); raise_loopback(); os.write(tell, b'x'); time.sleep(30); os._exit(0)
os.read(there, 1)
print('wire', sh('ip link add w0 type veth peer w1 netns %d && ip addr add 198.19.79.1/24 dev w0 && ip link set w0 up' % pid))
u = socket.socket(type=socket.SOCK_DGRAM); print('datagram on it', attempt(lambda: u.sendto(b'x', ('198.19.79.2', 9))))
os.kill(pid, 9)
";

#[test]
fn an_account_without_rights_gains_none_by_namespaces_of_its_own() {
    let stage = Stage::open();
    let (port, ip, far) = (stage.port(), stage.far.address().ip(), stage.far.address().port());
    let text = format!("{HELPERS}\nPORT, FAR = {port}, ('{ip}', {far})\n{OWN}");
    let account = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];
    let own = ["unshare", "--user", "--map-root-user", "--net", "/usr/bin/python3", "-c", &text];
    let mut command = stage.tagged("guest", "setpriv", &[&account[..], &own[..]].concat());
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let said = process::run(&mut command, LIMIT).unwrap().success().unwrap();
    let expected = [
        "delete loopback False move it False".to_owned(),
        format!("served {ip}"),
        "listen on its port EADDRINUSE".to_owned(),
        "turn it round True".to_owned(),
        "met nobody".to_owned(),
        "wire True".to_owned(),
        "datagram on it EPERM".to_owned(),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    let jailed = stage.shop.agent().run("unshare", ["--user", "--net", "true"]).unwrap();
    assert!(
        !jailed.status.success() && jailed.stderr.contains("Operation not permitted"),
        "{}",
        jailed.both()
    );
}
