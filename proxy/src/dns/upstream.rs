//! Asks the resolvers of the host, from the daemon's own cgroup.
//!
//! Each question has an id and a source port of its own, from the system's randomness, and a socket that hears nobody but the
//! resolver. What is no answer to it is overheard; what does not fit a datagram is asked again over TCP, up to a limit.
//! INVARIANT: every wait ends, and every buffer has a size that is fixed before the first byte.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::{Answer, AnswerError, Heard};

/// Where the host's resolvers are written.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// As many as the C library reads.
const UPSTREAMS_MAX: usize = 3;
const PORT: u16 = 53;
/// What is asked for in a datagram; larger ones are asked for over TCP.
const DATAGRAM_BYTES: u16 = 1232;
/// What is read of one: a resolver that sends more did not listen.
const DATAGRAM_BYTES_MAX: usize = 4096;
/// Largest answer over TCP: 16 KiB holds more addresses than are passed on, and a resolver could send 64.
const STREAM_BYTES_MAX: u16 = 16 * 1024;
/// Datagrams that may be no answer before the resolver counts as silent.
const STRANGERS_MAX: usize = 16;
/// Clients wait five seconds: within it every resolver is asked twice.
const TRY_TIME_MAX: Duration = Duration::from_millis(1500);
const WHOLE_TIME_MAX: Duration = Duration::from_millis(4500);
const ROUNDS: usize = 2;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    #[error("no resolver is configured")]
    None,
    #[error("no resolver answered in time")]
    Silent,
    #[error("the system has no randomness")]
    Random,
    #[error("the question cannot be written")]
    Unwritable,
    #[error("the resolver cannot be talked to: {0}")]
    Io(#[from] io::Error),
    #[error("the resolver's answer is not one: {0}")]
    Answer(#[from] AnswerError),
    #[error("the resolver's answer has {0} bytes")]
    TooLong(u16),
}

/// The resolvers to ask, in order. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Upstreams(Arc<[SocketAddr]>);

impl Upstreams {
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self(addresses.into())
    }

    /// The first answer that is one.
    pub(super) async fn ask(&self, query: &Query) -> Result<Answer, UpstreamError> {
        let every = async {
            let mut last = UpstreamError::None;
            for upstream in self.0.iter().cycle().take(self.0.len().saturating_mul(ROUNDS)) {
                match timeout(TRY_TIME_MAX, ask_one(*upstream, query)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(error)) => {
                        tracing::debug!(%upstream, %error, "a resolver gave no answer");
                        last = error;
                    }
                    Err(_elapsed) => last = UpstreamError::Silent,
                }
            }
            Err(last)
        };
        timeout(WHOLE_TIME_MAX, every).await.unwrap_or(Err(UpstreamError::Silent))
    }
}

async fn ask_one(upstream: SocketAddr, query: &Query) -> Result<Answer, UpstreamError> {
    let mut random = [0_u8; 2];
    getrandom::fill(&mut random).map_err(|_none| UpstreamError::Random)?;
    let id = u16::from_ne_bytes(random);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM_BYTES);
    message.set_edns(edns);
    let question = message.to_vec().map_err(|_unwritable| UpstreamError::Unwritable)?;
    match by_datagram(upstream, &question, (id, query)).await? {
        Heard::Whole(answer) => Ok(answer),
        Heard::Cut => by_stream(upstream, &question, (id, query)).await,
    }
}

async fn by_datagram(
    upstream: SocketAddr,
    question: &[u8],
    (id, query): (u16, &Query),
) -> Result<Heard, UpstreamError> {
    let any = if upstream.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut buffer = vec![0_u8; DATAGRAM_BYTES_MAX];
    for _ in 0..STRANGERS_MAX {
        let length = socket.recv(&mut buffer).await?;
        match Answer::read(buffer.get(..length).unwrap_or_default(), id, query) {
            // Anybody can send a datagram that is no answer; it must not take the place of the real one.
            Err(AnswerError::Stranger | AnswerError::Unreadable) => {}
            heard => return Ok(heard?),
        }
    }
    Err(UpstreamError::Answer(AnswerError::Stranger))
}

async fn by_stream(
    upstream: SocketAddr,
    question: &[u8],
    (id, query): (u16, &Query),
) -> Result<Answer, UpstreamError> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(question.len()).map_err(|_too_long| UpstreamError::Unwritable)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let length = stream.read_u16().await?;
    if length > STREAM_BYTES_MAX {
        return Err(UpstreamError::TooLong(length));
    }
    let mut buffer = vec![0_u8; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    match Answer::read(&buffer, id, query)? {
        Heard::Whole(answer) => Ok(answer),
        Heard::Cut => Err(UpstreamError::Answer(AnswerError::Unreadable)),
    }
}

/// The resolvers of this host. None is no error: names of registered resources are answered without.
#[must_use]
pub fn system() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(Path::new(RESOLV_CONF)).unwrap_or_default();
    let found = resolvers_in(&text);
    if found.is_empty() {
        tracing::warn!("`{RESOLV_CONF}` names no resolver; only names of registered resources are answered");
    }
    found
}

fn resolvers_in(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    let addresses = named.filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok());
    addresses.take(UPSTREAMS_MAX).map(|ip| SocketAddr::new(ip, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_resolvers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 9.9.9.9\nsearch example.com\nnameserver 10.0.0.53\nnameserver\tfd00::53 # x\n\
                    nameserver nonsense\nnameserver 10.0.0.54\nnameserver 10.0.0.55\n";
        let expected: Vec<SocketAddr> =
            ["10.0.0.53:53", "[fd00::53]:53", "10.0.0.54:53"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(resolvers_in(text), expected);
    }
}
