//! Bytes that no driver sends, from a tagged process through the real daemon to a real PostgreSQL.
//!
//! Each test runs a Python program as the agent; it speaks the protocol on a bare socket, every wait has a limit, and its
//! assertions are the test's. The server's log and the record tell what was forwarded.
//! INVARIANT: after each test a fresh session still works.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic here is the failure of the test")]

#[path = "postgres/held.rs"]
mod held;
#[path = "postgres/meddled.rs"]
mod meddled;
#[path = "postgres/upstream.rs"]
mod upstream;

use std::time::Duration;

use anyhow::Result;
use chaperone_tests::agent::Agent;
use chaperone_tests::daemon::Daemon;
use chaperone_tests::shop::{AGENT, Setup, Shop};
use chaperone_tests::{process, sample};

const LIMIT: Duration = Duration::from_secs(90);
const WIRE: &str = include_str!("postgres/wire.py");
const POLICY: &str = r#"
@id("anything-on-shop-db")
permit (principal == Unidentified::"worker", action, resource in Resource::"shop-db");

@id("nothing-is-dropped")
forbid (principal, action == Action::"run", resource)
when { context.effects.contains("drop") };

@id("emails-are-masked")
@mask("keep-last:4")
forbid (principal, action == Action::"readClear", resource)
when { resource.class == "pii.email" };
"#;

/// A shop with more policies, whose server logs every statement.
fn open(policies: &str) -> Result<Shop> {
    let sql = format!("ALTER ROLE {} SET log_statement = 'all'", sample::USER);
    Shop::open(&Setup { sql, ..Setup::under(&format!("{POLICY}{policies}")) })
}

/// Runs a program on the wire library as the agent; the program's assertions must hold and a session still work.
fn wire(shop: &Shop, program: &str) -> Result<()> {
    run(&shop.daemon, shop.server.port(), &format!("{program}\nSession().alive()\n"))
}

/// Runs a program on the wire library as the agent against a port; its assertions must hold.
fn run(daemon: &Daemon, port: u16, program: &str) -> Result<()> {
    let agent = Agent::new(daemon, AGENT);
    let arguments = [&port.to_string(), sample::USER, sample::DATABASE];
    let mut command = agent.python(&format!("{WIRE}\n{program}\n"), &arguments)?;
    process::run(&mut command, LIMIT)?.success()?;
    Ok(())
}

fn check(program: &str) {
    let shop = open("").unwrap();
    wire(&shop, program).unwrap_or_else(|error| panic!("{error:#}\n{}", shop.daemon.log().unwrap()));
}

#[test]
fn a_session_split_at_every_byte_is_the_same_session() {
    check(
        r#"
s = Session(start=False)
s.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

def dribble(data):
    for byte in data:
        s.send(bytes([byte]))
        # What is sent at once may be read at once.
        time.sleep(0.002)
    return s.until()

dribble(startup())
assert rows(dribble(query("SELECT 1"))) == [[b"1"]]
assert rows(dribble(parse("", "SELECT 2") + bind() + execute() + SYNC)) == [[b"2"]]
# And all at once, before the login is done.
s = Session(start=False).send(startup() + query("SELECT 1"))
s.until()
assert rows(s.until()) == [[b"1"]]
s.alive()
"#,
    );
}

#[test]
fn broken_frames_end_the_session_with_a_native_error() {
    check(
        r#"
bad = {
    "oversize": b"Q" + struct.pack("!I", 0x7FFFFFFF),
    "negative": b"Q" + struct.pack("!I", 0xFFFFFFFF),
    "length below its own": b"Q" + struct.pack("!I", 3),
    "unknown type": frame(b"@", b"x"),
    "server type": frame(b"T", b"\0\0"),
    "text without end": frame(b"Q", b"SELECT 1"),
    "bytes after the text": frame(b"Q", b"SELECT 1\0DROP TABLE orders\0"),
    "bind that lies": frame(b"B", b"\0\0" + struct.pack("!HHI", 0, 1, 1000) + b"x"),
    "bind of a name that is not text": frame(b"B", b"\0\xff\xfe\0\0\0\0\0\0\0"),
    "sync with a body": frame(b"S", b"x"),
}
for name, data in bad.items():
    s = Session()
    s.send(data)
    error = s.fatal()
    assert error and error["S"] == "FATAL" and error["C"] == "08P01", (name, error)
"#,
    );
}

