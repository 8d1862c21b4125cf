//! Programs that somebody else, with root's rights, attached to the agents' cgroups: they open nothing, and where they stand in
//! our way the guard says so.
//!
//! Root can take the guard away; here is what happens to those who did not mean to.

use chaperone_tests::hand::BPF_CALL;

use super::*;

/// Loads a program of a few instructions, attaches it as the old way does, says so, and takes it away when told.
///
/// Arguments: cgroup, kind of program, hook, flags, and the program in hexadecimal.
const ATTACH: &str = r#"
where, kind, hook, flags, text = sys.argv[1], *map(int, sys.argv[2:5]), bytes.fromhex(sys.argv[5])
code, license = ctypes.create_string_buffer(text), ctypes.create_string_buffer(b'GPL')
load = struct.pack('IIQQIIQII16sII', kind, len(text) // 8, ctypes.addressof(code), ctypes.addressof(license),
                   0, 0, 0, 0, 0, b'foreign', 0, hook)
program = bpf(5, load)
cgroup = os.open(where, os.O_RDONLY)
bpf(8, struct.pack('IIII', cgroup, program, hook, flags))
print('attached', flush=True)
sys.stdin.read()
bpf(9, struct.pack('IIII', cgroup, program, hook, 0))
"#;

/// `r0 = 1; exit`.
const YES: &str = "b7000000010000009500000000000000";
const SOCK: u32 = 9;
const SKB: u32 = 8;
const SOCK_ADDR: u32 = 18;
/// `BPF_F_ALLOW_MULTI`.
const MULTI: u32 = 2;
/// Hooks that say yes to everything here, with their kinds: egress, sockets, connect and sendmsg of both families.
const HOOKS: [(u32, u32); 6] =
    [(SKB, 1), (SOCK, 2), (SOCK_ADDR, 10), (SOCK_ADDR, 11), (SOCK_ADDR, 14), (SOCK_ADDR, 15)];

/// Every way out that is tried: a datagram, a raw socket, a connection to a server of somebody else's.
const TRIES: &str = "print(attempt(lambda: socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 9))))\n\
    print(attempt(lambda: socket.socket(2, 3, 1)))\n";

/// A program of somebody else's, attached.
struct Foreign(Child);

