//! A resource that goes wrong in the middle of a session: garbage, and an end inside a row, with and without masks.
//!
//! Without masks the resource is a listener of this test. With masks a real server stands behind a go-between, which
//! spoils the reply to a statement that bears a mark: so the catalog, and with it the mask, is real.
//! INVARIANT: whatever comes, the agent reads a native error, never the value of a masked column.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use chaperone_tests::postgres::{Options, Server};
use chaperone_tests::{ports, sample};

use super::upstream::{FAKE, Facing, Fake, WELCOME, give, take};

const PLAIN: &str = "mode = \"disable\"";
/// What the masked column holds for the row that is asked for.
const CLEAR: &str = "customer7@mail.example";

/// Replies to `SELECT n`; none of them has a place there.
const GARBAGE: &[&[u8]] = &[
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"@\0\0\0\x05x",
    b"C\0\0\0\x03",
    b"D\x7f\xff\xff\xff\0\x01",
    b"T\0\0\0\x06\0\x09",
    b"R\0\0\0\x08\0\0\0\x03",
    b"G\0\0\0\x07\0\0\0",
    b"H\0\0\0\x07\0\0\0",
    b"Z\0\0\0\x05X",
    b"1\0\0\0\x04",
    b"E\0\0\0\x08SERR",
    b"V\0\0\0\x08\xff\xff\xff\xff",
    b"K\0\0\0\x0c12345678",
    b"d\0\0\0\x05x",
    b"c\0\0\0\x04",
    b"S\0\0\0\x08abcd",
];

#[test]
fn garbage_in_the_middle_of_a_session_ends_it_with_a_native_error() {
    let fake = Fake::new(|mut stream, seen| {
        take(&mut stream, seen);
        give(&mut stream, WELCOME);
        let statement = String::from_utf8_lossy(&take(&mut stream, seen)).into_owned();
        let number: usize = statement.trim_end_matches('\0').rsplit(' ').next().unwrap().parse().unwrap();
        give(&mut stream, GARBAGE[number]);
        // The daemon hangs up, not we.
        while !take(&mut stream, seen).is_empty() {}
    });
    let program = r#"
for number in range(COUNT):
    s = Session().send(query("SELECT %d" % number))
    error = s.fatal()
    assert error and error["S"] == "FATAL" and error["C"] == "08006", (number, error)
"#;
    let program = program.replace("COUNT", &GARBAGE.len().to_string());
    Facing::start(fake.port, PLAIN, "").check(&program);
}

/// What follows a spoiled reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The resource is gone.
    End,
    /// It says nothing more and waits.
    Wait,
    /// It goes on as if nothing had been.
    GoOn,
}

/// The pieces that are sent instead of a reply, for the number in the mark.
type Meddle = fn(u8, &[u8]) -> (Vec<Vec<u8>>, Then);

/// A port at which the server is reached, but for replies to statements with `/* mark n */`.
fn between(server: &Server, meddle: Meddle) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", ports::free().unwrap())).unwrap();
    let (port, behind) = (listener.local_addr().unwrap().port(), server.v4());
    // Ends with the test program, like the listener it holds.
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            pair(near, behind, meddle);
        }
    });
    port
}

fn pair(mut near: TcpStream, behind: SocketAddr, meddle: Meddle) {
    let mut far = TcpStream::connect(behind).unwrap();
    near.set_nodelay(true).unwrap();
    let marked = Arc::new(AtomicU8::new(0));
    let (mut from, mut to, mark) = (near.try_clone().unwrap(), far.try_clone().unwrap(), Arc::clone(&marked));
    std::thread::spawn(move || {
        while let Some(bytes) = next(&mut from) {
            if let Some(digit) = bytes.windows(9).find_map(|part| part.strip_prefix(b"/* mark ")?.first()) {
                mark.store(digit - b'0', Ordering::SeqCst);
            }
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        // The other side may have gone first.
        drop(to.shutdown(Shutdown::Write));
    });
    std::thread::spawn(move || {
        while let Some(bytes) = next(&mut far) {
            let (pieces, then) = match marked.swap(0, Ordering::SeqCst) {
                0 => (vec![bytes], Then::GoOn),
                number => meddle(number, &bytes),
            };
            let mut sent = pieces.iter().map(|piece| {
                near.write_all(piece)?;
                // What is written at once may be read at once.
                std::thread::sleep(Duration::from_millis(2));
                std::io::Result::Ok(())
            });
            if sent.any(|sent| sent.is_err()) || then == Then::End {
                break;
            }
            // Until the daemon hangs up, at which the server does, too.
            while then == Then::Wait && next(&mut far).is_some() {}
        }
        drop(near.shutdown(Shutdown::Both));
    });
}

/// What one read brings; nothing at the end.
fn next(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 65_536];
    let count = stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
    bytes.truncate(count);
    Some(bytes)
}

