//! Resources that refuse, hang, die, talk nonsense or are not who they should be.
//!
//! Most are listeners of this test that keep what they were sent, so that a credential given away would be seen; where a
//! whole server is needed it is a real one, with a certificate of the test's choice.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use chaperone_tests::ca::{Ca, Validity};
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::postgres::{Options, Server, Tls};
use chaperone_tests::shop::AGENT;
use chaperone_tests::{ports, sample, temp};

use super::run;

const POLICY: &str = r#"
@id("anything")
permit (principal == Unidentified::"worker", action, resource);

@id("nothing-classified-in-clear")
forbid (principal, action == Action::"readClear", resource);
"#;
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const CANCEL_REQUEST: [u8; 4] = [4, 210, 22, 46];
pub(crate) const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// A listener that treats every connection alike and keeps what it read.
pub(crate) struct Fake {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Fake {
    pub(crate) fn new(act: impl Fn(TcpStream, &Mutex<Vec<u8>>) + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", ports::free().unwrap())).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        // Ends with the test program, like the listener it holds.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                act(stream, &kept);
            }
        });
        Self { port, seen }
    }

    fn saw(&self, needle: &[u8]) -> bool {
        self.seen.lock().unwrap().windows(needle.len()).any(|part| part == needle)
    }
}

/// Reads once and keeps it.
pub(crate) fn take(stream: &mut TcpStream, seen: &Mutex<Vec<u8>>) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let count = stream.read(&mut buffer).unwrap_or(0);
    buffer.truncate(count);
    seen.lock().unwrap().extend_from_slice(&buffer);
    buffer
}

/// Writes what the other end may no longer want.
pub(crate) fn give(stream: &mut TcpStream, bytes: &[u8]) {
    if stream.write_all(bytes).is_err() {
        assert!(stream.shutdown(Shutdown::Both).is_ok() || stream.peer_addr().is_err());
    }
}

/// A daemon whose one resource is at this port, with these TLS keys and classes of columns.
pub(crate) struct Facing {
    daemon: Daemon,
    port: u16,
    _dir: temp::Dir,
}

/// The name of that resource.
pub(crate) const FAKE: &str = "fake";

impl Facing {
    pub(crate) fn start(port: u16, tls: &str, columns: &str) -> Self {
        let dir = temp::Dir::new("upstream").unwrap();
        let password = dir.write("password", sample::PASSWORD, 0o600).unwrap();
        let plan = Plan::default()
            .with(&format!("[[agent]]\nname = \"{AGENT}\"\n"))
            .with(&format!(
                "[[resource]]\nname = \"{FAKE}\"\nprotocol = \"postgres\"\naddresses = [\"127.0.0.1:{port}\"]\n\
                 credential = {{ user = \"{}\", password_file = \"{}\" }}\ntls = {{ {tls} }}\n",
                sample::USER,
                password.display()
            ))
            .policy("test.cedar", POLICY)
            .policy("columns.toml", columns);
        Self { daemon: Daemon::start(&plan).unwrap(), port, _dir: dir }
    }

    /// Runs a program as the agent; its assertions must hold.
    pub(crate) fn check(&self, program: &str) {
        run(&self.daemon, self.port, program)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.daemon.log().unwrap()));
    }
}

/// Runs a program as the agent against one resource with these TLS keys.
fn against(port: u16, tls: &str, program: &str) {
    Facing::start(port, tls, "").check(program);
}

const REFUSED: &str = r#"
error = Session(start=False).send(startup()).fatal()
assert error and error["S"] == "FATAL" and error["C"] in ("08001", "08004"), error
"#;

#[test]
fn a_resource_that_refuses_connections_is_a_fatal_error() {
    against(ports::free().unwrap(), "mode = \"disable\"", REFUSED);
}

#[test]
fn a_resource_that_hangs_at_start_up_is_a_fatal_error_within_the_limit() {
    let held = Mutex::new(Vec::new());
    let fake = Fake::new(move |stream, _| held.lock().unwrap().push(stream));
    against(fake.port, "mode = \"disable\"", REFUSED);
}

#[test]
fn a_resource_that_takes_no_connection_is_a_fatal_error_within_the_limit() {
    use nix::sys::socket;
    let flags = socket::SockFlag::SOCK_CLOEXEC;
    let full = socket::socket(socket::AddressFamily::Inet, socket::SockType::Stream, flags, None).unwrap();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, ports::free().unwrap());
    socket::bind(full.as_raw_fd(), &socket::SockaddrIn::from(address)).unwrap();
    socket::listen(&full, socket::Backlog::new(1).unwrap()).unwrap();
    // The kernel lets one more wait than the backlog says and leaves every further call unanswered.
    let waiting = [(); 2].map(|()| TcpStream::connect(address).unwrap());
    against(address.port(), "mode = \"disable\"", REFUSED);
    assert_eq!(waiting.len(), 2);
}

