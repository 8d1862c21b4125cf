//! Names as agents' own clients ask for them: the daemon's resolver on a real kernel, with upstream resolvers that are honest,
//! slow, or lie.
//!
//! Real daemon, agents in their own cgroup, the C library's resolver and hand-made questions. Upstreams are made here, on
//! loopback. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops where it fails")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chaperone::intercept::Tree;
use chaperone_tests::agent::{Agent, UID};
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::postgres::{Options, Server, program_path};
use chaperone_tests::shop::{self, AGENT};
use chaperone_tests::{process, sample, temp, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

#[path = "dns/upstream.rs"]
mod upstream;

use upstream::{Liar, Roads, Upstream};

const LIMIT: Duration = Duration::from_secs(30);

const POLICY: &str = r#"
@id("example-names")
permit (principal in Unidentified::"worker", action, resource == Resource::"dns")
when { context.effects.contains("resolve") && context has name && context.name like "*.example" };

@id("no-secret-names")
forbid (principal, action == Action::"run", resource == Resource::"dns")
when { context has name && context.name like "secret.*" };

@id("everything-else")
permit (principal == Unidentified::"worker", action, resource);
"#;

const EVERY_NAME: &str = r#"
@id("all") permit (principal in Unidentified::"worker", action, resource == Resource::"dns");
"#;

/// What every script may use: hand-made questions and answers in words.
const CLIENT: &str = r"
import os, random, socket, struct, sys, time
CODES = {0: 'NOERROR', 1: 'FORMERR', 2: 'SERVFAIL', 3: 'NXDOMAIN', 4: 'NOTIMP', 5: 'REFUSED'}
KINDS = {'A': 1, 'NS': 2, 'CNAME': 5, 'PTR': 12, 'MX': 15, 'TXT': 16, 'AAAA': 28, 'HTTPS': 65, 'ANY': 255}
def question(name, kind='A', edns=True, number=None):
    number = random.randrange(65536) if number is None else number
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\0'
    extra = b'\0\0\x29' + struct.pack('>HIH', 1232, 0, 0) if edns else b''
    return struct.pack('>6H', number, 0x0100, 1, 0, 0, 1 if edns else 0) + labels + struct.pack('>HH', KINDS[kind], 1) + extra
def skip(data, at):
    while data[at]:
        if data[at] >= 192: return at + 2
        at += data[at] + 1
    return at + 1
def read(data):
    number, flags, questions, answers, _, _ = struct.unpack('>6H', data[:12])
    at, found = 12, []
    for _ in range(questions): at = skip(data, at) + 4
    for _ in range(answers):
        at = skip(data, at); kind, _, ttl, length = struct.unpack('>HHIH', data[at:at + 10]); at += 10
        body = data[at:at + length]; at += length
        found.append({1: lambda: socket.inet_ntoa(body), 28: lambda: socket.inet_ntop(10, body)}.get(kind, lambda: 'type%d' % kind)())
    return ' '.join([CODES.get(flags & 15, '?') + ('+TC' if flags & 0x200 else '')] + found)
def udp(name, kind='A', server='192.0.2.53', edns=True, wait=8):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(wait)
    q = question(name, kind, edns); s.sendto(q, (server, 53))
    try: data, sender = s.recvfrom(65535)
    except TimeoutError: return 'silence'
    assert sender == (server, 53) and data[:2] == q[:2], (sender, data[:2])
    return read(data)
def tcp(name, kind='A', server='192.0.2.53'):
    s = socket.create_connection((server, 53), 8); s.settimeout(8)
    q = question(name, kind); s.sendall(struct.pack('>H', len(q)) + q)
    length = struct.unpack('>H', s.recv(2, socket.MSG_WAITALL))[0]
    return read(s.recv(length, socket.MSG_WAITALL))
def resolve(name):
    try: return sorted({a[4][0] for a in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)})
    except socket.gaierror as problem: return problem.strerror
";

/// A daemon with one agent and a policy for names, in front of an upstream.
struct Stage {
    daemon: Daemon,
    upstream: Upstream,
    _roads: Roads,
}

