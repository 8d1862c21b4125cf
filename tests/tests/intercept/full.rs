//! Full tables and exhausted storage: the newcomer or the guilty one is denied and told of, everybody else goes on.
//!
//! Tables are filled by root's hand, through their pins, with keys that belong to nobody.

use chaperone::intercept::AccountCounts;
use chaperone_tests::hand::BPF_CALL;
use chaperone_tests::{temp, wait};

use super::*;

/// As many connections as wait in the proxy's queue, and as many again as one account may have under way.
const QUEUE: u64 = 4096;
const QUOTA: u64 = 4096;

/// Fills a pinned table, whose keys are `size` bytes, with made-up keys until it is full, or takes those away again.
const FILL: &str = r#"
import itertools
path, what, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
text = ctypes.create_string_buffer(path.encode())
table = bpf(7, struct.pack('QII', ctypes.addressof(text), 0, 0))
value = ctypes.create_string_buffer(256)
count = 0
for number in itertools.count():
    key = ctypes.create_string_buffer(struct.pack('Q', 0xfeed << 48 | number).ljust(size, b'\xee'))
    try:
        if what == 'fill':
            bpf(2, struct.pack('IxxxxQQQ', table, ctypes.addressof(key), ctypes.addressof(value), 1))
        else:
            bpf(3, struct.pack('IxxxxQ', table, ctypes.addressof(key)))
        count += 1
    except OSError as problem:
        assert problem.errno in (7, 2), problem
        break
print(count)
"#;

/// Opens connections and keeps them: how each ended, by the name of its error.
const KNOCK: &str = "import collections, resource\n\
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)\n\
    held, ends = [], collections.Counter()\n\
    def knock(count):\n\
    \x20   for number in range(count):\n\
    \x20       s = socket.socket(); s.setblocking(False)\n\
    \x20       ends[errno.errorcode.get(s.connect_ex(('192.0.2.1', 80)), 'ok')] += 1; held.append(s)\n";

/// A word that an agent waits for.
struct Word(temp::Dir);

impl Word {
    fn new() -> Self {
        Self(temp::Dir::new("word").unwrap())
    }

    /// Waits for it, in Python.
    fn awaited(&self) -> String {
        format!("while not os.path.exists('{}/go'): time.sleep(0.02)", self.0.path().display())
    }

    fn give(&self) {
        fs::write(self.0.path().join("go"), "").unwrap();
    }
}

