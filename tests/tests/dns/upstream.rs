//! Resolvers to ask: one that is honest, and others that do what a resolver must not.
//!
//! On a loopback port, over UDP and TCP, in threads that end with the value.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaperone_tests::{ports, process, temp};
use hickory_proto::op::{Message, OpCode, Query};
use hickory_proto::rr::rdata::{CNAME, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// What a resolver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liar {
    /// Nothing wrong.
    Honest,
    /// First answers that are none: another id, another name, noise. Then the true one.
    Stranger,
    /// Aliases in a circle.
    Loop,
    /// Over TCP an answer of 64 KiB.
    SixtyFourKilobytes,
    /// Over TCP as many records as fit.
    ManyRecords,
    /// Noise.
    Garbage,
    /// Nothing.
    Silent,
    /// Over UDP only that there is more.
    Cut,
}

/// A running resolver.
#[derive(Debug)]
pub(crate) struct Upstream {
    address: SocketAddr,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Where addresses of IPv6 are: with a road, and without.
const NEAR: &str = "2001:db8:";
const FAR: &str = "2001:db8:f:";

/// Routes of this machine, for the time of a test: to the addresses that an [`Upstream`] tells, and to none beyond. They lead to
/// loopback, and nothing is sent. Each has a metric of its own, so that tests beside each other have each theirs.
#[derive(Debug)]
pub(crate) struct Roads(Vec<Vec<String>>);

impl Roads {
    pub(crate) fn new() -> Result<Self> {
        let metric = u16::from_str_radix(temp::unique().get(..4).unwrap_or("1"), 16)?;
        let mut roads = Self(Vec::new());
        for road in [format!("{NEAR}:/48 dev lo"), format!("unreachable {FAR}:/48 dev lo")] {
            let words = format!("{road} metric {}", u32::from(metric) + 2000);
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            route("add", &words)?;
            roads.0.push(words);
        }
        Ok(roads)
    }
}

impl Drop for Roads {
    fn drop(&mut self) {
        for road in &self.0 {
            if let Err(error) = route("del", road) {
                eprintln!("a route stays: {error:#}");
            }
        }
    }
}

fn route(action: &str, words: &[String]) -> Result<()> {
    let mut command = Command::new("ip");
    process::run(command.args(["-6", "route", action]).args(words), Duration::from_secs(30))?.success()?;
    Ok(())
}

/// How often threads look whether they are still wanted.
const BEAT: Duration = Duration::from_millis(50);

impl Upstream {
    pub(crate) fn start(liar: Liar) -> Result<Self> {
        // Below the ephemeral range, where no client's socket has the same number for the other protocol.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
        let tcp = TcpListener::bind(address).context("no TCP port for the resolver")?;
        let udp = UdpSocket::bind(address).context("no UDP port for the resolver")?;
        udp.set_read_timeout(Some(BEAT))?;
        tcp.set_nonblocking(true)?;
        let (asked, over) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicBool::new(false)));
        let (heard, ended) = (Arc::clone(&asked), Arc::clone(&over));
        let datagrams = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, peer)) = udp.recv_from(&mut buffer) else { continue };
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let name = question.queries[0].name().to_ascii().trim_end_matches('.').to_owned();
                *heard.lock().unwrap().entry(name).or_default() += 1;
                for reply in by_datagram(liar, &question) {
                    udp.send_to(&reply, peer).unwrap();
                }
            }
        });
        let ended = Arc::clone(&over);
        let streams = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                match tcp.accept() {
                    // Whoever asked may be gone before it has read everything.
                    Ok((stream, _)) => drop(by_stream(liar, stream)),
                    Err(_) => std::thread::sleep(BEAT),
                }
            }
        });
        Ok(Self { address, asked, over, threads: vec![datagrams, streams] })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every name it was asked for, as it was written.
    pub(crate) fn asked(&self) -> BTreeSet<String> {
        self.asked.lock().unwrap().keys().cloned().collect()
    }

    /// How often it was asked for a name in a datagram.
    pub(crate) fn times(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the resolver stumbled");
        }
    }
}

