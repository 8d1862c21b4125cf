//! This program's own small PostgreSQL clients: one that reads a large result, one that opens many idle sessions.
//!
//! They speak just enough of the protocol to log in without a password and to count rows, so that what is measured
//! is the way to the server and not a driver. An error from the server ends them with its text.
//! Limits: only for servers that ask for no password; messages longer than 16 MiB are refused.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};
use chaperone::clock::Clock;

/// No message of the benchmark comes near it; a lying length must not allocate more.
const MESSAGE_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// One logged-in connection.
struct Session {
    stream: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Session {
    fn open(address: &str, user: &str, database: &str) -> Result<Self> {
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        let mut body = Vec::new();
        body.extend_from_slice(&196_608_u32.to_be_bytes());
        for word in ["user", user, "database", database, ""] {
            body.extend_from_slice(word.as_bytes());
            body.push(0);
        }
        let length = u32::try_from(body.len() + 4).context("the start-up message is too long")?;
        let mut message = length.to_be_bytes().to_vec();
        message.extend_from_slice(&body);
        stream.write_all(&message).context("cannot send the start-up message")?;
        let mut session = Self { stream: BufReader::with_capacity(64 * 1024, stream), body: Vec::new() };
        session.until_ready()?;
        Ok(session)
    }

    /// Reads up to ReadyForQuery; returns how many rows and how many bytes of them went by.
    fn until_ready(&mut self) -> Result<(u64, u64)> {
        let (mut rows, mut bytes) = (0, 0);
        loop {
            let mut head = [0_u8; 5];
            self.stream.read_exact(&mut head).context("the server closed the connection")?;
            let [kind, a, b, c, d] = head;
            let length = u32::from_be_bytes([a, b, c, d]);
            ensure!((4..MESSAGE_BYTES_MAX).contains(&length), "a message of {length} bytes");
            self.body.resize(usize::try_from(length - 4).context("a message does not fit")?, 0);
            self.stream.read_exact(&mut self.body).context("the server closed the connection")?;
            match kind {
                b'D' => {
                    rows += 1;
                    bytes += u64::from(length);
                }
                b'Z' => return Ok((rows, bytes)),
                b'E' => bail!("the server says: {}", String::from_utf8_lossy(&self.body).replace('\0', " ")),
                b'R' => ensure!(self.body.starts_with(&[0, 0, 0, 0]), "the server wants a password"),
                _ => {}
            }
        }
    }

    fn query(&mut self, sql: &str) -> Result<(u64, u64)> {
        let length = u32::try_from(sql.len() + 5).context("the statement is too long")?;
        let mut message = vec![b'Q'];
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(sql.as_bytes());
        message.push(0);
        self.stream.get_mut().write_all(&message).context("cannot send the statement")?;
        self.until_ready()
    }
}

/// Runs one statement and prints rows, bytes and seconds.
pub(crate) fn fetch(address: &str, user: &str, database: &str, sql: &str) -> Result<()> {
    let mut session = Session::open(address, user, database)?;
    let clock = Clock::system();
    let start = clock.instant();
    let (rows, bytes) = session.query(sql)?;
    println!("{rows} {bytes} {:.6}", clock.instant().duration_since(start).as_secs_f64());
    Ok(())
}

/// Opens sessions, runs one statement on each, says so, and waits to be ended.
pub(crate) fn idle(address: &str, user: &str, database: &str, count: &str) -> Result<()> {
    let count: usize = count.parse().context("the number of sessions is no number")?;
    let mut sessions = Vec::with_capacity(count);
    for _ in 0..count {
        let mut session = Session::open(address, user, database)?;
        session.query("SELECT 1")?;
        sessions.push(session);
    }
    println!("{} open", sessions.len());
    std::io::stdout().flush().context("cannot print")?;
    // Ended by a signal of the caller.
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use chaperone_tests::postgres::{Access, Options, Server};
    use chaperone_tests::sample;

    use super::Session;

    #[test]
    fn rows_are_counted_and_the_servers_error_is_an_error() {
        let server = Server::start(&Options { access: Access::Trust, ..Options::default() }).unwrap();
        let mut session = Session::open(&server.v4().to_string(), sample::USER, sample::DATABASE).unwrap();
        let (rows, bytes) = session.query("SELECT id, item FROM orders").unwrap();
        assert_eq!(rows, u64::from(sample::ORDERS));
        assert!(bytes > rows);
        assert!(session.query("SELECT nothing").is_err());
    }
}