#[test]
fn a_truncated_message_is_not_forwarded() {
    let shop = open("").unwrap();
    wire(
        &shop,
        r#"
whole = query("UPDATE orders SET item = 'truncated'")
for end in (1, 4, 5, len(whole) - 1):
    s = Session()
    s.send(whole[:end])
    s.sock.shutdown(socket.SHUT_WR)
    s.fatal()
"#,
    )
    .unwrap();
    assert_eq!(shop.server.query("SELECT count(*) FROM orders WHERE item = 'truncated'").unwrap(), "0");
}

#[test]
fn start_up_negotiates_in_either_order_and_refuses_what_is_out_of_order() {
    check(
        r#"
def tls(sock):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock)

sock = dial()
sock.sendall(GSSENC_REQUEST); assert sock.recv(1) == b"N"
sock.sendall(SSL_REQUEST); assert sock.recv(1) == b"S"
Session(sock=tls(sock)).alive()

sock = dial()
sock.sendall(SSL_REQUEST); assert sock.recv(1) == b"S"
sock = tls(sock)
sock.sendall(GSSENC_REQUEST); assert sock.recv(1) == b"N"
Session(sock=sock).alive()

# TLS inside TLS.
sock = dial()
sock.sendall(SSL_REQUEST); assert sock.recv(1) == b"S"
sock = tls(sock)
sock.sendall(SSL_REQUEST)
error = Session(sock=sock, start=False).fatal()
assert error and error["C"] == "08P01", error

# A start-up message in clear behind the TLS request belongs to TLS, where it is nonsense: neither is it served in clear...
sock = dial()
sock.sendall(SSL_REQUEST + startup() + query("SELECT 1"))
assert sock.recv(1) == b"S"
try:
    rest = b""
    while data := sock.recv(65536):
        rest += data
except ConnectionResetError:
    pass
assert b"SELECT" not in rest and not rest.startswith((b"R", b"Z")), rest
# ... nor kept for the time after a handshake, as if it had been encrypted.
sock = dial()
sock.sendall(SSL_REQUEST + startup() + query("SELECT 1"))
assert sock.recv(1) == b"S"
try:
    inside = tls(sock).recv(65536)
except OSError:
    pass
else:
    raise SystemExit("TLS went on over smuggled bytes: %r" % inside)
"#,
    );
}

#[test]
fn start_up_refuses_zero_bytes_replication_and_settings_that_change_the_rules() {
    check(
        r#"
for settings in ({"replication": "database"}, {"replication": "true"}, {"options": "-c role=postgres"},
                 {"session_authorization": "postgres"}, {"options": "-c standard_conforming_strings=off"},
                 {"role": "postgres"}):
    s = Session(start=False).send(startup(**settings))
    error = s.fatal()
    assert error and error["S"] == "FATAL" and error["C"] == "42501", (settings, error)

body = startup()[4:] + b"role\0postgres\0\0"
openings = [struct.pack("!I", len(body) + 4) + body]
body = struct.pack("!HH", 3, 0) + b"user\0\xff\xfe\0\0"
openings.append(struct.pack("!I", len(body) + 4) + body)
openings += [struct.pack("!I", length) + b"\0\3\0\0" for length in (0, 7, 10001, 0x7FFFFFFF)]
for opening in openings:
    error = Session(start=False).send(opening).fatal()
    assert error and error["S"] == "FATAL" and error["C"] == "08P01", (opening, error)
"#,
    );
}

