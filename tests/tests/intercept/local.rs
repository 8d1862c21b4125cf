//! Unix sockets of agents: by name they are denied or seen; pairs pass.
//!
//! The kernel of the machine that runs this takes the hooks; where one refuses them, these tests fail and say so.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Output;

use chaperone_tests::postgres::{Options, Server, program_path};
use chaperone_tests::{hand, temp};

use super::*;

/// An account that is no agent's and not root.
const SOMEBODY: &str = "64123";

/// Uses unix sockets in every way there is; `sys.argv[1]` is a folder with a stream and a datagram socket.
const USES: &str = "
stream, gram = socket.socket(1), socket.socket(1, socket.SOCK_DGRAM)
folder = sys.argv[1]
print('stream', attempt(lambda: stream.connect(folder + '/stream')))
print('datagram', attempt(lambda: gram.sendto(b'x', folder + '/gram')))
print('connected', attempt(lambda: gram.connect(folder + '/gram')))
os.chdir(folder)
print('relative', attempt(lambda: socket.socket(1).connect('stream')))
where = os.open(folder, os.O_PATH)
print('descriptor', attempt(lambda: socket.socket(1).connect(f'/proc/self/fd/{where}/stream')))
print('abstract', attempt(lambda: socket.socket(1).connect('\\0' + sys.argv[2])))
a, b = socket.socketpair()
a.sendall(b'pair')
print('pair', b.recv(4).decode())
";

/// The names that `USES` connects to.
struct Names {
    dir: temp::Dir,
    abstract_name: String,
    _stream: UnixListener,
    gram: std::os::unix::net::UnixDatagram,
    _abstract: UnixListener,
}