impl Foreign {
    fn attach(cgroup: &Path, (kind, hook): (u32, u32), flags: u32, code: &str) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", &format!("{BPF_CALL}{ATTACH}")])
            .arg(cgroup)
            .args([kind, hook, flags].map(|number| number.to_string()))
            .arg(code)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut word = [0; 8];
        child.stdout.as_mut().unwrap().read_exact(&mut word).expect("not attached");
        Self(child)
    }

    fn yes_to_all(cgroup: &Path) -> Vec<Self> {
        HOOKS.into_iter().map(|hook| Self::attach(cgroup, hook, MULTI, YES)).collect()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// `user_ip4 = address; user_port = port; r0 = 1; exit`.
fn rewriting(address: Ipv4Addr, port: u16) -> String {
    let store = |offset: u8, word: u32| {
        // Move a constant into r2, store it in the context.
        let word: String = word.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("b4020000{word}6321{offset:02x}0000000000")
    };
    let ip = u32::from_ne_bytes(address.octets());
    format!("{}{}{YES}", store(4, ip), store(24, u32::from(port.to_be())))
}

impl World {
    fn parent(&self) -> PathBuf {
        Tree::find().unwrap().mount().join(&self.settings.parent)
    }

    /// Nothing that must be refused is let through, and what must arrive does.
    async fn is_tight(&self) {
        let listener = self.listen();
        assert_eq!(self.agent_says(TRIES), "EPERM\nEPERM");
        let agent = self.agent(&caller("AF_INET", "192.0.2.10"));
        let mut connection = next(&listener).await;
        assert_eq!(connection.origin.destination, "192.0.2.10:5432".parse().unwrap());
        answer(&mut connection).await;
        assert!(said(agent).ends_with("pong"));
    }
}

#[tokio::test]
async fn programs_that_say_yes_open_nothing_whether_they_came_later_or_hang_below() {
    let world = World::new();
    let beside = Foreign::yes_to_all(&world.parent());
    world.is_tight().await;
    drop(beside);
    let _below = Foreign::yes_to_all(world.agent_cgroup().path());
    world.is_tight().await;
    assert!(world.guard().effective().iter().all(|status| status.effective));
}

#[tokio::test]
async fn programs_that_say_yes_open_nothing_where_they_were_first() {
    let mut world = World::new();
    world.guard = None;
    uninstall(&world.settings, true).unwrap();
    Tree::find().unwrap().create(&world.settings.parent).unwrap();
    let first = Foreign::yes_to_all(&world.parent());
    world.install();
    world.is_tight().await;
    drop(first);
}

#[tokio::test]
async fn an_address_that_is_rewritten_after_us_is_not_reached() {
    let world = World::new();
    let listener = world.listen();
    let server = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 9), 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let code = rewriting(Ipv4Addr::new(127, 0, 0, 9), port);
    let foreign = Foreign::attach(&world.parent(), (SOCK_ADDR, 10), MULTI, &code);
    let script = "s = socket.socket(); s.settimeout(1)\n\
        try: s.connect(('192.0.2.1', 80)); print('through')\n\
        except (OSError, TimeoutError): print('stopped')";
    assert_eq!(world.agent_says(script), "stopped");
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "the agent reached a server that another program named");
    none(&listener).await;
    assert!(world.denied(Reason::PacketShape) >= 1, "the packet guard did not see it");
    drop(foreign);
    let agent = world.agent(&caller("AF_INET", "192.0.2.10"));
    answer(&mut next(&listener).await).await;
    assert!(said(agent).ends_with("pong"));
}

#[tokio::test]
async fn an_address_that_is_rewritten_before_us_is_judged_as_it_was_rewritten() {
    let world = World::new();
    let listener = world.listen();
    let code = rewriting(Ipv4Addr::new(192, 0, 2, 66), 6666);
    let _foreign = Foreign::attach(world.agent_cgroup().path(), (SOCK_ADDR, 10), MULTI, &code);
    let agent = world.agent(
        "s = socket.create_connection(('192.0.2.1', 80)); s.sendall(b'ping'); print(s.recv(4).decode())",
    );
    let mut connection = next(&listener).await;
    assert_eq!(connection.origin.destination, "192.0.2.66:6666".parse().unwrap());
    answer(&mut connection).await;
    assert_eq!(said(agent), "pong");
}

#[tokio::test]
async fn where_somebody_attached_a_program_that_allows_no_other_there_is_no_guard_and_nobody_says_there_is() {
    let mut world = World::new();
    world.guard = None;
    uninstall(&world.settings, true).unwrap();
    Tree::find().unwrap().create(&world.settings.parent).unwrap();
    let alone = Foreign::attach(&world.parent(), (SOCK_ADDR, 10), 0, YES);
    let problem = Guard::install(&world.settings).unwrap_err().to_string();
    assert!(problem.contains("agent_connect4"), "{problem}");
    let (status, printed) = world.launched("64123", "print('ran')");
    assert!(!status.success() && !printed.contains("ran\n"), "{printed}");
    drop(alone);
    world.install();
    world.is_tight().await;
}

#[tokio::test]
async fn a_program_below_that_allows_no_other_does_not_push_ours_aside() {
    let world = World::new();
    let _alone: Vec<Foreign> =
        HOOKS.into_iter().map(|hook| Foreign::attach(world.agent_cgroup().path(), hook, 0, YES)).collect();
    world.is_tight().await;
    let status = effective(&world.settings, &world.agent_cgroup()).unwrap();
    assert!(status.iter().all(|status| status.effective), "{status:?}");
}
