//! An agent's bytes to one question, and the reply to it back to bytes.
//!
//! The library reads the format; here only what a stub resolver sends passes: one question, class IN, a name of letters,
//! digits, `-` and `_`. INVARIANT: a reply repeats the question's id and name as they came, and holds nothing that was not
//! put in by name; what does not fit the transport is cut to nothing and marked, so that the client comes back over TCP.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};

/// Largest reply over UDP: what passes every link unfragmented; larger ones go over TCP, as resolvers do since 2020.
const DATAGRAM_BYTES_MAX: u16 = 1232;
/// What a client without EDNS can take.
const PLAIN_BYTES_MAX: u16 = 512;
/// Code of the option that carries an extended error.
const EXTENDED_ERROR: u16 = 15;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Datagram,
    Stream,
}

/// One question.
#[derive(Debug, Clone)]
pub(super) struct Question {
    id: u16,
    query: Query,
    recursion: bool,
    edns: Option<u16>,
    transport: Transport,
    /// The name, lower case, without the last dot: what policy sees.
    pub(super) name: String,
}

/// Bytes that are no question.
#[derive(Debug)]
pub(super) enum Malformed {
    /// Not even worth an answer: unreadable, or an answer itself.
    Silent,
    /// Readable, but not what is answered here.
    Reply(Vec<u8>),
}

/// A reason that is told to the client, as RFC 8914 has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) code: u16,
    pub(super) text: String,
}

impl Question {
    pub(super) fn read(bytes: &[u8], transport: Transport) -> Result<Self, Malformed> {
        let message = Message::from_vec(bytes).ok().ok_or(Malformed::Silent)?;
        let head = &message.metadata;
        if head.message_type != MessageType::Query {
            return Err(Malformed::Silent);
        }
        let fault = |code| {
            let reply = Message::error_msg(head.id, head.op_code, code).to_vec();
            reply.map_or(Malformed::Silent, Malformed::Reply)
        };
        if head.op_code != OpCode::Query {
            return Err(fault(ResponseCode::NotImp));
        }
        let [query] = message.queries.as_slice() else { return Err(fault(ResponseCode::FormErr)) };
        let name = plain(query.name()).filter(|_| query.query_class() == DNSClass::IN);
        let Some(name) = name else { return Err(fault(ResponseCode::Refused)) };
        Ok(Self {
            id: head.id,
            query: query.clone(),
            recursion: head.recursion_desired,
            edns: message.edns.as_ref().map(Edns::max_payload),
            transport,
            name,
        })
    }

    pub(super) fn query(&self) -> &Query {
        &self.query
    }

    /// The same question as policy saw it: how the letters are written could carry data.
    pub(super) fn folded(&self) -> Query {
        Query::query(self.query.name().to_lowercase(), self.kind())
    }

    pub(super) fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// The reply; `None` only if it cannot be written at all.
    pub(super) fn reply(
        &self,
        code: ResponseCode,
        records: &[Record],
        told: Option<&Told>,
    ) -> Option<Vec<u8>> {
        let whole = self.message(code, records, told).to_vec().ok()?;
        if whole.len() <= self.room() {
            return Some(whole);
        }
        let mut cut = self.message(code, &[], None);
        cut.metadata.truncation = true;
        cut.to_vec().ok()
    }

    fn message(&self, code: ResponseCode, records: &[Record], told: Option<&Told>) -> Message {
        let mut message = Message::error_msg(self.id, OpCode::Query, code);
        message.metadata.recursion_desired = self.recursion;
        message.metadata.recursion_available = true;
        message.add_query(self.query.clone());
        message.add_answers(records.iter().cloned());
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_BYTES_MAX);
            if let Some(told) = told {
                let text = told.code.to_be_bytes().into_iter().chain(told.text.bytes());
                edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, text.collect()));
            }
            message.set_edns(edns);
        }
        message
    }

    fn room(&self) -> usize {
        usize::from(match (self.transport, self.edns) {
            (Transport::Stream, _) => u16::MAX,
            (Transport::Datagram, Some(theirs)) => theirs.clamp(PLAIN_BYTES_MAX, DATAGRAM_BYTES_MAX),
            (Transport::Datagram, None) => PLAIN_BYTES_MAX,
        })
    }
}

/// A name as policy sees it. A dot within a label, or anything else that two readers could read differently, is no name.
pub(super) fn plain(name: &Name) -> Option<String> {
    let mut text = String::new();
    for label in name.iter() {
        let label = std::str::from_utf8(label).ok()?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if label.is_empty() || !label.bytes().all(fits) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(&label.to_ascii_lowercase());
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    #[test]
    fn a_question_is_read_in_lower_case_and_answered_in_the_clients_own() {
        let bytes = ask("Www.Example.COM.", RecordType::A).to_vec().unwrap();
        let question = Question::read(&bytes, Transport::Datagram).unwrap();
        assert_eq!(question.name, "www.example.com");
        assert_eq!(question.folded().name().to_ascii(), "www.example.com.");
        let reply = Message::from_vec(&question.reply(ResponseCode::Refused, &[], None).unwrap()).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (7, ResponseCode::Refused));
        assert!(reply.queries[0].name().eq_case(&Name::from_ascii("Www.Example.COM.").unwrap()));
        assert!(reply.edns.is_none(), "a client without EDNS was given some");
    }

    #[test]
    fn what_is_no_single_plain_question_is_refused() {
        let read = |message: &Message| Question::read(&message.to_vec().unwrap(), Transport::Datagram);
        let mut two = ask("a.example.", RecordType::A);
        two.add_query(Query::query(Name::from_ascii("b.example.").unwrap(), RecordType::A));
        assert!(matches!(read(&two), Err(Malformed::Reply(_))));
        let mut answer = ask("a.example.", RecordType::A);
        answer.metadata.message_type = MessageType::Response;
        assert!(matches!(read(&answer), Err(Malformed::Silent)));
        for name in [".", r"a\.b.example.", r"a\000b.example."] {
            let Ok(name) = Name::from_ascii(name) else { continue };
            let mut odd = Message::new(7, MessageType::Query, OpCode::Query);
            odd.add_query(Query::query(name, RecordType::A));
            assert!(matches!(read(&odd), Err(Malformed::Reply(_))));
        }
        assert!(matches!(Question::read(b"", Transport::Datagram), Err(Malformed::Silent)));
    }

    #[test]
    fn random_bytes_are_read_without_harm() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..20_000_usize {
            let bytes: Vec<u8> = (0..round % 600)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed.to_le_bytes()[0]
                })
                .collect();
            drop(Question::read(&bytes, Transport::Datagram));
        }
    }
}