impl Stage {
    fn open(liar: Liar) -> Self {
        Self::with(liar, "", "")
    }

    fn with(liar: Liar, names: &str, tables: &str) -> Self {
        Self::under(POLICY, liar, names, tables)
    }

    fn under(policy: &str, liar: Liar, names: &str, tables: &str) -> Self {
        let upstream = Upstream::start(liar).unwrap();
        let mut plan = Plan::default()
            .with(&format!("[[agent]]\nname = \"{AGENT}\"\n"))
            .with(tables)
            .policy("test.cedar", policy)
            .policy("columns.toml", "");
        plan.names = format!("upstreams = [\"{}\"]\n{names}", upstream.address());
        Self { daemon: Daemon::start(&plan).unwrap(), upstream, _roads: Roads::new().unwrap() }
    }

    /// What the agent's script prints.
    fn says(&self, script: &str) -> String {
        let agent = Agent::new(&self.daemon, AGENT).with_uid(UID);
        let mut command = agent.python(&format!("{CLIENT}\n{script}"), &[]).unwrap();
        let finished = process::run(&mut command, LIMIT).unwrap();
        finished.success().unwrap().trim().to_owned()
    }

    fn records(&self, kind: &str) -> Vec<Value> {
        let text =
            self.daemon.cli(&["audit", "search", "--json", "--event", kind]).unwrap().success().unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn field<'v>(record: &'v Value, key: &str) -> &'v str {
    record.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn a_permitted_name_is_resolved_by_the_c_library_and_a_forbidden_one_does_not_leave() {
    let stage = Stage::open(Liar::Honest);
    let printed = stage.says(
        "print(resolve('www.example')); print(resolve('www.other')); print(resolve('secret.example'))\n\
         print(resolve('alias.example'))",
    );
    let unknown = "Name or service not known";
    assert_eq!(
        printed,
        format!("['198.51.100.7', '2001:db8::7']\n{unknown}\n{unknown}\n['198.51.100.7', '2001:db8::7']")
    );
    let asked = stage.upstream.asked();
    assert!(asked.contains("www.example") && asked.contains("alias.example"));
    assert!(!asked.iter().any(|name| name.contains("other") || name.contains("secret")), "{asked:?}");
    let resolved = stage.records("name_resolved");
    assert_eq!(field(&resolved[0], "name"), "www.example");
    assert!(resolved[0]["policies"].as_array().unwrap().contains(&Value::from("example-names")));
    let denied = stage.records("name_denied");
    let by_name = |name: &str| denied.iter().find(|record| field(record, "name") == name).unwrap();
    assert_eq!(field(by_name("www.other"), "reason"), "policy");
    assert_eq!(by_name("secret.example")["policies"], serde_json::json!(["no-secret-names"]));
}

#[test]
fn a_permit_that_does_not_speak_of_the_resolver_permits_no_name() {
    let stage = Stage::open(Liar::Honest);
    // `everything-else` would permit it.
    let printed = stage.says(
        "print(udp('www.elsewhere.net'))\n\
         s = socket.socket(2, 2); s.settimeout(8); s.sendto(question('www.elsewhere.net'), ('192.0.2.53', 53)); print(s.recv(999).endswith(b'\\0\\x12refused by chaperone: policy'))",
    );
    // And a client that understands it is told why.
    assert_eq!(printed, "NXDOMAIN\nTrue");
    assert!(stage.upstream.asked().is_empty());
}

#[test]
fn questions_over_tcp_and_over_every_kind_of_socket_are_answered_alike() {
    let stage = Stage::open(Liar::Honest);
    let printed = stage.says(
        "print(udp('www.example'), tcp('www.example'), tcp('www.other'), tcp('www.example', 'AAAA', '127.0.0.53'))\n\
         c = socket.socket(2, 2); c.settimeout(8); c.connect(('9.9.9.9', 53)); c.send(question('www.example'))\n\
         print(read(c.recv(9999)), *c.getpeername())\n\
         v = socket.socket(10, 2); v.settimeout(8)\n\
         for a in ('::ffff:9.9.9.9', '2620:fe::fe'):\n\
         \x20   v.sendto(question('www.example'), (a, 53)); data, sender = v.recvfrom(9999); print(read(data), sender[0])\n\
         # As musl does: one socket, all resolvers at once, and whoever answers first.\n\
         m = socket.socket(2, 2); m.settimeout(8)\n\
         for n in (1, 2, 3): m.sendto(question('www.example', 'A', number=n), ('192.0.2.%d' % n, 53))\n\
         print(all(d[:2] == struct.pack('>H', int(s[0][-1])) for d, s in (m.recvfrom(9999) for n in range(3))))",
    );
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[0], "NOERROR 198.51.100.7 NOERROR 198.51.100.7 NXDOMAIN NOERROR 2001:db8::7");
    assert_eq!(lines[1], "NOERROR 198.51.100.7 9.9.9.9 53");
    assert_eq!(lines[2], "NOERROR 198.51.100.7 ::ffff:9.9.9.9");
    assert_eq!(lines[3], "NOERROR 198.51.100.7 2620:fe::fe");
    assert_eq!(lines[4], "True");
    let connections = wait::until("records of three connections", LIMIT, || {
        let all = stage.records("names_connection");
        Ok((all.len() == 3).then_some(all))
    })
    .unwrap();
    assert!(connections.iter().all(|record| record["questions"] == 1 && field(record, "agent") == AGENT));
}

