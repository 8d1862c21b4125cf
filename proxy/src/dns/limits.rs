//! How much an agent may ask, and what a name may carry.
//!
//! A name is a message to whoever answers for its domain. What is counted: questions (a bucket that refills), questions at
//! work, new names, and new names below one registered domain. What is weighed: the information in the labels below the
//! registered domain, as Shannon's entropy times length. Together they bound what can leave by names that policy permits to
//! about 40 bytes a question and 2.4 KiB a minute and domain.
//! Known limit: without a list of public suffixes, two domains of different people below one suffix share their count.

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
/// Bits in the labels below the registered domain. The longest names of load balancers have just below 300; a tunnel's have
/// 600 and more.
const BITS_MAX: f64 = 320.0;

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
        let below = allowance.below.get(domain).copied().unwrap_or(0);
        if allowance.names.len() >= NAMES_MAX || below >= NAMES_BELOW_MAX {
            return Err(Excess::Names);
        }
        allowance.names.insert(name.to_owned());
        allowance.below.insert(domain.to_owned(), below.saturating_add(1));
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
    let (labels, _) = split(name);
    let bits: f64 = labels.split('.').map(bits).sum();
    if bits > BITS_MAX { Err(Excess::Weight) } else { Ok(()) }
}

/// Bits of information in a label, if its letters were drawn by their own frequency.
fn bits(label: &str) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in label.bytes() {
        if let Some(count) = counts.get_mut(usize::from(byte)) {
            *count = count.saturating_add(1);
        }
    }
    let length: f64 = counts.iter().map(|count| f64::from(*count)).sum();
    let one = |count: &u32| f64::from(*count) * (length / f64::from(*count)).log2();
    counts.iter().filter(|count| **count > 0).map(one).sum()
}

/// The labels below the registered domain, and that domain: the last two labels, three where the second is as short as in
/// `co.uk`.
fn split(name: &str) -> (&str, &str) {
    let dots: Vec<usize> = name.rmatch_indices('.').map(|(at, _)| at).take(3).collect();
    let (Some(last), second) = (dots.first(), dots.get(1)) else { return ("", name) };
    let Some(second) = second else { return ("", name) };
    let short = last.saturating_sub(*second) <= 4;
    let cut = if short { dots.get(2) } else { Some(second) };
    match cut.and_then(|at| name.split_at_checked(*at)) {
        Some((below, domain)) => (below, domain.trim_start_matches('.')),
        None => ("", name),
    }
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
        ] {
            assert_eq!(weigh(name), Ok(()), "{name}");
        }
        let base32 = "mfrggzdfmztwq2lknnwg23tpobyxe43uov3ho6dzpiydcmrtgq2tmnzyhfqwe";
        let tunnel = format!("{base32}.{base32}.t.example.com");
        assert_eq!(weigh(&tunnel), Err(Excess::Weight));
        assert_eq!(weigh(&tunnel.replace("example.com", "example.co.uk")), Err(Excess::Weight));
    }

    #[test]
    fn the_registered_domain_is_two_labels_or_three() {
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
