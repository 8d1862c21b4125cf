//! Answers kept for their time, for each agent by itself: one agent cannot learn by the clock what another asked.
//!
//! Policy is asked before this is looked at, so a kept answer opens nothing. Bounded: when it is full, what is over goes
//! first, then everything.

use std::collections::HashMap;
use std::time::Instant;

use hickory_proto::rr::RecordType;
use parking_lot::Mutex;

use super::answer::Answer;
use crate::model::AgentName;

/// A busy host's working set; an agent that asks for ever new names costs asking again, not memory.
const ANSWERS_MAX: usize = 4096;

type Key = (AgentName, String, RecordType);

/// Answers already had.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<HashMap<Key, (Answer, Instant)>>);

impl Cache {
    pub(super) fn get(
        &self,
        agent: &AgentName,
        name: &str,
        kind: RecordType,
        now: Instant,
    ) -> Option<Answer> {
        let answers = self.0.lock();
        let (answer, until) = answers.get(&(agent.clone(), name.to_owned(), kind))?;
        (*until > now).then(|| answer.clone())
    }

    pub(super) fn put(&self, agent: &AgentName, name: &str, kind: RecordType, kept: (&Answer, Instant)) {
        let (answer, now) = kept;
        let Some(until) = now.checked_add(answer.ttl) else { return };
        let mut answers = self.0.lock();
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, (_, until)| *until > now);
        }
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        answers.insert((agent.clone(), name.to_owned(), kind), (answer.clone(), until));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn an_answer_is_kept_for_its_time_and_for_its_agent() {
        let (cache, now) = (Cache::default(), Clock::system().instant());
        let (one, two) = (AgentName("one".into()), AgentName("two".into()));
        let answer = Answer::nothing();
        cache.put(&one, "a.example", RecordType::A, (&answer, now));
        assert_eq!(cache.get(&one, "a.example", RecordType::A, now), Some(answer));
        assert_eq!(cache.get(&two, "a.example", RecordType::A, now), None);
        assert_eq!(cache.get(&one, "a.example", RecordType::AAAA, now), None);
        assert_eq!(cache.get(&one, "a.example", RecordType::A, now + Duration::from_secs(5)), None);
    }
}