#[test]
fn a_connection_to_a_resolver_is_recorded_so_that_the_kernels_counts_and_the_record_agree() {
    let stage = Stage::open(Liar::Honest);
    stage.says("print(tcp('www.example'), tcp('www.other'))");
    assert_eq!(stage.records("resolver_connected").len(), 2);
    let seen = stage.daemon.cli(&["audit", "verify", "--kernel"]).unwrap();
    assert!(seen.status.success() && seen.stdout.contains("2 to resolvers"), "{}", seen.both());
}

#[test]
fn only_addresses_are_told_and_hints_for_encrypted_connections_are_not() {
    let stage = Stage::open(Liar::Honest);
    let printed = stage.says(
        "for kind in ('TXT', 'MX', 'NS', 'ANY', 'PTR'): print(udp('www.example', kind))\n\
         print(udp('1.2.0.192.in-addr.arpa', 'PTR')); print(udp('www.example', 'HTTPS')); print(udp('www.other', 'HTTPS'))\n\
         print(udp('localhost')); print(sum('127.0.0.1' in udp('n%d.x.localhost' % n) for n in range(70)))",
    );
    // Names below `localhost` are known without asking; there are no more new ones a minute than of others.
    assert_eq!(printed, format!("{}\nNOERROR\nNXDOMAIN\nNOERROR 127.0.0.1\n60", ["REFUSED"; 6].join("\n")));
    assert!(stage.upstream.asked().is_empty());
}

#[test]
fn known_encrypted_resolvers_are_not_told_even_where_a_policy_permits_them() {
    let stage = Stage::under(EVERY_NAME, Liar::Honest, "", "");
    let printed = stage.says(
        "print(udp('dns.google')); print(udp('x.dns.nextdns.io')); print(udp('www.google.com'))\n\
         for port in (853, 443):\n\
         \x20   try: print(socket.create_connection(('8.8.8.8', port), 5).recv(1))\n\
         \x20   except OSError as problem: print(type(problem).__name__)",
    );
    // DNS over TLS, and over HTTPS by address, is a destination that nobody registered.
    assert_eq!(
        printed,
        "NXDOMAIN\nNXDOMAIN\nNOERROR 198.51.100.7\nConnectionResetError\nConnectionResetError"
    );
    assert_eq!(stage.records("connection_refused").len(), 2);
}

