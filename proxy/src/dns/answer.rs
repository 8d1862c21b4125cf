//! What an upstream resolver said, reduced to what was asked.
//!
//! A resolver may lie, loop or flood: only an answer to the very question counts, aliases are followed a few steps and must
//! lead to the end within the same answer, and nothing but the chain and its addresses is kept. Authority and additional
//! records are never looked at. INVARIANT: every record of an [`Answer`] has a name that the question leads to.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::question::plain;

/// Records looked at: more aliases and addresses than any service publishes.
const RECORDS_MAX: usize = 128;
/// Steps from alias to alias; public resolvers stop at about as many.
const ALIASES_MAX: usize = 8;
/// Addresses passed on: clients try a few.
const ADDRESSES_MAX: usize = 32;
/// How long an answer is kept at least: it must outlive the connection attempt it was asked for.
const TTL_MIN: Duration = Duration::from_secs(5);
/// And at most: a name that policy no longer permits must go out of use.
const TTL_MAX: Duration = Duration::from_mins(5);
/// How long "there is none" is kept.
const NOTHING_TTL: Duration = Duration::from_secs(5);

/// A checked answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// `NOERROR` or `NXDOMAIN`.
    pub(super) code: ResponseCode,
    /// Aliases and addresses, in order.
    pub(super) records: Vec<Record>,
    /// How long it may be kept.
    pub(super) ttl: Duration,
}

/// Why an upstream's message is not an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("its answer cannot be read")]
    Unreadable,
    #[error("it answered another question")]
    Stranger,
    #[error("it answered with {0}")]
    Failed(ResponseCode),
    #[error("it answered with more than {RECORDS_MAX} records")]
    TooMany,
    #[error("its aliases do not end")]
    Loop,
    #[error("it named a name that cannot be one")]
    Name,
}

/// A message that was looked at, whether or not it was whole.
pub(super) enum Heard {
    Whole(Answer),
    /// Cut to fit a datagram: ask over TCP.
    Cut,
}

impl Answer {
    /// Nothing of this kind.
    pub(super) fn nothing() -> Self {
        Self { code: ResponseCode::NoError, records: Vec::new(), ttl: NOTHING_TTL }
    }

    /// Addresses that the daemon knows itself.
    pub(super) fn of(query: &Query, addresses: &[IpAddr], ttl: Duration) -> Self {
        let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        let fits = |ip: &&IpAddr| (query.query_type() == RecordType::A) == ip.is_ipv4();
        let record = |ip: &IpAddr| Record::from_rdata(query.name().clone(), seconds, rdata(*ip));
        let wanted = matches!(query.query_type(), RecordType::A | RecordType::AAAA);
        let records = addresses.iter().filter(|_| wanted).filter(fits).take(ADDRESSES_MAX).map(record);
        Self { code: ResponseCode::NoError, records: records.collect(), ttl }
    }

    /// Judges a message.
    pub(super) fn read(bytes: &[u8], id: u16, query: &Query) -> Result<Heard, AnswerError> {
        let message = Message::from_vec(bytes).map_err(|_unreadable| AnswerError::Unreadable)?;
        let head = &message.metadata;
        let ours = matches!(message.queries.as_slice(), [asked] if asked == query);
        if head.id != id || head.message_type != MessageType::Response || !ours {
            return Err(AnswerError::Stranger);
        }
        if head.truncation {
            return Ok(Heard::Cut);
        }
        if !matches!(head.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Err(AnswerError::Failed(head.response_code));
        }
        if message.answers.len() > RECORDS_MAX {
            return Err(AnswerError::TooMany);
        }
        let records = chain(&message.answers, query)?;
        let ttl = records.iter().map(|record| Duration::from_secs(record.ttl.into())).min();
        let ttl = ttl.map_or(NOTHING_TTL, |ttl| ttl.clamp(TTL_MIN, TTL_MAX));
        let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        let records = records.into_iter().map(|record| Record::from_rdata(record.name, seconds, record.data));
        Ok(Heard::Whole(Self { code: head.response_code, records: records.collect(), ttl }))
    }

    /// Its addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.records.iter().filter_map(|record| address(&record.data))
    }

    /// Takes out the addresses that `keep` refuses; whether something was taken and nothing is left.
    pub(super) fn filter(&mut self, keep: impl Fn(IpAddr) -> bool) -> bool {
        let before = self.records.len();
        self.records.retain(|record| address(&record.data).is_none_or(&keep));
        self.records.len() < before && self.addresses().next().is_none()
    }
}

