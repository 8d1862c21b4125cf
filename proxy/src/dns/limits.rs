//! How much an agent may ask, and what a name may carry.
//!
//! A name is a message to whoever answers for its domain. What is counted: questions (a bucket that refills), questions at
//! work, new names, and new names below one registered domain. What is weighed: the name, and what stands below the registered
//! domain, each as one text, dots included, by the length of a code that learns the text as it goes. A code of `n` bits tells at
//! most `2^n` texts of one length apart (Kraft's inequality), whatever they look like, and there are fewer than `2^8` lengths:
//! a new name carries at most 60 bytes below its domain, 70 in all. With 60 new names a minute that is 3.6 KiB a minute and
//! domain; with 600 of any domain 42 KiB an agent. Minutes do not overlap: across the turn of one it may be twice as much.
//! Known limits: without a list of public suffixes, names of different people below one suffix share their count, and below a
//! permit for a whole top-level domain (`*.corp`) each second label is a domain. Which of its known names an agent asks again
//! tells up to 11 bits a question (600 names, three kinds), 50 questions a second: 4 KiB a minute more; and when, something too.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::AgentName;

/// Questions at once: a browser opening a page asks about a hundred.
const BURST: f64 = 200.0;
/// Questions a second in the long run.
const PER_SECOND: f64 = 50.0;
/// Questions of one agent at work: those that wait for a slow resolver.
const AT_WORK_MAX: usize = 64;
/// For how long names count as known.
const WINDOW: Duration = Duration::from_mins(1);
/// Different names a minute.
const NAMES_MAX: usize = 600;
/// Different names a minute below one registered domain: services with many hosts have tens, tunnels need thousands.
const NAMES_BELOW_MAX: usize = 60;
/// Different names a minute below what may be a public suffix, `co.uk`, or somebody's own domain, `me.de`.
const NAMES_BELOW_KIND_MAX: usize = 240;
/// Bits below the registered domain. The longest names of services, in clusters and of stores with a name of 63 letters, have
/// just below 470; a tunnel's have 600 and more.
const BITS_MAX: f64 = 472.0;
/// Bits in a whole name: the registered domain of the longest such names has 80. Without it that label would be free.
const WHOLE_BITS_MAX: f64 = 552.0;
/// Signs of host names: letters, digits, hyphen, underscore, dot, and one for all others.
const SIGNS: u8 = 40;
const HYPHEN: u8 = 36;
const UNDERSCORE: u8 = 37;
const DOT: u8 = 38;
const OTHER: u8 = 39;
/// Which of all others it is.
const OTHER_BITS: f64 = 8.0;
/// Second labels that stand for a kind of registrant below a country, as in `co.uk`: the domain is one label longer there.
const KINDS: [&str; 16] = [
    "ac", "co", "com", "edu", "go", "gob", "gov", "ltd", "me", "mil", "ne", "net", "nom", "or", "org", "plc",
];

/// Too much of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// Too many questions.
    Rate,
    /// Too much in one name.
    Weight,
    /// Too many different names.
    Names,
}

impl Excess {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "too-many-questions",
            Self::Weight => "name-carries-data",
            Self::Names => "too-many-names",
        }
    }
}

#[derive(Debug)]
struct Allowance {
    tokens: f64,
    filled: Instant,
    at_work: Arc<Semaphore>,
    since: Instant,
    names: HashSet<String>,
    below: HashMap<String, usize>,
}

/// What every agent has used. There are as many as are configured.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<HashMap<AgentName, Allowance>>);

impl Limits {
    /// Takes one question's worth; the seat is given back when it is answered.
    pub(super) fn admit(&self, agent: &AgentName, now: Instant) -> Result<OwnedSemaphorePermit, Excess> {
        let mut agents = self.0.lock();
        let allowance = agents.entry(agent.clone()).or_insert_with(|| Allowance::new(now));
        let passed = now.saturating_duration_since(allowance.filled).as_secs_f64();
        allowance.tokens = passed.mul_add(PER_SECOND, allowance.tokens).min(BURST);
        allowance.filled = now;
        if allowance.tokens < 1.0 {
            return Err(Excess::Rate);
        }
        allowance.tokens -= 1.0;
        Arc::clone(&allowance.at_work).try_acquire_owned().map_err(|_full| Excess::Rate)
    }

