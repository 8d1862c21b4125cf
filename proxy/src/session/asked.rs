//! Which name an agent asked for before it dialled an address.
//!
//! Filled by the resolver with what it answered, for each agent by itself; a later connection to that address is then known by
//! its name. Bounded: when it is full, what is over goes first, then everything, and connections are known by address alone.
//! INVARIANT: a name is given for an address only to the agent that was told so.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::model::AgentName;

/// Clients keep addresses longer than they were told; a connection pool may dial again after minutes.
const REMEMBERED: Duration = Duration::from_mins(30);
/// Addresses of all agents; an agent is told at most a few hundred a minute.
const ADDRESSES_MAX: usize = 16_384;

/// The name each agent was told each address for, and until when that counts.
type Told = HashMap<(AgentName, IpAddr), (String, Instant)>;

/// What was answered. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Asked(Arc<RwLock<Told>>);

impl Asked {
    /// Notes that an agent was told these addresses for a name; the last name told for an address counts.
    pub fn remember(
        &self,
        agent: &AgentName,
        name: &str,
        addresses: impl Iterator<Item = IpAddr>,
        now: Instant,
    ) {
        let Some(until) = now.checked_add(REMEMBERED) else { return };
        let mut known = self.0.write();
        for ip in addresses {
            if known.len() >= ADDRESSES_MAX {
                known.retain(|_, (_, until)| *until > now);
            }
            if known.len() >= ADDRESSES_MAX {
                known.clear();
            }
            known.insert((agent.clone(), ip.to_canonical()), (name.to_owned(), until));
        }
    }

    /// The name an agent asked for, if it was told this address.
    #[must_use]
    pub fn name(&self, agent: &AgentName, ip: IpAddr, now: Instant) -> Option<String> {
        let known = self.0.read();
        let (name, until) = known.get(&(agent.clone(), ip.to_canonical()))?;
        (*until > now).then(|| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn an_agent_is_known_by_the_name_it_was_told_and_no_other_agent_is() {
        let (asked, now) = (Asked::default(), Clock::system().instant());
        let (one, two) = (AgentName("one".into()), AgentName("two".into()));
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        asked.remember(&one, "db.internal", [ip].into_iter(), now);
        assert_eq!(
            asked.name(&one, "::ffff:192.0.2.1".parse().unwrap(), now).as_deref(),
            Some("db.internal")
        );
        assert_eq!(asked.name(&two, ip, now), None);
        assert_eq!(asked.name(&one, ip, now + REMEMBERED), None);
    }
}
