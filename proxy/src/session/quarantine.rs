//! Agents that an operator stopped: nothing of them begins, whatever cgroup it comes from, until they are released.
//!
//! The kernel stops them too, by cgroup; this is what holds for cgroups that are made later, and after a reboot. The list is a
//! file, one name a line, replaced as a whole. INVARIANT: a name is in the file before anybody is told that it is stopped.
//! A file that cannot be read keeps the daemon from starting: it may say that somebody must not pass.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::model::AgentName;

/// What an agent is told whose sessions are ended.
pub const QUARANTINED: &str = "the agent is quarantined";

/// The agents that are stopped. Clones share the list.
#[derive(Debug, Clone)]
pub struct Quarantine {
    file: PathBuf,
    agents: Arc<RwLock<BTreeSet<AgentName>>>,
}

impl Quarantine {
    /// Reads the list below `state_dir`; none means that nobody is stopped.
    ///
    /// # Errors
    /// When there is a list that cannot be read.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let file = state_dir.join("quarantine");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let agents = text.lines().map(|name| AgentName(name.to_owned())).collect();
        Ok(Self { file, agents: Arc::new(RwLock::new(agents)) })
    }

    /// Whether an agent is stopped.
    #[must_use]
    pub fn holds(&self, agent: &AgentName) -> bool {
        self.agents.read().contains(agent)
    }

    /// Everybody who is stopped.
    #[must_use]
    pub fn list(&self) -> Vec<AgentName> {
        self.agents.read().iter().cloned().collect()
    }

    /// Stops an agent; false if it was stopped already.
    ///
    /// # Errors
    /// When the list cannot be written; the agent is stopped all the same, until the daemon ends.
    pub fn stop(&self, agent: &AgentName) -> io::Result<bool> {
        let mut agents = self.agents.write();
        let new = agents.insert(agent.clone());
        self.write(&agents)?;
        Ok(new)
    }

    /// Lets an agent go; false if it was not stopped.
    ///
    /// # Errors
    /// When the list cannot be written; the agent then stays stopped.
    pub fn release(&self, agent: &AgentName) -> io::Result<bool> {
        let mut agents = self.agents.write();
        let mut rest = agents.clone();
        if !rest.remove(agent) {
            return Ok(false);
        }
        self.write(&rest)?;
        *agents = rest;
        Ok(true)
    }

    fn write(&self, agents: &BTreeSet<AgentName>) -> io::Result<()> {
        let new = self.file.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        for agent in agents {
            writeln!(file, "{agent}")?;
        }
        file.sync_all()?;
        fs::rename(&new, &self.file)?;
        match self.file.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("chaperone-quarantine-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn whoever_is_stopped_stays_so_after_a_restart_until_released() {
        let dir = folder("restart");
        let (reporter, writer) = (AgentName("reporter".into()), AgentName("writer".into()));
        let first = Quarantine::open(&dir).unwrap();
        assert!(first.stop(&reporter).unwrap() && !first.stop(&reporter).unwrap());
        let second = Quarantine::open(&dir).unwrap();
        assert!(second.holds(&reporter) && !second.holds(&writer));
        assert!(second.release(&reporter).unwrap() && !second.release(&reporter).unwrap());
        assert!(Quarantine::open(&dir).unwrap().list().is_empty());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_list_that_cannot_be_written_stops_all_the_same_and_releases_nobody() {
        let dir = folder("unwritable");
        let reporter = AgentName("reporter".into());
        let quarantine = Quarantine::open(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert!(quarantine.stop(&reporter).is_err() && quarantine.holds(&reporter));
        assert!(quarantine.release(&reporter).is_err() && quarantine.holds(&reporter));
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_and_not_an_empty_one() {
        let dir = folder("unreadable");
        fs::create_dir(dir.join("quarantine")).unwrap();
        assert!(Quarantine::open(&dir).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