#[test]
fn an_answer_that_points_into_the_hosts_own_network_is_refused_unless_a_resource_is_there() {
    let table = "[[resource]]\nname = \"inner\"\nprotocol = \"postgres\"\naddresses = [\"10.9.0.0/16:5432\"]\n\
                 credential = { user = \"u\" }\ntls = { mode = \"disable\" }\n";
    let stage = Stage::with(Liar::Honest, "", table);
    let printed = stage.says(
        "for name in ('rebind-127.0.0.1', 'rebind-169.254.169.254', 'rebind-10.8.0.1', 'rebind-10.9.0.1'):\n\
         \x20   print(udp(name.replace('.', '-') + '.example'))",
    );
    assert_eq!(printed, "NXDOMAIN\nNXDOMAIN\nNXDOMAIN\nNOERROR 10.9.0.1");
    let reasons: Vec<Value> = stage.records("name_denied");
    assert!(reasons.iter().all(|record| field(record, "reason") == "inward-address"));
    assert_eq!(reasons.len(), 3);
}

#[test]
fn an_answer_is_kept_for_its_time_however_often_it_is_asked_for() {
    let stage = Stage::open(Liar::Honest);
    // Five seconds are the least; each question comes within them.
    let printed = stage.says("for n in range(6): print(udp('short.example')); time.sleep(1.5)");
    assert_eq!(printed, ["NOERROR 198.51.100.7"; 6].join("\n"));
    let times = stage.upstream.times("short.example");
    assert!((2..=3).contains(&times), "asked {times} times");
}

#[test]
fn an_address_to_which_this_machine_knows_no_road_is_left_out_of_an_answer() {
    let stage = Stage::open(Liar::Honest);
    let printed = stage.says(
        "print(udp('far.example', 'AAAA'), udp('far.example'), udp('www.example', 'AAAA')); print(resolve('far.example'))",
    );
    assert_eq!(printed, "NOERROR NOERROR 198.51.100.7 NOERROR 2001:db8::7\n['198.51.100.7']");
    assert!(stage.records("name_denied").is_empty());
}

#[test]
fn a_resolver_that_lies_about_the_question_is_overheard_and_the_true_answer_counts() {
    let stage = Stage::open(Liar::Stranger);
    assert_eq!(stage.says("print(udp('www.example'))"), "NOERROR 198.51.100.7");
}

#[test]
fn a_resolver_that_loops_or_floods_or_says_nothing_costs_a_failure_and_no_more() {
    for liar in [Liar::Loop, Liar::SixtyFourKilobytes, Liar::ManyRecords, Liar::Garbage, Liar::Silent] {
        let stage = Stage::open(liar);
        let printed = stage.says("t = time.time(); print(udp('www.example')); print(time.time() - t < 6)");
        assert_eq!(printed, "SERVFAIL\nTrue", "{liar:?}");
        // It goes on answering what it knows itself.
        assert_eq!(stage.says("print(udp('localhost'))"), "NOERROR 127.0.0.1", "{liar:?}");
    }
}

#[test]
fn an_answer_that_does_not_fit_a_datagram_is_fetched_and_told_over_tcp() {
    let stage = Stage::open(Liar::Cut);
    let printed = stage.says(
        "print(udp('www.example', edns=False)); print(len(tcp('www.example').split())); print(len(resolve('www.example')))",
    );
    assert_eq!(printed, "NOERROR+TC\n33\n33");
}