#[test]
fn a_resource_that_hangs_in_tls_is_a_fatal_error_within_the_limit() {
    let held = Mutex::new(Vec::new());
    let fake = Fake::new(move |mut stream, seen| {
        take(&mut stream, seen);
        give(&mut stream, b"S");
        held.lock().unwrap().push(stream);
    });
    against(fake.port, "mode = \"require\"", REFUSED);
    assert!(!fake.saw(b"user"));
}

#[test]
fn a_resource_that_answers_garbage_is_a_fatal_error() {
    // What is no message at all, and a message that no server sends before one that would end the login.
    let strange = [b"@\0\0\0\x05x".as_slice(), WELCOME].concat();
    for garbage in [b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), strange] {
        let fake = Fake::new(move |mut stream, seen| {
            take(&mut stream, seen);
            give(&mut stream, &garbage);
        });
        against(fake.port, "mode = \"disable\"", REFUSED);
    }
}

#[test]
fn a_password_is_never_sent_in_clear() {
    let fake = Fake::new(|mut stream, seen| {
        take(&mut stream, seen);
        give(&mut stream, b"R\0\0\0\x08\0\0\0\x03");
        take(&mut stream, seen);
    });
    against(fake.port, "mode = \"disable\"", REFUSED);
    assert!(fake.saw(b"user"), "the resource was never reached");
    assert!(!fake.saw(sample::PASSWORD.as_bytes()));
}