impl Names {
    fn bind() -> Self {
        use std::os::linux::net::SocketAddrExt;
        let dir = temp::Dir::new("local").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let stream = UnixListener::bind(dir.path().join("stream")).unwrap();
        let gram = std::os::unix::net::UnixDatagram::bind(dir.path().join("gram")).unwrap();
        for name in ["stream", "gram"] {
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        let abstract_name = format!("chaperone-{}", temp::unique());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        Self { dir, abstract_name, _stream: stream, gram, _abstract: listener }
    }

    /// What an account is told as an agent.
    fn used_by(&self, world: &World, uid: &str, script: &str) -> Vec<String> {
        // It becomes the account by itself: programs that look accounts up use unix sockets to do so.
        let become_it = format!("os.setgroups([]); os.setgid({uid}); os.setuid({uid})");
        let script = format!("import errno, os, socket, sys\n{become_it}\n{HELPERS}\n{script}");
        let folder = self.dir.path().to_str().unwrap();
        let output = inside(world, &["/usr/bin/python3", "-c", &script, folder, &self.abstract_name]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

/// Runs a program as an agent without a jail, as a unit in the agents' slice.
fn inside(world: &World, command: &[&str]) -> Output {
    let cgroup = world.agent_cgroup();
    let enter = format!("echo $$ > '{}/cgroup.procs' || exit 99; exec \"$@\"", cgroup.path().display());
    Command::new("sh").args(["-c", &enter, "sh"]).args(command).output().unwrap()
}

fn with(unix_sockets: UnixSockets, sentinel: Sentinel) -> World {
    let mut world = World::new();
    world.guard = None;
    world.settings.unix_sockets = unix_sockets;
    world.settings.sentinel = sentinel;
    // Looked at by themselves, in `security`.
    world.settings.security_hooks = SecurityHooks::Off;
    world.install();
    let refused: Vec<_> = world.guard().features().into_iter().filter_map(|one| one.refused).collect();
    assert!(refused.is_empty(), "{refused:?}");
    world
}

/// What `USES` prints where names are refused, and where they are not.
fn all(answer: &str) -> Vec<String> {
    let ways = ["stream", "datagram", "connected", "relative", "descriptor", "abstract"];
    ways.iter().map(|way| format!("{way} {answer}")).chain(["pair pair".to_owned()]).collect()
}

#[test]
fn a_unix_socket_is_denied_by_name_whatever_the_name_and_a_pair_passes() {
    let (world, names) = (with(UnixSockets::Denied, Sentinel::Off), Names::bind());
    for (many, uid) in [(6, SOMEBODY), (12, "0")] {
        assert_eq!(names.used_by(&world, uid, USES), all("EPERM"));
        assert_eq!(world.denied(Reason::UnixSocket), many);
    }
    assert_eq!(world.denied(Reason::UnixSocketSeen), 0);
    names.gram.set_nonblocking(true).unwrap();
    assert!(names.gram.recv(&mut [0; 1]).is_err(), "a datagram arrived");
}

#[test]
fn by_default_root_alone_is_let_pass_and_seen() {
    let (world, names) = (with(UnixSockets::DeniedUnlessRoot, Sentinel::Off), Names::bind());
    assert_eq!(names.used_by(&world, "0", USES), all("ok"));
    assert_eq!((world.denied(Reason::UnixSocket), world.denied(Reason::UnixSocketSeen)), (0, 6));
    assert_eq!(names.used_by(&world, SOMEBODY, USES), all("EPERM"));
    assert_eq!((world.denied(Reason::UnixSocket), world.denied(Reason::UnixSocketSeen)), (6, 6));
}

#[tokio::test]
async fn audited_unix_sockets_work_and_are_reported_with_their_process() {
    let (world, names) = (with(UnixSockets::Audited, Sentinel::Off), Names::bind());
    let mut events = world.guard().events().unwrap();
    assert_eq!(names.used_by(&world, SOMEBODY, USES), all("ok"));
    let event = timeout(PATIENCE, events.next()).await.unwrap().unwrap();
    assert_eq!((event.reason, event.reason.denies()), (Reason::UnixSocketSeen, false));
    assert_eq!((event.uid, event.cgroup_id), (Some(64_123), world.agent_cgroup().id()));
    assert!(event.pid.is_some() && event.destination.is_none());
}

#[test]
fn open_unix_sockets_are_neither_denied_nor_seen_and_outsiders_never_are() {
    let names = Names::bind();
    let world = with(UnixSockets::Open, Sentinel::On);
    assert_eq!(names.used_by(&world, SOMEBODY, USES), all("ok"));
    drop(world);
    let world = with(UnixSockets::Denied, Sentinel::On);
    std::os::unix::net::UnixStream::connect(names.dir.path().join("stream")).unwrap();
    assert_eq!((world.denied(Reason::UnixSocket), world.denied(Reason::UnixSocketSeen)), (0, 0));
}

#[test]
fn a_quarantined_agent_uses_no_unix_socket_even_where_they_are_audited() {
    let (world, names) = (with(UnixSockets::Audited, Sentinel::Off), Names::bind());
    world.guard().accounts().unwrap().quarantine(&[world.agent_cgroup().id()]).unwrap();
    assert_eq!(names.used_by(&world, SOMEBODY, USES), all("EPERM"));
    assert_eq!(world.denied(Reason::Quarantined), 6);
}

#[test]
fn an_agent_reaches_no_postgres_by_its_unix_socket_and_where_audited_it_is_seen() {
    // Not while another test has this process in a cgroup of its own: the server would keep it.
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let server = Server::start(&Options::default()).unwrap();
    drop(turn);
    let (socket, port) = (server.socket(), server.port().to_string());
    let folder = socket.parent().unwrap();
    let ask = |world: &World| {
        let psql = program_path("psql");
        let (psql, folder) = (psql.to_str().unwrap(), folder.to_str().unwrap());
        let words =
            [psql, "-X", "-A", "-t", "-w", "-h", folder, "-p", &port, "-U", "postgres", "-d", "postgres"];
        // The folder of the sockets is that account's.
        let account = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
        inside(world, &[&account[..], &words, &["-c", "SELECT 41 + 1"]].concat())
    };
    let world = with(UnixSockets::DeniedUnlessRoot, Sentinel::Off);
    let seen = ask(&world);
    let told = String::from_utf8_lossy(&seen.stderr).into_owned();
    assert!(!seen.status.success() && told.contains("Operation not permitted"), "{told}");
    assert!(world.denied(Reason::UnixSocket) > 0);
    drop(world);
    let world = with(UnixSockets::Audited, Sentinel::Off);
    let seen = ask(&world);
    assert_eq!(
        String::from_utf8_lossy(&seen.stdout).trim(),
        "42",
        "{}",
        String::from_utf8_lossy(&seen.stderr)
    );
    assert!(world.denied(Reason::UnixSocketSeen) > 0);
}

/// As `sentinel::LATE`: sockets first, the cgroup afterwards.
const LATE: &str = "import errno, os, socket, sys
stream, gram = socket.socket(1), socket.socket(1, socket.SOCK_DGRAM)
open(sys.argv[3] + '/cgroup.procs', 'w').write(str(os.getpid()))
def attempt(what):
    try:
        what(); return 'ok'
    except OSError as problem:
        return errno.errorcode[problem.errno]
print(attempt(lambda: stream.connect(sys.argv[1] + '/stream')), attempt(lambda: gram.sendto(b'x', sys.argv[1] + '/gram')))
";

#[test]
fn a_unix_socket_that_was_made_outside_is_denied_by_the_sentinel_and_by_nothing_else() {
    let names = Names::bind();
    for (sentinel, expected, many) in [(Sentinel::Off, "ok ok", 0), (Sentinel::On, "EPERM EPERM", 2)] {
        let world = with(UnixSockets::Denied, sentinel);
        let output = Command::new("python3")
            .args(["-c", LATE])
            .arg(names.dir.path())
            .arg(&names.abstract_name)
            .arg(world.agent_cgroup().path())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected);
        assert_eq!(world.denied(Reason::UnixSocket), many);
        // What the agent makes itself is told once.
        names.used_by(&world, SOMEBODY, USES);
        assert_eq!(world.denied(Reason::UnixSocket), many + 6);
    }
}

#[test]
fn optional_programs_come_and_go_with_their_settings_and_are_mended() {
    let mut world = with(UnixSockets::Audited, Sentinel::On);
    let listed =
        |world: &World| -> Vec<&str> { world.guard().effective().iter().map(|one| one.name).collect() };
    let local = ["agent_unixconn", "agent_unixsend", "sentinel_uconn", "sentinel_usend"];
    assert!(local.iter().all(|name| listed(&world).contains(name)));
    assert!(world.guard().effective().iter().all(|one| one.effective));
    let pin =
        fs::read_dir(&world.settings.pin_dir).unwrap().flatten().map(|entry| entry.path().join(local[0]));
    let pin = pin.into_iter().find(|pin| pin.exists()).unwrap();
    fs::remove_file(&pin).unwrap();
    assert_eq!(world.guard().mend().unwrap(), [local[0]]);
    assert!(pin.exists() && world.guard().effective().iter().all(|one| one.effective));
    world.guard = None;
    world.settings.unix_sockets = UnixSockets::Open;
    world.settings.ingress = Ingress::Open;
    world.install();
    assert!(!pin.exists() && world.guard().features().is_empty());
    assert!(!local.iter().any(|name| listed(&world).contains(name)));
}

/// Attaches a program that lets everything pass to a cgroup, so that the kernel takes no other below it.
const ALONE: &str = r"
code = ctypes.create_string_buffer(struct.pack('<BBhi', 0xb7, 0, 0, 1) + struct.pack('<BBhi', 0x95, 0, 0, 0), 16)
license = ctypes.create_string_buffer(b'Apache-2.0')
program = bpf(5, struct.pack('IIQQ', 18, 2, ctypes.addressof(code), ctypes.addressof(license)) + bytes(44) + struct.pack('I', 49))
bpf(8, struct.pack('IIII', os.open(sys.argv[1], os.O_RDONLY), program, 49, 0))
";

#[test]
fn what_the_kernel_refuses_is_told_in_its_words_and_what_is_demanded_is_no_guard_without_it() {
    let world = with(UnixSockets::Open, Sentinel::Off);
    let parent = Tree::find().unwrap().mount().join(&world.settings.parent);
    let alone = Command::new("python3")
        .arg("-c")
        .arg(format!("{}{ALONE}", hand::BPF_CALL))
        .arg(&parent)
        .status()
        .unwrap();
    assert!(alone.success());
    let nested = |unix_sockets| Settings {
        parent: world.settings.parent.join("nested"),
        pin_dir: world.bpffs.join("nested"),
        unix_sockets,
        ..world.settings.clone()
    };
    let guard = Guard::install(&nested(UnixSockets::DeniedUnlessRoot)).unwrap();
    let features = guard.features();
    let told = |name: &str| features.iter().find(|one| one.name == name).unwrap().refused.clone();
    let refused = told("agent_unixconn").unwrap();
    assert!(refused.contains("agent_unixconn") && refused.contains("Operation not permitted"), "{refused}");
    assert_eq!((told("agent_unixsend"), told("agent_ingress")), (None, None));
    assert!(guard.effective().iter().all(|one| one.effective && one.name != "agent_unixconn"));
    assert!(guard.mend().unwrap().is_empty(), "a program that was refused is missed");
    drop(guard);
    let demanded = Guard::install(&nested(UnixSockets::Denied)).map(drop).unwrap_err().to_string();
    assert!(demanded.contains("agent_unixconn"), "{demanded}");
    uninstall(&nested(UnixSockets::Open), true).unwrap();
}