#[test]
fn names_that_carry_data_and_ever_new_names_are_refused_and_a_flood_does_not_fill_the_record() {
    let stage = Stage::open(Liar::Honest);
    let printed = stage.says(
        "import base64, collections\n\
         noise = lambda n: base64.b32encode(os.urandom(n)).decode().strip('=').lower()\n\
         print(udp(noise(35) + '.' + noise(35) + '.t.tunnel.example'))\n\
         s = socket.socket(2, 2); s.settimeout(3); seen = collections.Counter()\n\
         for n in range(150):\n\
         \x20   s.sendto(question('n%d.tunnel.example' % n), ('192.0.2.53', 53)); seen[read(s.recv(9999)).split()[0]] += 1\n\
         print(seen['NOERROR'], seen['REFUSED'])\n\
         got = collections.Counter()\n\
         # On a slow machine more is let through before there are too many in a second.\n\
         began = time.time()\n\
         for batch in range(200):\n\
         \x20   if batch >= 20 and got['REFUSED'] > 100: break\n\
         \x20   for n in range(20): s.sendto(question('f%d.flood' % (batch * 20 + n)), ('192.0.2.53', 53))\n\
         \x20   got.update(read(s.recv(9999)) for n in range(20))\n\
         # As many as may come at once, and fifty a second.\n\
         print(got['REFUSED'] > 100, got.total() - got['REFUSED'] <= 210 + 50 * (time.time() - began), got.total())",
    );
    let (fixed, flood) = printed.rsplit_once(' ').unwrap();
    assert_eq!(fixed, "NXDOMAIN\n60 90\nTrue True");
    let flood: u64 = flood.parse().unwrap();
    assert!(!stage.upstream.asked().iter().any(|name| name.len() > 60), "data left in a name");
    let denied = stage.records("name_denied");
    assert_eq!(denied.len(), 16, "a flood was recorded name by name");
    assert_eq!(field(&denied[0], "reason"), "name-carries-data");
    let mut daemon = stage.daemon;
    daemon.stop(Signal::SIGTERM).unwrap();
    let text =
        daemon.cli(&["audit", "search", "--json", "--event", "name_denied"]).unwrap().success().unwrap();
    let counts =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["count"].as_u64().unwrap());
    assert!(counts.sum::<u64>() >= 1 + 90 + flood, "refusals went uncounted");
}

#[test]
fn a_name_that_carries_data_is_refused_however_it_is_packed() {
    let stage = Stage::open(Liar::Honest);
    let printed = stage.says(
        "A = 'abcdefghijklmnopqrstuvwxyz0123456789' * 4\n\
         three = [a + b + c for a, b, c in zip(A, A[7:], A[19:])][:59]\n\
         print(udp('.'.join(three) + '.attacker.example'), udp('.'.join(A[:118]) + '.attacker.example'))\n\
         # Just too much below the domain, just not, and too much in the domain and below.\n\
         print(udp('.'.join([A[:36], A[:36], A[:12], 't.example'])), udp('.'.join([A[:36], A[:36], A[:8], 't.example'])))\n\
         print(udp('.'.join([A[:40], A[:63], 'example'])))",
    );
    assert_eq!(printed, "NXDOMAIN NXDOMAIN\nNXDOMAIN NOERROR 198.51.100.7\nNXDOMAIN");
    assert_eq!(stage.upstream.asked().len(), 1, "{:?}", stage.upstream.asked());
    assert!(stage.records("name_denied").iter().all(|one| field(one, "reason") == "name-carries-data"));
}

#[test]
fn what_may_be_a_public_suffix_or_somebodys_domain_has_so_many_new_names_a_minute() {
    let stage = Stage::under(EVERY_NAME, Liar::Honest, "", "");
    // Each is a domain of its own, if `me.de` is a suffix. Slow enough for the limit on questions.
    let said = stage.says(
        "told = 0\n\
         for n in range(250): told += udp('n%d.me.de' % n).startswith('NOERROR'); time.sleep(0.01)\n\
         print(told, {udp('n250.me.de'), udp('n0.me.de')} == {'REFUSED', 'NOERROR 198.51.100.7'})",
    );
    assert_eq!(said, "240 True");
    assert_eq!(stage.upstream.asked().len(), 240);
}

#[test]
fn questions_of_a_process_that_is_no_known_agent_are_dropped_and_counted() {
    let mut stage = Stage::open(Liar::Honest);
    let stranger = Tree::find().unwrap().create(&Path::new(stage.daemon.parent()).join("stranger")).unwrap();
    let script = format!("{CLIENT}\nprint(*[udp('www.example', wait=0.5) for n in range(5)])");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "echo $$ > '{}/cgroup.procs' && exec /usr/bin/python3 -c \"$0\"",
        stranger.path().display()
    ));
    let said = process::run(command.arg(script).current_dir("/"), LIMIT).unwrap().success().unwrap();
    assert_eq!(said.trim(), ["silence"; 5].join(" "));
    assert!(stage.upstream.asked().is_empty());
    stage.daemon.stop(Signal::SIGTERM).unwrap();
    let dropped = stage.records("questions_dropped");
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    assert_eq!((field(&dropped[0], "reason"), &dropped[0]["count"]), ("unknown-process", &Value::from(5)));
    assert!(dropped[0]["account"].as_u64().is_some_and(|account| account > 0));
}