/// A resource that answers a statement with a row description, then `rest`, then dies.
fn dying(rest: &'static [u8]) -> Fake {
    Fake::new(move |mut stream, seen| {
        take(&mut stream, seen);
        give(&mut stream, WELCOME);
        take(&mut stream, seen);
        give(&mut stream, b"T\0\0\0\x1a\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
        give(&mut stream, rest);
    })
}

#[test]
fn a_resource_that_dies_between_rows_ends_the_session_with_a_native_error() {
    let fake = dying(b"D\0\0\0\x0b\0\x01\0\0\0\x01x");
    against(
        fake.port,
        "mode = \"disable\"",
        r#"
s = Session().send(query("SELECT 'a'"))
seen = s.until(b"E")
assert rows(seen) == [[b"x"]] and errors(seen)[0]["C"] == "08006", seen
assert s.message() is None
"#,
    );
}

#[test]
fn nothing_follows_a_row_that_the_resource_did_not_finish() {
    // An error behind half a row would be read as the rest of that row.
    let fake = dying(b"D\0\0\0\x64\0\x01\0\0\0\x5aonly");
    against(
        fake.port,
        "mode = \"disable\"",
        r#"
s = Session().send(query("SELECT 'a'"))
while s.more():
    pass
row = s.buffer.index(b"D\0\0\0\x64")
assert s.buffer[row:] == b"D\0\0\0\x64\0\1\0\0\0\x5aonly", s.buffer
"#,
    );
}

#[test]
fn a_resource_without_tls_or_with_a_strange_certificate_gets_no_credential() {
    let (good, other) = (Ca::new("good").unwrap(), Ca::new("other").unwrap());
    let dir = temp::Dir::new("upstream-ca").unwrap();
    let ca = good.write(dir.path(), "ca.pem").unwrap();
    let declines = Fake::new(|mut stream, seen| {
        take(&mut stream, seen);
        give(&mut stream, b"N");
        take(&mut stream, seen);
    });
    let config =
        other.server(&["127.0.0.1", "localhost"], Validity::Current).unwrap().server_config().unwrap();
    let strange = Fake::new(move |mut stream, seen| {
        let mut request = [0; 8];
        stream.read_exact(&mut request).unwrap();
        assert_eq!(request, SSL_REQUEST);
        give(&mut stream, b"S");
        let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut inside = Vec::new();
        let mut secured = rustls::Stream::new(&mut tls, &mut stream);
        // It fails as it should; what came through before that is kept.
        let ended = secured.read_to_end(&mut inside);
        seen.lock().unwrap().extend_from_slice(&inside);
        seen.lock().unwrap().extend_from_slice(if ended.is_err() { b"alert" } else { b"closed" });
    });
    for mode in ["verify-full", "verify-ca"] {
        let tls = format!("mode = \"{mode}\", ca_file = \"{}\"", ca.display());
        against(declines.port, &tls, REFUSED);
        against(strange.port, &tls, REFUSED);
    }
    assert_eq!(*declines.seen.lock().unwrap(), [SSL_REQUEST, SSL_REQUEST].concat());
    assert!(!strange.saw(b"user") && !strange.saw(sample::PASSWORD.as_bytes()));
}

/// A real server that shows a certificate of `ca` for this name.
fn certified(ca: &Ca, name: &str, validity: Validity) -> Server {
    let issued = ca.server(&[name], validity).unwrap();
    let (certificate, key) = (issued.certificate_pem().to_owned(), issued.key_pem().to_owned());
    let tls = Tls { certificate, key, client_ca: None, required: true };
    Server::start(&Options { tls: Some(tls), sample: false, ..Options::default() }).unwrap()
}

#[test]
fn a_certificate_must_be_in_time_and_under_verify_full_name_the_server() {
    let ca = Ca::new("good").unwrap();
    let dir = temp::Dir::new("upstream-ca").unwrap();
    let file = ca.write(dir.path(), "ca.pem").unwrap();
    let served = "s = Session()\ns.alive()\n";
    for (name, validity, full, chain) in [
        ("127.0.0.1", Validity::Current, served, served),
        ("elsewhere.example", Validity::Current, REFUSED, served),
        ("127.0.0.1", Validity::Expired, REFUSED, REFUSED),
    ] {
        let server = certified(&ca, name, validity);
        for (mode, program) in [("verify-full", full), ("verify-ca", chain)] {
            let before = server.log().unwrap().matches("connection authorized").count();
            against(server.port(), &format!("mode = \"{mode}\", ca_file = \"{}\"", file.display()), program);
            let came_in = server.log().unwrap().matches("connection authorized").count() > before;
            assert_eq!(came_in, program == served, "{name} {validity:?} {mode}: {}", server.log().unwrap());
        }
    }
}

#[test]
fn with_protocol_3_2_both_ends_have_a_32_byte_key_of_their_own() {
    const WELCOME_3_2: &[u8] =
        b"R\0\0\0\x08\0\0\0\0K\0\0\0\x28\0\0\0\x07kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkZ\0\0\0\x05I";
    const CANCELLED: &[u8] = b"E\0\0\0\x19SERROR\0C57014\0Mstop\0\0Z\0\0\0\x05I";
    let (cancel, cancelled) = channel();
    let (cancel, cancelled) = (Mutex::new(cancel), Mutex::new(Some(cancelled)));
    let fake = Fake::new(move |mut stream, seen| {
        let first = take(&mut stream, seen);
        if first.get(4..8) == Some(&CANCEL_REQUEST) {
            cancel.lock().unwrap().send(()).unwrap();
            return;
        }
        let cancelled = cancelled.lock().unwrap().take().unwrap();
        std::thread::spawn(move || {
            give(&mut stream, WELCOME_3_2);
            let mut statement = [0; 64];
            // The statement runs until it is cancelled, and then the session goes on until the daemon ends it.
            while matches!(stream.read(&mut statement), Ok(1..)) && cancelled.recv().is_ok() {
                give(&mut stream, CANCELLED);
            }
        });
    });
    against(
        fake.port,
        "mode = \"disable\"",
        r#"
s = Session(2)
assert len(s.key) == 4 + 32 and s.version is None, (s.key, s.version)
assert s.key[4:] != b"k" * 32, "the agent was told the server's own key"
s.send(query("SELECT pg_sleep(30)"))
wrong = s.key[:-1] + bytes([s.key[-1] ^ 1])
for key in (wrong, s.key[:8], s.key[:4] + b"k" * 32, struct.pack("!I", 7) + b"k" * 32, s.key):
    sock = dial()
    sock.sendall(struct.pack("!II", len(key) + 8, 80877102) + key)
    assert sock.recv(1) == b""
error = errors(s.until())[0]
assert error["C"] == "57014", error
"#,
    );
    assert!(fake.saw(b"\0\x03\0\x02user\0"), "the server was not asked for protocol 3.2");
    let sent = fake.seen.lock().unwrap();
    let cancels: Vec<_> =
        sent.windows(8).enumerate().filter(|(_, part)| part[4..] == CANCEL_REQUEST).collect();
    let [(at, _)] = cancels.as_slice() else { panic!("not one cancel request: {cancels:?}") };
    let expected = [&[0, 0, 0, 44], CANCEL_REQUEST.as_slice(), &[0, 0, 0, 7], &[b'k'; 32]].concat();
    assert_eq!(sent.get(*at..), Some(expected.as_slice()));
}