    /// Counts a name that is going to be asked upstream.
    pub(super) fn count(&self, agent: &AgentName, name: &str, now: Instant) -> Result<(), Excess> {
        let mut agents = self.0.lock();
        let allowance = agents.entry(agent.clone()).or_insert_with(|| Allowance::new(now));
        if now.saturating_duration_since(allowance.since) >= WINDOW {
            allowance.since = now;
            allowance.names.clear();
            allowance.below.clear();
        }
        if allowance.names.contains(name) {
            return Ok(());
        }
        let (_, domain) = split(name);
        let kind = last_two(domain);
        let full = |of: &str, max| allowance.below.get(of).is_some_and(|count| *count >= max);
        let kind_full = kind != domain && full(kind, NAMES_BELOW_KIND_MAX);
        if allowance.names.len() >= NAMES_MAX || full(domain, NAMES_BELOW_MAX) || kind_full {
            return Err(Excess::Names);
        }
        allowance.names.insert(name.to_owned());
        for of in [Some(domain), Some(kind).filter(|kind| *kind != domain)].into_iter().flatten() {
            let count = allowance.below.entry(of.to_owned()).or_default();
            *count = count.saturating_add(1);
        }
        Ok(())
    }
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            filled: now,
            at_work: Arc::new(Semaphore::new(AT_WORK_MAX)),
            since: now,
            names: HashSet::new(),
            below: HashMap::new(),
        }
    }
}

/// Refuses a name that carries more than names do.
pub(super) fn weigh(name: &str) -> Result<(), Excess> {
    let (below, _) = split(name);
    if bits(below) > BITS_MAX || bits(name) > WHOLE_BITS_MAX { Err(Excess::Weight) } else { Ok(()) }
}

/// Length of the text in a code that expects each sign as often as it has come so far, and once more: Laplace's rule. Frequent
/// signs cost little, but the text has to make them frequent first.
fn bits(text: &str) -> f64 {
    let mut seen = [0_u32; SIGNS as usize];
    let mut total = 0.0;
    for (before, byte) in text.bytes().enumerate() {
        let sign = sign(byte);
        let count = seen.get_mut(usize::from(sign)).map_or(0, |count| {
            *count = count.saturating_add(1);
            *count
        });
        let before = f64::from(u32::try_from(before).unwrap_or(u32::MAX));
        total += ((before + f64::from(SIGNS)) / f64::from(count.max(1))).log2();
        if sign == OTHER {
            total += OTHER_BITS;
        }
    }
    total
}

fn sign(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => byte.saturating_sub(b'a'),
        b'0'..=b'9' => byte.saturating_sub(b'0').saturating_add(26),
        b'-' => HYPHEN,
        b'_' => UNDERSCORE,
        b'.' => DOT,
        _ => OTHER,
    }
}

/// The labels below the registered domain, and that domain: the last two labels, three below a country's kinds of registrants.
fn split(name: &str) -> (&str, &str) {
    let dots: Vec<usize> = name.rmatch_indices('.').map(|(at, _)| at).take(3).collect();
    let (Some(last), Some(second)) = (dots.first(), dots.get(1)) else { return ("", name) };
    let country = name.get(last.saturating_add(1)..).is_some_and(|label| label.len() == 2);
    let kind = name.get(second.saturating_add(1)..*last).is_some_and(|label| KINDS.contains(&label));
    let cut = if country && kind { dots.get(2) } else { Some(second) };
    match cut.and_then(|at| name.split_at_checked(*at)) {
        Some((below, domain)) => (below, domain.trim_start_matches('.')),
        None => ("", name),
    }
}