#[test]
fn what_is_no_question_is_not_answered_and_does_no_harm() {
    let mut stage = Stage::open(Liar::Honest);
    let printed = stage.says(
        "s = socket.socket(2, 2); s.settimeout(0.5)\n\
         for n in range(100): s.sendto(os.urandom(n * 7 % 1400), ('192.0.2.53', 53))\n\
         s.sendto(question('www.example')[:-15], ('192.0.2.53', 53)); s.sendto(b'', ('192.0.2.53', 53))\n\
         answer = bytearray(question('www.example')); answer[2] |= 0x80; s.sendto(answer, ('192.0.2.53', 53))\n\
         n = 0\n\
         try:\n\
         \x20   while s.recv(9999): n += 1\n\
         except TimeoutError: pass\n\
         print(n < 20)\n\
         for junk in (b'\\0\\0', b'\\xff\\xff' + b'x' * 100, b'\\0\\x05junk!'):\n\
         \x20   t = socket.create_connection(('192.0.2.53', 53), 5); t.settimeout(5); word = b''\n\
         \x20   # It may be reset before everything is sent.\n\
         \x20   try: t.sendall(junk); t.shutdown(1); word = t.recv(9)\n\
         \x20   except OSError as problem: assert not isinstance(problem, TimeoutError)\n\
         \x20   print(word)\n\
         print(udp('www.example'))",
    );
    assert_eq!(printed, "True\nb''\nb''\nb''\nNOERROR 198.51.100.7");
    // Each of the 103 datagrams is in the record's counts, though no name was in it, and what came over TCP with them.
    stage.daemon.stop(Signal::SIGTERM).unwrap();
    let denied: Vec<Value> = stage.records("name_denied");
    let nameless = |one: &&Value| one["name"] == "" && field(one, "reason") == "no-question";
    let counted: u64 = denied.iter().filter(nameless).filter_map(|one| one["count"].as_u64()).sum();
    assert!((100..=106).contains(&counted), "{counted}: {denied:?}");
}

#[test]
fn a_resource_that_is_written_by_name_is_reached_by_name_and_told_from_another_at_its_address() {
    let server = Server::start(&Options::default()).unwrap();
    let (dir, port) = (temp::Dir::new("names").unwrap(), server.port());
    let password = dir.write("password", sample::PASSWORD, 0o600).unwrap();
    let registered = |name: &str, address: &str| {
        let usual = format!("\"127.0.0.1:{port}\", \"[::1]:{port}\"");
        server.resource(name, &password).replace(&usual, &format!("\"{address}\""))
    };
    let mut plan = Plan::default()
        .with(&format!("[[agent]]\nname = \"{AGENT}\"\n"))
        .with(&registered("shop-db", &format!("db.shop.internal:{port}")))
        .with(&registered("other", &format!("127.0.0.0/8:{port}")))
        .policy("test.cedar", shop::POLICY)
        .policy("columns.toml", "");
    // Known to the daemon alone; nobody is asked upstream for it.
    plan.hosts = "127.0.0.1 localhost db.shop.internal".to_owned();
    plan.names = "upstreams = []".to_owned();
    let daemon = Daemon::start(&plan).unwrap();
    let agent = Agent::new(&daemon, AGENT);
    let psql = |host: &str| {
        let mut command = agent.command(program_path("psql"));
        let dsn = format!("host={host} port={port} user={} dbname={}", sample::USER, sample::DATABASE);
        command.args(["-X", "-A", "-t", "-w", "-d", &dsn, "-c", "SELECT count(*) FROM orders"]);
        process::run(&mut command, LIMIT).unwrap()
    };
    let by_address = psql("127.0.0.1");
    assert!(!by_address.status.success(), "an address of two resources: {}", by_address.both());
    assert_eq!(psql("db.shop.internal").success().unwrap().trim(), sample::ORDERS.to_string());
    assert_eq!(psql("DB.Shop.Internal").success().unwrap().trim(), sample::ORDERS.to_string());
    let opened =
        daemon.cli(&["audit", "search", "--json", "--event", "session_opened"]).unwrap().success().unwrap();
    let sessions: Vec<Value> = opened.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(sessions.len(), 2);
    assert!(
        sessions
            .iter()
            .all(|one| field(one, "asked") == "db.shop.internal" && field(one, "resource") == "shop-db")
    );
    let names =
        daemon.cli(&["audit", "search", "--json", "--event", "name_resolved"]).unwrap().success().unwrap();
    assert!(names.contains("db.shop.internal"));
}