fn name_of(question: &Message) -> String {
    question.queries[0].name().to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn by_datagram(liar: Liar, question: &Message) -> Vec<Vec<u8>> {
    let true_one = honest(question).to_vec().unwrap();
    let empty = reply(question);
    match liar {
        Liar::Honest => vec![true_one],
        Liar::Stranger => {
            let mut id = reply(question);
            id.metadata.id = id.metadata.id.wrapping_add(1);
            id.add_answer(a(question.queries[0].name(), "203.0.113.66"));
            let mut name = Message::response(question.metadata.id, OpCode::Query);
            let evil = Name::from_ascii("evil.example.").unwrap();
            name.add_query(Query::query(evil.clone(), RecordType::A));
            name.add_answer(a(&evil, "203.0.113.66"));
            vec![id.to_vec().unwrap(), name.to_vec().unwrap(), vec![0xff; 40], true_one]
        }
        Liar::Loop => {
            let mut circle = empty;
            let (asked, other) =
                (question.queries[0].name().clone(), Name::from_ascii("b.example.").unwrap());
            circle.add_answer(Record::from_rdata(asked.clone(), 60, RData::CNAME(CNAME(other.clone()))));
            circle.add_answer(Record::from_rdata(other, 60, RData::CNAME(CNAME(asked))));
            vec![circle.to_vec().unwrap()]
        }
        Liar::SixtyFourKilobytes | Liar::ManyRecords | Liar::Cut => {
            let mut cut = empty;
            cut.metadata.truncation = true;
            vec![cut.to_vec().unwrap()]
        }
        Liar::Garbage => vec![vec![0xff; 100], vec![0x00; 3]],
        Liar::Silent => Vec::new(),
    }
}

fn by_stream(liar: Liar, mut stream: TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes)?;
    let question = Message::from_vec(&bytes)?;
    let asked = question.queries[0].name();
    let many = |count: u8, each: u8| {
        let mut many = reply(&question);
        for high in 0..count {
            for low in 0..each {
                many.add_answer(a(asked, &format!("198.51.{high}.{low}")));
            }
        }
        many.to_vec()
    };
    let answer = match (liar, question.queries[0].query_type()) {
        (Liar::SixtyFourKilobytes, _) => long(&question)?,
        (Liar::ManyRecords, _) => many(5, 100)?,
        (Liar::Cut, RecordType::A) => many(1, 40)?,
        _ => honest(&question).to_vec()?,
    };
    stream.write_all(&u16::try_from(answer.len())?.to_be_bytes())?;
    stream.write_all(&answer)?;
    Ok(())
}

/// A true answer, with as much behind it as a length of two bytes can say.
fn long(question: &Message) -> Result<Vec<u8>> {
    let mut long = honest(question);
    let name = question.queries[0].name();
    for _ in 0..60 {
        let filler = TXT::new(vec!["x".repeat(250); 4]);
        long.add_authority(Record::from_rdata(name.clone(), 60, RData::TXT(filler)));
    }
    let bytes = long.to_vec()?;
    ensure!(bytes.len() > 60_000, "{} bytes are not long", bytes.len());
    Message::from_vec(&bytes)?;
    Ok(bytes)
}

fn reply(question: &Message) -> Message {
    let mut reply = Message::response(question.metadata.id, OpCode::Query);
    reply.add_query(question.queries[0].clone());
    reply
}

fn honest(question: &Message) -> Message {
    let mut answer = reply(question);
    let (asked, name) = (question.queries[0].name().clone(), name_of(question));
    let target = Name::from_ascii("www.example.").unwrap();
    let owner = if name == "alias.example" {
        answer.add_answer(Record::from_rdata(asked, 60, RData::CNAME(CNAME(target.clone()))));
        target
    } else {
        asked
    };
    let inward = name.strip_prefix("rebind-").and_then(|rest| rest.strip_suffix(".example"));
    let v4 = inward.map_or("198.51.100.7".to_owned(), |ip| ip.replace('-', "."));
    match question.queries[0].query_type() {
        RecordType::A => {
            let record = a(&owner, &v4);
            // The shortest that is kept, which is longer than it says.
            let ttl = if name == "short.example" { 1 } else { record.ttl };
            answer.add_answer(Record::from_rdata(record.name, ttl, record.data))
        }
        RecordType::AAAA => {
            let far = if name == "far.example" { FAR } else { NEAR };
            answer.add_answer(a(&owner, &format!("{far}:7")))
        }
        _ => &mut answer,
    };
    answer
}

fn a(owner: &Name, ip: &str) -> Record {
    let data = match ip.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    };
    Record::from_rdata(owner.clone(), 60, data)
}