/// The last two labels.
fn last_two(name: &str) -> &str {
    let second = name.rmatch_indices('.').nth(1);
    second.and_then(|(at, _)| name.get(at.saturating_add(1)..)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn names_of_services_pass_and_names_that_carry_data_do_not() {
        for name in [
            "db.internal",
            "api.github.com",
            "internal-a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6-1234567890.us-east-1.elb.amazonaws.com",
            "d111111abcdef8.cloudfront.net",
            "very-long-and-speaking-service-name.team.environment.region.example.com",
            "www.bbc.co.uk",
            "internal-a1b2c3d4e5f67890a1b2c3d4e5f67890-9876543210.ap-southeast-2.elb.amazonaws.com",
            "some-very-long-bucket-name-with-project-and-environment-2024.s3.eu-central-1.amazonaws.com",
            "productionservicewithlongname-fnc7h3hve9bqcvbm.westeurope-01.azurewebsites.net",
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa",
            "_acme-challenge.www.example.com",
            "vpce-0fedcba9876543210-abcdefgh-ap-southeast-2a.execute-api.ap-southeast-2.vpce.amazonaws.com",
            "my-long-deployment-name-7d9f8b6c5d-x2v9k.headless-service.production-namespace.svc.cluster.local",
            "some-very-long-bucket-name-with-project-and-environment-2024abc.s3.dualstack.ap-northeast-1.amazonaws.com",
            "some-very-long-bucket-name-with-project-and-environment-2024abc.s3.cn-northwest-1.amazonaws.com.cn",
            "4.3.2.1.in-addr.arpa",
        ] {
            assert_eq!(weigh(name), Ok(()), "{name}");
        }
        let base32 = "mfrggzdfmztwq2lknnwg23tpobyxe43uov3ho6dzpiydcmrtgq2tmnzyhfqwe";
        let tunnel = format!("{base32}.{base32}.t.example.com");
        assert_eq!(weigh(&tunnel), Err(Excess::Weight));
        assert_eq!(weigh(&tunnel.replace("example.com", "example.co.uk")), Err(Excess::Weight));
    }

    /// Fills names before a rest by a way of packing until one is refused; the bytes of data in the last that was not.
    fn carried(rest: &str, pack: impl Fn(&[u8]) -> String) -> usize {
        // Bytes without a pattern: each is the last digit of the square's middle, over and over.
        let data: Vec<u8> =
            (1_u32..400).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
        (1..data.len())
            .take_while(|length| weigh(&format!("{}.{rest}", pack(&data[..*length]))).is_ok())
            .count()
    }

    /// Data as digits of a base, each written as one of `letters`.
    fn digits(data: &[u8], letters: &[u8]) -> String {
        let base = u32::try_from(letters.len()).unwrap();
        let each = (1..=8).find(|each| base.pow(*each) >= 256).unwrap();
        let digit = |byte: u8, at: u32| char::from(letters[(u32::from(byte) / base.pow(at) % base) as usize]);
        data.iter().flat_map(|byte| (0..each).map(move |at| digit(*byte, at))).collect()
    }

    /// Text in labels of one length.
    fn cut(text: &str, length: usize) -> String {
        let parts: Vec<&str> =
            text.as_bytes().chunks(length).map(|part| std::str::from_utf8(part).unwrap()).collect();
        parts.join(".")
    }

    #[test]
    fn no_way_of_packing_carries_more_than_60_bytes_below_a_domain_and_70_in_all() {
        let mut most = 0;
        let rests = [
            ("t.example.com", 60),
            ("abc.com", 60),
            ("t.abc.com", 60),
            ("example.co.uk", 60),
            ("x.co", 60),
            // Here data is in the registered domain, too: one label of it, or two.
            ("me.de", 70),
            ("corp", 70),
        ];
        for (rest, max) in rests {
            let mut held = |bytes: usize, how: &str| {
                assert!(bytes <= max, "{bytes} bytes before {rest}: {how}");
                most = most.max(bytes);
            };
            for letters in ["ab", "abc", "abcd", "0123456789abcdef", "abcdefghijklmnop"] {
                for length in [1, 2, 3, 7, 31, 63] {
                    let bytes = carried(rest, |data| cut(&digits(data, letters.as_bytes()), length));
                    held(bytes, &format!("of {letters}, labels of {length}"));
                }
            }
            // The lengths of labels carry the data, the letters nothing.
            let runs = carried(rest, |data| {
                let runs = data.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                runs.map(|run| "a".repeat(usize::from(run) + 1)).collect::<Vec<_>>().join(".")
            });
            held(runs, "in the lengths of labels");
        }
        // The ways above are ways: a limit that let nothing pass would hold, too.
        assert!(most > 35, "{most}");
    }

    #[test]
    fn a_code_of_n_bits_tells_no_more_than_two_to_the_n_texts_apart() {
        // Kraft's inequality, step by step: after any beginning the shares of all signs that can follow add up to one at most.
        let signs = "abcdefghijklmnopqrstuvwxyz0123456789-_.";
        for beginning in ["", "a", "aaaaaaaa", "a.b.c.1.2.3", "www-1.example_x", &"ab.".repeat(80)] {
            let share = |sign: char| (bits(beginning) - bits(&format!("{beginning}{sign}"))).exp2();
            let sum: f64 = signs.chars().map(share).sum();
            assert!((0.9..=1.000_001).contains(&sum), "{sum} after {beginning}");
        }
    }

    #[test]
    fn all_that_leaves_by_new_names_in_a_minute_is_what_the_documents_say() {
        let start = Clock::system().instant();
        let passed = |name: &dyn Fn(usize) -> String| {
            let (limits, agent) = (Limits::default(), AgentName("one".into()));
            (0..1000).filter(|number| limits.count(&agent, &name(*number), start).is_ok()).count()
        };
        assert_eq!(passed(&|number| format!("n{number}.abc.com")), 60);
        assert_eq!(passed(&|number| format!("x.y{number}.z.abc.com")), 60);
        assert_eq!(passed(&|number| format!("x.n{number}.t.co.uk")), 60);
        // Whoever owns `me.de` hears each name; below `co.uk` they are different people's.
        assert_eq!(passed(&|number| format!("x.n{number}.me.de")), 240);
        assert_eq!(passed(&|number| format!("x.n{number}.corp")), 600);
        // Bits of a name and of its length: bytes, rounded down.
        let bytes = |max: f64| (max + 8.0) / 8.0;
        assert!(bytes(BITS_MAX) <= 60.0 && bytes(WHOLE_BITS_MAX) <= 70.0);
    }

    #[test]
    fn the_registered_domain_is_two_labels_or_three() {
        assert_eq!(split("data.abc.com"), ("data", "abc.com"));
        assert_eq!(split("data.abc.de"), ("data", "abc.de"));
        assert_eq!(split("a.b.example.com"), ("a.b", "example.com"));
        assert_eq!(split("a.example.co.uk"), ("a", "example.co.uk"));
        assert_eq!(split("example.com"), ("", "example.com"));
        assert_eq!(split("co.uk"), ("", "co.uk"));
        assert_eq!(split("localhost"), ("", "localhost"));
    }

    #[test]
    fn questions_run_out_and_come_back_with_time_for_each_agent_by_itself() {
        let (limits, start) = (Limits::default(), Clock::system().instant());
        let (one, two) = (AgentName("one".into()), AgentName("two".into()));
        for _ in 0..200 {
            drop(limits.admit(&one, start).unwrap());
        }
        assert!(limits.admit(&one, start).is_err());
        assert!(limits.admit(&two, start).is_ok());
        assert!(limits.admit(&one, start + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn questions_that_are_not_answered_yet_hold_their_seat() {
        let (limits, now) = (Limits::default(), Clock::system().instant());
        let agent = AgentName("one".into());
        let seats: Vec<_> = (0..AT_WORK_MAX).map(|_| limits.admit(&agent, now).unwrap()).collect();
        assert!(limits.admit(&agent, now).is_err());
        drop(seats);
        assert!(limits.admit(&agent, now).is_ok());
    }

    #[test]
    fn a_domain_has_so_many_new_names_a_minute() {
        let (limits, start) = (Limits::default(), Clock::system().instant());
        let agent = AgentName("one".into());
        for number in 0..NAMES_BELOW_MAX {
            limits.count(&agent, &format!("{number}.t.example.com"), start).unwrap();
        }
        assert_eq!(limits.count(&agent, "more.t.example.com", start), Err(Excess::Names));
        assert_eq!(limits.count(&agent, "0.t.example.com", start), Ok(()));
        assert_eq!(limits.count(&agent, "www.other.com", start), Ok(()));
        assert_eq!(limits.count(&agent, "more.t.example.com", start + WINDOW), Ok(()));
    }
}