#[test]
fn the_c_librarys_choice_among_addresses_is_no_denial_worth_a_record_and_other_datagrams_are() {
    let stage = Stage::open(Liar::Honest);
    let printed = stage.says(
        "print(resolve('www.example'))\n\
         for use in (lambda s: s.connect(('203.0.113.1', 443)), lambda s: s.sendto(b'x', ('198.51.100.7', 443))):\n\
         \x20   start = time.time()\n\
         \x20   try: use(socket.socket(2, 2)); print('through')\n\
         \x20   except PermissionError: print('refused at once', time.time() - start < 2)",
    );
    assert_eq!(printed, "['198.51.100.7', '2001:db8::7']\nrefused at once True\nrefused at once True");
    let denied = wait::until("two records of denials", LIMIT, || {
        let mut all = stage.records("kernel_denied");
        // The C library asks `nscd` first.
        all.retain(|one| field(one, "reason") != "unix-socket");
        Ok((all.len() >= 2).then_some(all))
    })
    .unwrap();
    let mut told: Vec<_> =
        denied.iter().map(|one| (field(one, "destination"), field(one, "reason"))).collect();
    told.sort_unstable();
    assert_eq!(told, [("198.51.100.7:443", "datagram"), ("203.0.113.1:443", "connect-protocol")]);
}

#[test]
fn how_the_letters_of_a_name_are_written_does_not_leave() {
    let stage = Stage::open(Liar::Honest);
    assert_eq!(
        stage.says("print(udp('wWw.ExAmPlE'), udp('WwW.eXaMpLe'))"),
        ["NOERROR 198.51.100.7"; 2].join(" ")
    );
    assert_eq!(stage.upstream.asked().into_iter().collect::<Vec<_>>(), ["www.example"]);
}

#[test]
fn a_daemon_that_answers_no_names_refuses_questions_over_udp_and_tcp() {
    let stage = Stage::with(Liar::Honest, "enabled = false", "");
    let printed = stage.says(
        "try: print(udp('localhost'))\n\
         except PermissionError: print('no datagram leaves')\n\
         try: print(tcp('localhost'))\n\
         except (ConnectionError, struct.error): print('the connection is reset')",
    );
    assert_eq!(printed, "no datagram leaves\nthe connection is reset");
    assert_eq!(stage.records("connection_refused").len(), 1);
}

#[test]
fn a_resolver_library_of_its_own_is_answered_like_the_c_librarys() {
    let stage = Stage::open(Liar::Honest);
    let agent = Agent::new(&stage.daemon, AGENT);
    // Node brings c-ares, which opens its own sockets and checks who answers.
    let script = "const dns = require('dns').promises;\n\
        const say = (what) => what().then((found) => found.join(), (problem) => problem.code);\n\
        (async () => {\n\
            for (const ask of [() => dns.resolve4('www.example'), () => dns.resolve6('www.example'), () => dns.resolve4('www.other'),\n\
                () => dns.resolveTxt('www.example')]) console.log(await say(ask));\n\
            const other = new dns.Resolver(); other.setServers(['9.9.9.9', '[2620:fe::fe]']);\n\
            console.log(await say(() => other.resolve4('alias.example')));\n\
        })();";
    let mut command = agent.node(script, &[]).unwrap();
    let seen = process::run(&mut command, LIMIT).unwrap().success().unwrap();
    assert_eq!(seen.trim(), "198.51.100.7\n2001:db8::7\nENOTFOUND\nEREFUSED\n198.51.100.7");
}