#[test]
fn a_newer_protocol_is_brought_down_to_what_the_server_speaks_and_keys_fit_it() {
    check(
        r#"
s = Session(0)
assert len(s.key) == 8 and s.version is None
s.alive()
# PostgreSQL 15 speaks 3.0, and a client that knows 3.2 is told so before its key.
s = Session(2)
assert len(s.key) == 8 and struct.unpack("!I", s.version[:4])[0] & 0xFFFF == 0, (s.key, s.version)
s.alive()
"#,
    );
}

#[test]
fn a_cancel_needs_the_whole_key() {
    check(
        r#"
def cancel(key):
    sock = dial()
    sock.sendall(struct.pack("!II", len(key) + 8, 80877102) + key)
    assert sock.recv(1) == b""

for minor in (0, 2):
    s = Session(minor)
    s.send(query("SELECT pg_sleep(30)"))
    wrong = s.key[:-1] + bytes([s.key[-1] ^ 1])
    cancel(wrong)
    cancel(s.key[:-1] if minor else s.key[:4] + b"\0\0\0\0")
    s.sock.settimeout(1)
    try:
        s.until()
        raise SystemExit("a wrong key cancelled the statement")
    except TimeoutError:
        s.sock.settimeout(LIMIT)
    cancel(s.key)
    error = errors(s.until())[0]
    assert error["C"] == "57014", error
    s.alive()
"#,
    );
}

#[test]
fn a_statement_that_is_not_utf8_is_refused_reaches_nobody_and_the_session_lives() {
    let shop = open("").unwrap();
    wire(
        &shop,
        r#"
s = Session()
for message in (query(b"UPDATE orders SET item = '\xff\xfe'"),
                frame(b"P", b"\0UPDATE orders SET item = '\xff\xfe'\0\0\0") + bind() + execute() + SYNC):
    s.send(message)
    seen = s.until()
    error = errors(seen)[0]
    assert kinds(seen) == "EZ" and error["S"] == "ERROR" and error["C"] == "22021", seen
    assert error["M"].startswith("chaperone: "), "the server itself met the bytes: %r" % error
    s.alive()
"#,
    )
    .unwrap();
    let log = shop.server.log().unwrap();
    assert!(log.contains("SELECT 41 + 1"), "the log does not show what is forwarded:\n{log}");
    assert!(!log.contains("UPDATE orders"), "{log}");
}

#[test]
fn statements_too_deep_or_too_long_get_a_native_error_and_the_session_lives() {
    check(
        r#"
s = Session()
for text in ("SELECT " + "(" * 10000 + "1" + ")" * 10000,
             # What the server itself would take.
             "SELECT 1" + " + 1" * 10000, "SELECT " + "(1 + " * 500 + "1" + ")" * 500,
             "SELECT '" + "x" * (1024 * 1024 + 16) + "'"):
    error = s.error(text)
    assert error["M"].startswith("chaperone: "), "the server itself met %r...: %r" % (text[:20], error)
    s.alive()
seen = s.ask("SELECT length('" + "x" * (1024 * 1024 - 64) + "')")
assert rows(seen) == [[str(1024 * 1024 - 64).encode()]] or kinds(seen) == "EZ", seen
s.alive()
"#,
    );
}

#[test]
fn an_error_in_a_pipeline_skips_until_sync_and_both_sides_stay_in_step() {
    check(
        r#"
s = Session()
# A statement with an error of the server's, and a denied one: the same shape.
for bad in ("SELECT nothing FROM nowhere", "DROP TABLE orders"):
    s.send(parse("", "SELECT 1"), bind(), execute(), parse("", bad), bind(), execute(), parse("", "SELECT 3"), bind(), execute(), SYNC)
    seen = s.until()
    assert rows(seen) in ([[b"1"]], []) and kinds(seen).endswith("EZ") and kinds(seen).count("E") == 1, seen
    s.alive()
    # A simple query inside the skipped part is skipped too.
    s.send(parse("", bad), query("SELECT 7"), SYNC)
    seen = s.until()
    assert kinds(seen) == "EZ" and not rows(seen), seen
    s.alive()
"#,
    );
}