/// A masked session through the go-between; the program finds the masked statement with a mark in `MARKED % n`.
fn meddled(meddle: Meddle, program: &str) {
    let server = Server::start(&Options::default()).unwrap();
    let port = between(&server, meddle);
    let facing = Facing::start(port, PLAIN, &sample::columns_toml(FAKE));
    let head =
        "MARKED = \"SELECT email FROM customers WHERE id = 7 /* mark %d */\"\nCLEAR = b\"customer7\"\n";
    let masked = "seen = Session().ask(\"SELECT email FROM customers WHERE id = 7\")\n\
                  assert len(rows(seen)) == 1 and CLEAR not in rows(seen)[0][0], seen\n";
    facing.check(&format!("{head}{masked}{program}{masked}"));
}

/// The first message of a reply, which describes the row.
fn description(reply: &[u8]) -> Vec<u8> {
    let (head, _) = reply.split_first_chunk::<5>().unwrap();
    let [kind, a, b, c, d] = *head;
    assert_eq!(kind, b'T', "{reply:?}");
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap();
    reply.get(..=length).unwrap().to_vec()
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], length.to_be_bytes().as_slice(), body].concat()
}

#[test]
fn a_resource_that_dies_inside_a_masked_row_shows_nothing_of_it_and_is_a_native_error() {
    meddled(
        |_, reply| {
            let value = reply.windows(CLEAR.len()).position(|part| part == CLEAR.as_bytes()).unwrap();
            (vec![reply[..value + 12].to_vec()], Then::End)
        },
        r#"
s = Session().send(query(MARKED % 1))
seen = []
while message := s.message():
    seen.append(message)
assert kinds(seen) == "TE" and errors(seen)[0]["C"] == "08006", seen
assert CLEAR[:4] not in b"".join(body for _, body in seen), seen
"#,
    );
}

/// Replies with the value of the masked column in the clear, in forms that no server sends.
fn spoiled(number: u8, reply: &[u8]) -> (Vec<Vec<u8>>, Then) {
    let value = CLEAR.as_bytes();
    let row = |count: u16, length: i32, rest: &[u8]| {
        frame(b'D', &[count.to_be_bytes().as_slice(), &length.to_be_bytes(), rest].concat())
    };
    let whole = i32::try_from(value.len()).unwrap();
    let bad = match number {
        // A value that claims more than the row has, one of a negative length, and bytes behind the last one.
        1 => row(1, 1000, value),
        2 => row(1, -2, value),
        3 => row(1, 0, value),
        // More columns than the row has.
        4 => row(9, whole, value),
        // Messages that have no place here.
        5 => frame(b'@', value),
        6 => frame(b'd', value),
        7 => frame(b'R', value),
        // A notice that does not end, and a row over every limit.
        8 => frame(b'N', &[b"M", value].concat()),
        _ => [b"D\x05\0\0\0\0\x01\0\0\0\x16".as_slice(), value].concat(),
    };
    (vec![description(reply), bad], Then::Wait)
}

#[test]
fn garbage_in_a_masked_session_ends_it_with_a_native_error_and_shows_nothing() {
    meddled(
        spoiled,
        r#"
for number in range(1, 10):
    s = Session().send(query(MARKED % number))
    while s.more():
        pass
    assert CLEAR not in s.buffer, (number, s.buffer)
    error = s.fatal()
    assert error and error["S"] == "FATAL" and error["C"] == "08006", (number, error)
"#,
    );
}

#[test]
fn a_column_that_was_not_described_is_masked() {
    meddled(
        |_, reply| {
            let value = CLEAR.as_bytes();
            let cell = [u32::try_from(value.len()).unwrap().to_be_bytes().as_slice(), value].concat();
            let row = frame(b'D', &[&[0, 2], cell.as_slice(), &cell].concat());
            let end = [frame(b'C', b"SELECT 1\0"), frame(b'Z', b"I")].concat();
            (vec![description(reply), row, end], Then::GoOn)
        },
        r#"
s = Session()
seen = s.ask(MARKED % 1)
assert kinds(seen) == "TDCZ" and len(rows(seen)[0]) == 2, seen
assert CLEAR not in b"".join(body for _, body in seen), seen
s.alive()
"#,
    );
}

#[test]
fn a_reply_split_at_every_byte_is_the_same_reply() {
    meddled(
        |_, reply| (reply.iter().map(|byte| vec![*byte]).collect(), Then::GoOn),
        r#"
s = Session()
whole = s.ask(MARKED[:-len("/* mark %d */")])
split = s.ask(MARKED % 1)
assert whole == split and kinds(split) == "TDCZ" and CLEAR not in rows(split)[0][0], (whole, split)
s.alive()
"#,
    );
}
