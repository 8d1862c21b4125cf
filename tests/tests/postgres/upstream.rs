//! Resources that refuse, hang, die, talk nonsense or are not who they should be.
//!
//! Each is a listener of this test; it keeps what it was sent, so that a credential given away would be seen.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use chaperone_tests::ca::{Ca, Validity};
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::{ports, sample, temp};

use super::{AGENT, run};

const POLICY: &str = "@id(\"anything\")\npermit (principal == Unidentified::\"worker\", action, resource);\n";
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// A listener that treats every connection alike and keeps what it read.
struct Fake {
    port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Fake {
    fn new(act: impl Fn(TcpStream, &Mutex<Vec<u8>>) + Send + 'static) -> Self {
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
fn take(stream: &mut TcpStream, seen: &Mutex<Vec<u8>>) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let count = stream.read(&mut buffer).unwrap_or(0);
    buffer.truncate(count);
    seen.lock().unwrap().extend_from_slice(&buffer);
    buffer
}

/// Writes what the other end may no longer want.
fn give(stream: &mut TcpStream, bytes: &[u8]) {
    if stream.write_all(bytes).is_err() {
        assert!(stream.shutdown(Shutdown::Both).is_ok() || stream.peer_addr().is_err());
    }
}

/// Runs a program as the agent against one resource with these TLS keys.
fn against(port: u16, tls: &str, program: &str) {
    let dir = temp::Dir::new("upstream").unwrap();
    let password = dir.write("password", sample::PASSWORD, 0o600).unwrap();
    let plan = Plan::default()
        .with(&format!("[[agent]]\nname = \"{AGENT}\"\n"))
        .with(&format!(
            "[[resource]]\nname = \"fake\"\nprotocol = \"postgres\"\naddresses = [\"127.0.0.1:{port}\"]\n\
             credential = {{ user = \"{}\", password_file = \"{}\" }}\ntls = {{ {tls} }}\n",
            sample::USER,
            password.display()
        ))
        .policy("test.cedar", POLICY)
        .policy("columns.toml", "");
    let daemon = Daemon::start(&plan).unwrap();
    run(&daemon, port, program).unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log().unwrap()));
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
fn a_resource_that_answers_garbage_is_a_fatal_error() {
    let fake = Fake::new(|mut stream, seen| {
        take(&mut stream, seen);
        give(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    against(fake.port, "mode = \"disable\"", REFUSED);
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