#[test]
fn masked_columns_stay_masked_in_every_order_and_format() {
    check(
        r#"
SQL = "SELECT email FROM customers ORDER BY id"
s = Session()
for formats in ((), (0,), (1,)):
    s.send(parse("named", SQL), describe(b"S", "named"), bind("p", "named", formats), describe(b"P", "p"), execute("p"), SYNC)
    seen = s.until()
    assert len(rows(seen)) == 200 and all(b"customer" not in row[0] for row in rows(seen)), seen[:5]
    s.send(frame(b"C", b"Snamed\0"), SYNC); s.until()
    # Without any Describe.
    s.send(parse("", SQL), bind("", "", formats), execute(), SYNC)
    seen = s.until()
    assert all(b"customer" not in row[0] for row in rows(seen)), seen[:5]
    assert len(rows(seen)) == 200 or errors(seen), seen[:5]
# Suspended portals.
s.send(query("BEGIN")); s.until()
s.send(parse("", SQL), bind("p"), describe(b"P", "p"), execute("p", 50), execute("p", 50), execute("p", 0), SYNC)
seen = s.until()
assert kinds(seen).count("s") == 2 and len(rows(seen)) == 200, kinds(seen)[:300]
assert all(b"customer" not in row[0] for row in rows(seen)), seen[:5]
s.alive()
"#,
    );
}

#[test]
fn copy_out_of_a_masked_table_and_fastpath_are_refused() {
    check(
        r#"
s = Session()
for text in ("COPY customers TO STDOUT", "COPY (SELECT email FROM customers) TO STDOUT (FORMAT binary)"):
    error = s.error(text)
    assert error["C"] == "42501", error
    s.alive()
s.send(frame(b"F", struct.pack("!IHHH", 1598, 0, 0, 0)))
seen = s.until()
assert kinds(seen) == "EZ", seen
s.alive()
"#,
    );
}

#[test]
fn copy_of_an_unmasked_table_runs_where_policy_allows_it() {
    check(
        r#"
s = Session()
seen = s.ask("COPY orders TO STDOUT")
assert kinds(seen) == "H" + "d" * 1000 + "cCZ", (kinds(seen)[:20], errors(seen))
s.send(query("COPY orders FROM STDIN"))
assert s.until(b"G")
s.send(frame(b"d", b"5000\t1\tlamp\t1.00\tnew\t2024-01-01\n"), frame(b"f", b"changed my mind\0"))
assert errors(s.until())[0]["C"] == "57014"
s.alive()
line = b"%d\t1\tlamp\t1.00\tnew\t2024-01-01\n"
s.send(query("COPY orders FROM STDIN"))
assert s.until(b"G")
s.send(frame(b"d", line % 5001 + line % 5002), frame(b"c"))
assert s.until() == [(b"C", b"COPY 2\0"), (b"Z", b"I")]
# A server in a copy ignores the Sync that a driver sends along with Execute.
s.send(parse("", "COPY orders FROM STDIN"), bind(), execute(), SYNC)
assert kinds(s.until(b"G")) == "12G"
s.send(frame(b"d", line % 5003), frame(b"c"), SYNC)
assert s.until() == [(b"C", b"COPY 1\0"), (b"Z", b"I")]
assert rows(s.ask("SELECT count(*) FROM orders")) == [[b"1003"]]
"#,
    );
}

#[test]
fn a_client_that_does_not_finish_its_start_up_is_given_up() {
    check(
        r#"
begun, waiting = time.monotonic(), []
for start in (b"", startup()[:20], SSL_REQUEST[:7], GSSENC_REQUEST):
    sock = dial()
    sock.sendall(start)
    waiting.append(sock)
for sock in waiting:
    while data := sock.recv(65536):
        assert data == b"N", data
assert 25 < time.monotonic() - begun < LIMIT, time.monotonic() - begun
"#,
    );
}