impl World {
    /// Fills a table or takes away what filled it; how many entries that were.
    fn by_hand(&self, what: &str, table: &str, key_bytes: usize) -> u64 {
        let mut pins = pins(&self.settings.pin_dir).into_iter().map(|(path, _)| path);
        let pin = pins.find(|path| path.file_name().is_some_and(|name| name == table)).unwrap();
        let output = Command::new("python3")
            .args(["-c", &format!("{BPF_CALL}{FILL}")])
            .arg(pin)
            .args([what, &key_bytes.to_string()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    fn of(&self, account: &str) -> (Cgroup, AccountCounts) {
        let tree = Tree::find().unwrap();
        let id = tree.create(&self.settings.parent.join(account)).unwrap().id();
        let run = tree.create(&self.settings.parent.join(account).join("1")).unwrap();
        let counts = self.guard().accounts().unwrap().counts().unwrap();
        let none = AccountCounts { cgroup_id: id, ..AccountCounts::default() };
        (run, counts.into_iter().find(|one| one.cgroup_id == id).unwrap_or(none))
    }

    /// Waits until nothing of an account is under way.
    fn settled(&self, account: &str) -> AccountCounts {
        wait::until("an account to settle", PATIENCE, || {
            let (_, counts) = self.of(account);
            let settled = counts.under_way == 0 && counts.redirected == counts.delivered + counts.unanswered;
            Ok(settled.then_some(counts))
        })
        .unwrap()
    }
}

/// The next report of this reason.
async fn told(world: &World, reason: Reason) -> chaperone::intercept::DenyEvent {
    let mut events = world.guard().events().unwrap();
    loop {
        let event = timeout(PATIENCE, events.next()).await.expect("nothing was told").unwrap();
        if event.reason == reason {
            return event;
        }
    }
}

/// An agent of this account connects and is answered.
async fn works(world: &World, listener: &Listener, account: &str) {
    let agent = world.python(&caller("AF_INET", "192.0.2.77"), Some(&world.of(account).0));
    loop {
        let mut connection = next(listener).await;
        if connection.origin.destination == "192.0.2.77:5432".parse().unwrap() {
            answer(&mut connection).await;
            break;
        }
    }
    assert!(said(agent).ends_with("pong"));
}

#[tokio::test]
async fn an_agent_that_has_its_quota_under_way_is_denied_and_told_of_and_no_other_is() {
    let world = World::new();
    let listener = world.listen();
    let greedy = world.python(
        &format!("{KNOCK}knock(9500)\nprint(ends['EPERM'], ends['EINPROGRESS'] + ends['ok'])"),
        Some(&world.of("greedy").0),
    );
    // Nobody accepts: the queue fills, and then what is under way.
    let printed = tokio::task::spawn_blocking(|| said(greedy)).await.unwrap();
    let (denied, through) = printed.split_once(' ').unwrap();
    let (denied, through): (u64, u64) = (denied.parse().unwrap(), through.parse().unwrap());
    assert!((QUOTA..=QUEUE + 1 + QUOTA).contains(&through), "{printed}");
    assert_eq!(world.denied(Reason::FlowQuota), denied);
    let event = told(&world, Reason::FlowQuota).await;
    assert_eq!(event.destination, Some("192.0.2.1:80".parse().unwrap()));
    assert_eq!(event.cgroup_id, world.of("greedy").0.id());
    // Its sockets are closed, so nothing of it is under way; nor was anything counted that never was.
    let counts = world.settled("greedy");
    assert_eq!((counts.redirected, counts.denied), (through, denied));
    assert_eq!(world.guard().flows_waiting().unwrap(), 0);
    works(&world, &listener, "other").await;
    works(&world, &listener, "greedy").await;
    assert_eq!(world.denied(Reason::FlowQuota), denied, "somebody was denied once there was room");
}

#[tokio::test]
async fn another_agent_connects_while_one_has_its_quota_under_way() {
    let world = World::new();
    let _listener = world.listen();
    let word = Word::new();
    let mut greedy = world.python(
        &format!("{KNOCK}knock(9500)\nprint('full', flush=True)\n{}", word.awaited()),
        Some(&world.of("greedy").0),
    );
    greedy.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
    assert_eq!(world.of("greedy").1.under_way, QUOTA);
    let other = world.python(&format!("{KNOCK}knock(10)\nprint(dict(ends))"), Some(&world.of("other").0));
    let printed = tokio::task::spawn_blocking(|| said(other)).await.unwrap();
    assert_eq!(printed, "{'EINPROGRESS': 10}", "another agent was denied");
    assert_eq!(world.of("greedy").1.under_way, QUOTA, "more than its quota is under way");
    word.give();
    said(greedy);
    world.settled("greedy");
    world.settled("other");
}

#[tokio::test]
async fn what_fails_before_it_starts_is_not_counted_as_under_way() {
    let world = World::new();
    let _listener = world.listen();
    // The same source port twice: the second never starts. Then a socket that defers its start and never sends.
    let printed = world.agent_says(
        "def at(port):\n\
         \x20   s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', port)); return s\n\
         one, two = at(0), None\n\
         two = at(one.getsockname()[1])\n\
         print(attempt(lambda: one.connect(('192.0.2.1', 80))), attempt(lambda: two.connect(('192.0.2.2', 80))))\n\
         late = socket.socket(); late.setsockopt(6, 30, 1); print(attempt(lambda: late.connect(('192.0.2.3', 80))))",
    );
    assert_eq!(printed, "ok EADDRNOTAVAIL\nok");
    let counts = world.settled("reporter");
    assert!(counts.redirected == counts.delivered && counts.delivered <= 2, "{counts:?}");
}

#[tokio::test]
async fn an_account_that_finds_the_table_of_accounts_full_is_denied_and_the_others_go_on() {
    let world = World::new();
    let listener = world.listen();
    works(&world, &listener, "known").await;
    assert!(world.by_hand("fill", "ACCOUNTS", 8) > 16_000);
    let newcomer = world.python(
        "print(attempt(lambda: socket.socket().connect(('192.0.2.1', 80))))",
        Some(&world.of("newcomer").0),
    );
    assert_eq!(said(newcomer), "EPERM");
    let event = told(&world, Reason::AccountFull).await;
    assert_eq!(event.cgroup_id, world.of("newcomer").0.id());
    works(&world, &listener, "known").await;
    world.by_hand("clear", "ACCOUNTS", 8);
    works(&world, &listener, "newcomer").await;
    assert_eq!(world.settled("newcomer").delivered, 1);
}

#[tokio::test]
async fn a_connection_that_finds_the_table_of_flows_full_is_reset_and_told_and_open_ones_go_on() {
    let world = World::new();
    let listener = world.listen();
    let word = Word::new();
    let open = world.agent(&format!(
        "s = socket.create_connection(('192.0.2.77', 5432)); s.sendall(b'ping'); assert s.recv(4) == b'pong'\n\
         {}\ns.sendall(b'ping'); print(s.recv(4).decode())",
        word.awaited()
    ));
    let mut connection = next(&listener).await;
    answer(&mut connection).await;
    assert_eq!(world.by_hand("fill", "FLOWS", 48), 65_536);
    let late = world.agent("print(attempt(lambda: socket.create_connection(('192.0.2.1', 80)).recv(1)))");
    let printed = tokio::task::spawn_blocking(|| said(late));
    tokio::select! {
        printed = printed => assert_eq!(printed.unwrap(), "ECONNRESET"),
        connection = listener.accept() => panic!("accepted {connection:?}"),
    }
    let event = told(&world, Reason::FlowsFull).await;
    assert_eq!(event.destination, Some("192.0.2.1:80".parse().unwrap()));
    assert!(event.pid.is_some());
    word.give();
    answer(&mut connection).await;
    assert_eq!(said(open), "pong");
    world.by_hand("clear", "FLOWS", 48);
    works(&world, &listener, "reporter").await;
    assert_eq!(world.settled("reporter").unanswered, 1);
}

#[tokio::test]
async fn a_namespace_that_finds_the_table_of_scopes_full_gets_no_proxy_and_is_denied() {
    let world = World::new();
    let listener = world.listen();
    let (namespaces, _elsewhere, _askers) =
        world.guard().namespaces(&chaperone::shutdown::Shutdown::default()).unwrap();
    assert!(world.by_hand("fill", "SCOPES", 8) > 4000);
    let agent = world.agent(
        "import ctypes; assert ctypes.CDLL(None).unshare(0x40000000) == 0; print('in', flush=True); time.sleep(1.5)\n\
         print(attempt(lambda: socket.socket().connect(('192.0.2.1', 80))))",
    );
    let mut met = Vec::new();
    while met.is_empty() {
        met = namespaces.glance().unwrap();
    }
    assert!(met.iter().all(|one| one.outcome.is_err()) && namespaces.count() == 0, "{met:?}");
    assert_eq!(said(agent), "in\nEPERM");
    told(&world, Reason::NamespaceUnknown).await;
    works(&world, &listener, "reporter").await;
    world.by_hand("clear", "SCOPES", 8);
}

#[tokio::test]
async fn a_flood_of_namespaces_fills_the_ring_of_sightings_and_lets_nothing_through() {
    let world = World::new();
    let listener = world.listen();
    // The ring holds 64 KiB of 32 bytes each. Nobody reads it here.
    let flood = world.agent(
        "import ctypes\nunshare = ctypes.CDLL(None).unshare\nends = set()\n\
         for number in range(2200):\n\
         \x20   assert unshare(0x40000000) == 0\n\
         \x20   ends.add(attempt(lambda: socket.socket().connect(('192.0.2.1', 80))))\n\
         print(ends)",
    );
    let printed = tokio::task::spawn_blocking(|| said(flood)).await.unwrap();
    assert_eq!(printed, "{'EPERM'}");
    assert_eq!(world.denied(Reason::NamespaceUnknown), 2200);
    works(&world, &listener, "reporter").await;
    // What is read makes room again.
    let mut sights = world.guard().sights().unwrap();
    let mut read = 0;
    while timeout(Duration::from_millis(200), sights.next()).await.is_ok() {
        read += 1;
    }
    assert!((2000..2200).contains(&read), "the ring was not full: {read}");
    world.agent_says("import ctypes; ctypes.CDLL(None).unshare(0x40000000); socket.socket()");
    timeout(PATIENCE, sights.next()).await.expect("no sighting any more").unwrap();
}

#[tokio::test]
async fn a_socket_without_room_for_a_stamp_goes_nowhere() {
    let world = World::new();
    let listener = world.listen();
    // Keys for signed segments need no privilege, and are charged to the same account of the socket as stamps are.
    let printed = world.agent_says(
        "def stuffed(family, kind, filler):\n\
         \x20   s = socket.socket(family, kind)\n\
         \x20   for number in range(4000):\n\
         \x20       if attempt(lambda: filler(s, number)) != 'ok': break\n\
         \x20   return s, number\n\
         def key(s, number):\n\
         \x20   address = struct.pack('=HH4s120x', 2, 0, struct.pack('>I', 0x0a000000 + number))\n\
         \x20   s.setsockopt(6, 14, address + struct.pack('=BBHI80s', 0, 0, 5, 0, b'12345'))\n\
         s, keys = stuffed(2, 1, key)\n\
         print(keys > 100, attempt(lambda: s.connect(('192.0.2.1', 80))), attempt(lambda: s.connect(('192.0.2.1', 80))))",
    );
    assert_eq!(printed, "True EPERM EPERM");
    assert_eq!(world.denied(Reason::StampFailed), 2);
    let event = told(&world, Reason::StampFailed).await;
    assert_eq!(event.destination, Some("192.0.2.1:80".parse().unwrap()));
    assert_eq!(world.settled("reporter").redirected, 0);
    works(&world, &listener, "reporter").await;
}