/// The aliases from the asked name on, and the records at their end.
fn chain(answers: &[Record], query: &Query) -> Result<Vec<Record>, AnswerError> {
    let kind = query.query_type();
    let mut current: Name = query.name().clone();
    let mut found: Vec<Record> = Vec::new();
    for _ in 0..=ALIASES_MAX {
        let here =
            || answers.iter().filter(|record| record.dns_class == DNSClass::IN && record.name == current);
        let ends: Vec<Record> = here().filter(|record| record.record_type() == kind).cloned().collect();
        if !ends.is_empty() {
            let targets = ends.iter().filter_map(|record| alias(&record.data));
            if targets.into_iter().any(|target| plain(target).is_none()) {
                return Err(AnswerError::Name);
            }
            found.extend(ends.into_iter().take(ADDRESSES_MAX));
            return Ok(found);
        }
        let Some((record, target)) = here().find_map(|record| Some((record, alias(&record.data)?))) else {
            return Ok(found);
        };
        if plain(target).is_none() {
            return Err(AnswerError::Name);
        }
        found.push(record.clone());
        current = target.clone();
    }
    Err(AnswerError::Loop)
}

fn alias(data: &RData) -> Option<&Name> {
    if let RData::CNAME(target) = data { Some(&target.0) } else { None }
}

fn address(data: &RData) -> Option<IpAddr> {
    if let RData::A(v4) = data {
        return Some(IpAddr::V4(v4.0));
    }
    if let RData::AAAA(v6) = data { Some(IpAddr::V6(v6.0)) } else { None }
}

fn rdata(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::CNAME;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn query() -> Query {
        Query::query(name("www.example.com."), RecordType::A)
    }

    fn message(records: Vec<Record>) -> Message {
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(query());
        message.add_answers(records);
        message
    }

    fn a(owner: &str, ip: &str, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, rdata(ip.parse().unwrap()))
    }

    fn cname(owner: &str, target: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
    }

    fn read(message: &Message) -> Result<Answer, AnswerError> {
        match Answer::read(&message.to_vec().unwrap(), 7, &query())? {
            Heard::Whole(answer) => Ok(answer),
            Heard::Cut => panic!("cut"),
        }
    }

    #[test]
    fn aliases_lead_to_addresses_and_records_of_other_names_are_left_out() {
        let answer = read(&message(vec![
            a("evil.example.", "6.6.6.6", 60),
            cname("www.example.com.", "cdn.example.net."),
            a("CDN.example.net.", "1.2.3.4", 1),
        ]))
        .unwrap();
        assert_eq!(answer.addresses().collect::<Vec<_>>(), ["1.2.3.4".parse::<IpAddr>().unwrap()]);
        assert_eq!((answer.records.len(), answer.ttl), (2, TTL_MIN));
        let long = read(&message(vec![a("www.example.com.", "1.2.3.4", u32::MAX)])).unwrap();
        assert_eq!(long.ttl, TTL_MAX);
    }

    #[test]
    fn aliases_that_loop_are_no_answer() {
        let circle = vec![cname("www.example.com.", "b.example."), cname("b.example.", "www.example.com.")];
        assert_eq!(read(&message(circle)), Err(AnswerError::Loop));
        assert_eq!(
            read(&message(vec![cname("www.example.com.", "www.example.com.")])),
            Err(AnswerError::Loop)
        );
    }

    #[test]
    fn only_the_very_question_is_answered() {
        let mut other = message(vec![a("www.example.com.", "1.2.3.4", 60)]);
        other.metadata.id = 8;
        assert_eq!(read(&other), Err(AnswerError::Stranger));
        let mut other = message(Vec::new());
        other.queries[0].set_name(name("evil.example."));
        assert_eq!(read(&other), Err(AnswerError::Stranger));
        let mut other = message(Vec::new());
        other.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(read(&other), Err(AnswerError::Failed(ResponseCode::ServFail)));
    }

    #[test]
    fn a_flood_of_records_is_no_answer() {
        let many = (0..=RECORDS_MAX).map(|_| a("www.example.com.", "1.2.3.4", 60)).collect();
        assert_eq!(read(&message(many)), Err(AnswerError::TooMany));
    }

    #[test]
    fn addresses_that_are_refused_are_taken_out() {
        let records = vec![a("www.example.com.", "10.0.0.1", 60), a("www.example.com.", "1.2.3.4", 60)];
        let mut answer = read(&message(records)).unwrap();
        assert!(!answer.filter(|ip| ip != "10.0.0.1".parse::<IpAddr>().unwrap()));
        assert_eq!(answer.records.len(), 1);
        assert!(answer.filter(|_| false));
    }
}
