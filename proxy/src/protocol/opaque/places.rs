//! How many unread connections each agent has: a bound on what a hostile one can make the daemon hold.
//!
//! INVARIANT: a [`Place`] counts from the moment it is given until it is dropped; an agent at its limit gets none.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::AgentName;

/// Most unread connections of one agent. Browsers and package managers open some dozens; with what may be buffered for each,
/// this many hold under 400 MiB.
const PLACES_MAX: usize = 1000;

/// The places of all agents. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<AgentName, usize>>>);

/// One connection's place.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    agent: AgentName,
}

impl Places {
    /// A place for one more connection of the agent; `None` if it has its share.
    pub(super) fn take(&self, agent: &AgentName) -> Option<Place> {
        let mut taken = self.0.lock();
        let count = taken.entry(agent.clone()).or_insert(0);
        if *count >= PLACES_MAX {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), agent: agent.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        if let Some(count) = taken.get_mut(&self.agent) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_at_its_limit_gets_no_place_until_one_is_free_and_no_other_agent_feels_it() {
        let places = Places::default();
        let (one, other) = (AgentName("one".into()), AgentName("other".into()));
        let mut held: Vec<Place> = (0..PLACES_MAX).map(|_| places.take(&one).unwrap()).collect();
        assert!(places.take(&one).is_none() && places.take(&other).is_some());
        held.pop();
        assert!(places.take(&one).is_some());
        held.clear();
        assert!(places.0.lock().is_empty());
    }
}
