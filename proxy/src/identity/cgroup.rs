//! From a cgroup id to a path, and from a path to an agent.
//!
//! The id of a cgroup is the inode number of its directory. The process's own word for its path is only a hint:
//! whatever the hint, the directory's inode must equal the id the kernel stamped. Without a good hint the
//! hierarchy is searched, within limits. Refuses paths that fit no agent or more than one.
//! INVARIANT: what a workload can name (directories below its own cgroup) never decides which agent it is.
//! Known limits: a systemd user manager's units are not system units and match only by `cgroup` globs.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use parking_lot::Mutex;

use crate::model::AgentName;

use super::error::IdentityError;
use super::{AgentMatch, AgentSettings, Settings};

/// The cgroup2 hierarchy, as far as agents are concerned.
#[derive(Debug)]
pub(super) struct Cgroups {
    mount: PathBuf,
    parent: PathBuf,
    agents: Vec<AgentSettings>,
    known: Mutex<HashMap<u64, PathBuf>>,
}

impl Cgroups {
    /// Finds the mount of this machine.
    pub(super) fn open(settings: &Settings) -> Result<Self, IdentityError> {
        let path = Path::new("/proc/self/mountinfo");
        let file =
            fs::File::open(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })?;
        let lines = BufReader::new(file).lines().take(MOUNTS_MAX).map_while(Result::ok);
        let mounts: Vec<_> = lines.filter_map(|line| cgroup2_mount(&line)).collect();
        let whole = mounts.iter().find(|(root, _)| root == Path::new("/")).or(mounts.first());
        let (_, mount) = whole.ok_or(IdentityError::NoCgroups)?;
        Ok(Self::at(mount.clone(), settings))
    }

    /// The hierarchy mounted at `mount`.
    pub(super) fn at(mount: PathBuf, settings: &Settings) -> Self {
        let parent = settings.parent.strip_prefix("/").unwrap_or(&settings.parent).to_owned();
        Self { mount, parent, agents: settings.agents.clone(), known: Mutex::new(HashMap::new()) }
    }

    /// Where the hierarchy is mounted.
    pub(super) fn mount(&self) -> &Path {
        &self.mount
    }

    /// The path of a cgroup below the mount; `hint` is where the process says it is. Blocks on the file system.
    pub(super) fn path_of(&self, id: u64, hint: Option<&Path>) -> Result<PathBuf, IdentityError> {
        let remembered = self.known.lock().get(&id).cloned();
        if let Some(path) = remembered.filter(|path| self.id_of(path) == Some(id)) {
            return Ok(path);
        }
        let hinted = hint.filter(|path| is_below(path) && self.id_of(path) == Some(id)).map(Path::to_owned);
        let found =
            hinted.or_else(|| self.search(id)).ok_or(IdentityError::UnknownCgroup { cgroup_id: id })?;
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(id, found.clone());
        Ok(found)
    }

    /// The path of a cgroup, if it is remembered or the hint is right; looks no further.
    pub(super) fn path_if_near(&self, id: u64, hint: Option<&Path>) -> Option<PathBuf> {
        let remembered = self.known.lock().get(&id).cloned();
        let hinted = hint.filter(|path| is_below(path)).map(Path::to_owned);
        [remembered, hinted].into_iter().flatten().find(|path| self.id_of(path) == Some(id))
    }

    /// The path of a cgroup right below the agents' parent. Blocks on the list of these.
    pub(super) fn account_path(&self, id: u64) -> Option<PathBuf> {
        let entries = fs::read_dir(self.mount.join(&self.parent)).into_iter().flatten().flatten();
        entries.map(|entry| self.parent.join(entry.file_name())).find(|path| self.id_of(path) == Some(id))
    }

    /// The one agent a path belongs to.
    pub(super) fn agent_of(&self, path: &Path) -> Result<AgentName, IdentityError> {
        let matching: BTreeSet<&AgentName> =
            self.agents.iter().filter(|agent| self.belongs(path, agent)).map(|agent| &agent.name).collect();
        let cgroup = || path.display().to_string();
        let mut names = matching.iter();
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(AgentName::clone(name)),
            (None, _) => Err(IdentityError::NoAgent { cgroup: cgroup() }),
            (Some(_), Some(_)) => Err(IdentityError::Ambiguous {
                cgroup: cgroup(),
                agents: matching.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// The topmost cgroups of an agent, below the agents' parent.
    pub(super) fn of_agent(&self, agent: &AgentName) -> Vec<u64> {
        let mut found = Vec::new();
        let mut queue = VecDeque::from([self.parent.clone()]);
        let mut left = SEARCH_MAX;
        while let Some(path) = queue.pop_front() {
            left = left.saturating_sub(1);
            if left == 0 {
                tracing::warn!(%agent, "too many cgroups to find all of an agent's");
                break;
            }
            if self.agent_of(&path).is_ok_and(|name| name == *agent) {
                found.extend(self.id_of(&path));
                continue;
            }
            let entries = fs::read_dir(self.mount.join(&path)).into_iter().flatten().flatten();
            let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            queue.extend(folders.map(|entry| path.join(entry.file_name())));
        }
        found
    }

    fn belongs(&self, path: &Path, agent: &AgentSettings) -> bool {
        let started_by_us = path.strip_prefix(&self.parent).is_ok_and(|below| {
            !self.parent.as_os_str().is_empty()
                && below.components().next() == Some(Component::Normal(agent.name.0.as_ref()))
        });
        let matched = match &agent.matches {
            None => false,
            Some(AgentMatch::Unit(unit)) => unit_of(path).as_deref() == Some(unit),
            Some(AgentMatch::Cgroup(pattern)) => matches_glob(pattern, path),
        };
        started_by_us || matched
    }

    fn id_of(&self, below: &Path) -> Option<u64> {
        fs::symlink_metadata(self.mount.join(below))
            .ok()
            .filter(fs::Metadata::is_dir)
            .map(|found| found.ino())
    }

    /// Breadth first from the agents' parent, then from the root.
    fn search(&self, id: u64) -> Option<PathBuf> {
        let mut left = SEARCH_MAX;
        [self.parent.clone(), PathBuf::new()]
            .into_iter()
            .find_map(|start| self.search_below(id, start, &mut left))
    }

    fn search_below(&self, id: u64, start: PathBuf, left: &mut usize) -> Option<PathBuf> {
        let mut queue = VecDeque::from([start]);
        while let Some(path) = queue.pop_front() {
            *left = left.checked_sub(1)?;
            if self.id_of(&path) == Some(id) {
                return Some(path);
            }
            let Ok(entries) = fs::read_dir(self.mount.join(&path)) else { continue };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && queue.len() < SEARCH_MAX {
                    queue.push_back(path.join(entry.file_name()));
                }
            }
        }
        None
    }
}

/// The system unit a path belongs to: the first name after the leading slices. Deeper names may have been made by
/// the workload itself, slices may not.
pub(super) fn unit_of(path: &Path) -> Option<String> {
    let mut names = path.components().map(|part| part.as_os_str().to_str());
    let first = names.find(|name| !name.is_some_and(|name| name.ends_with(".slice")))??;
    // systemd puts an underscore before names that a controller might claim.
    let unit = first.strip_prefix('_').unwrap_or(first);
    let is_unit = UNIT_KINDS.iter().any(|kind| unit.len() > kind.len() && unit.ends_with(kind));
    is_unit.then(|| unit.to_owned())
}

/// The cgroup2 path in `/proc/PID/cgroup`, below the mount.
pub(super) fn path_in(listing: &str) -> Option<PathBuf> {
    let path = listing.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(PathBuf::from(path))
}

/// Whether the glob fits the path's first names; what lies below a fitting directory belongs to it.
fn matches_glob(pattern: &str, path: &Path) -> bool {
    let mut names = path.components();
    let mut parts = pattern.trim_matches('/').split('/').peekable();
    parts.peek().is_some_and(|part| !part.is_empty())
        && parts.all(|part| {
            let name = names.next().and_then(|name| name.as_os_str().to_str());
            name.is_some_and(|name| fits(part.as_bytes(), name.as_bytes()))
        })
}

/// `*` stands for any run of bytes, `?` for one. Iterative: the last star takes the blame for each mismatch.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut from) = (0_usize, 0_usize);
    let mut star: Option<(usize, usize)> = None;
    while from < name.len() {
        match (pattern.get(at), name.get(from)) {
            (Some(b'*'), _) => {
                star = Some((at, from));
                at = at.saturating_add(1);
            }
            (Some(want), Some(have)) if *want == b'?' || want == have => {
                at = at.saturating_add(1);
                from = from.saturating_add(1);
            }
            _ => match star {
                Some((starred, taken)) => {
                    let taken = taken.saturating_add(1);
                    star = Some((starred, taken));
                    at = starred.saturating_add(1);
                    from = taken;
                }
                None => return false,
            },
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

fn is_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// Root and mount point of a cgroup2 line of mountinfo.
fn cgroup2_mount(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, kind) = line.split_once(" - ")?;
    if kind.split(' ').next() != Some("cgroup2") {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    Some((unescape(fields.next()?), unescape(fields.next()?)))
}

/// Mountinfo writes space, tab, newline and backslash as octal.
fn unescape(text: &str) -> PathBuf {
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(plain.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)))
}

const UNIT_KINDS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
/// Machines with many containers have thousands.
const MOUNTS_MAX: usize = 65_536;
/// Cgroups of agents alive on one host at a time; beyond it the memory starts afresh.
const KNOWN_MAX: usize = 4096;
/// The kernel's default limit on cgroups in practice; a search of so many takes about half a second.
const SEARCH_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;

    fn settings(agents: &[(&str, Option<AgentMatch>)]) -> Settings {
        let agents = agents.iter().map(|(name, matches)| AgentSettings {
            name: AgentName((*name).to_owned()),
            matches: matches.clone(),
            source: None,
        });
        Settings { agents: agents.collect(), parent: "/agents.slice".into(), steps: "/nonexistent".into() }
    }

    fn agent(cgroups: &Cgroups, path: &str) -> Option<String> {
        cgroups.agent_of(Path::new(path)).ok().map(|name| name.0)
    }

    #[test]
    fn the_directory_below_the_parent_names_the_agent() {
        let cgroups = Cgroups::at("/".into(), &settings(&[("reporter", None)]));
        assert_eq!(agent(&cgroups, "agents.slice/reporter/run-1").as_deref(), Some("reporter"));
        assert_eq!(agent(&cgroups, "agents.slice/reporter").as_deref(), Some("reporter"));
        for other in ["agents.slice", "agents.slice/reporters/x", "x/agents.slice/reporter", "reporter", ""] {
            assert_eq!(agent(&cgroups, other), None, "{other}");
        }
    }

    #[test]
    fn an_empty_parent_makes_nobody_an_agent() {
        let mut settings = settings(&[("reporter", None)]);
        settings.parent = "/".into();
        let cgroups = Cgroups::at("/".into(), &settings);
        assert_eq!(agent(&cgroups, "reporter/x"), None);
    }

    #[test]
    fn only_the_systems_unit_counts_and_not_a_name_the_workload_made() {
        let unit = Some(AgentMatch::Unit("reporter.service".into()));
        let cgroups = Cgroups::at("/".into(), &settings(&[("reporter", unit)]));
        assert_eq!(agent(&cgroups, "system.slice/reporter.service").as_deref(), Some("reporter"));
        assert_eq!(agent(&cgroups, "a.slice/a-b.slice/reporter.service/sub").as_deref(), Some("reporter"));
        assert_eq!(agent(&cgroups, "system.slice/evil.service/reporter.service"), None);
        assert_eq!(agent(&cgroups, "user.slice/user@0.service/app.slice/reporter.service"), None);
        assert_eq!(agent(&cgroups, "system.slice/reporter.service.d"), None);
    }

    #[test]
    fn a_star_does_not_cross_a_slash_and_subtrees_belong() {
        let glob = Some(AgentMatch::Cgroup("work.slice/rep*-?".into()));
        let cgroups = Cgroups::at("/".into(), &settings(&[("reporter", glob)]));
        assert_eq!(agent(&cgroups, "work.slice/reporter-1").as_deref(), Some("reporter"));
        assert_eq!(agent(&cgroups, "work.slice/rep-1/deeper/still").as_deref(), Some("reporter"));
        for other in ["work.slice/rep/x-1", "work.slice/rep-", "work.slice", "x/work.slice/rep-1"] {
            assert_eq!(agent(&cgroups, other), None, "{other}");
        }
    }

    #[test]
    fn two_agents_for_one_cgroup_mean_none() {
        let glob = |text: &str| Some(AgentMatch::Cgroup(text.into()));
        let cgroups = Cgroups::at("/".into(), &settings(&[("a", glob("w/*")), ("b", glob("w/x*"))]));
        assert_eq!(agent(&cgroups, "w/y").as_deref(), Some("a"));
        assert!(matches!(cgroups.agent_of(Path::new("w/x1")), Err(IdentityError::Ambiguous { .. })));
        let mine = Cgroups::at("/".into(), &settings(&[("a", None), ("b", glob("agents.slice/*"))]));
        assert!(matches!(mine.agent_of(Path::new("agents.slice/a/x")), Err(IdentityError::Ambiguous { .. })));
    }

    #[test]
    fn ids_are_checked_against_the_directory_and_not_believed() {
        let dir = Scratch::new();
        let path = Path::new("agents.slice/a/run");
        fs::create_dir_all(dir.path().join(path)).unwrap();
        fs::create_dir_all(dir.path().join("other")).unwrap();
        let cgroups = Cgroups::at(dir.path().to_owned(), &settings(&[("a", None)]));
        let id = cgroups.id_of(path).unwrap();
        // A wrong or a climbing hint changes nothing.
        for hint in [None, Some("other"), Some("agents.slice/../other"), Some("agents.slice/a/run")] {
            let fresh = Cgroups::at(dir.path().to_owned(), &settings(&[]));
            assert_eq!(fresh.path_of(id, hint.map(Path::new)).unwrap(), path);
        }
        assert_eq!(cgroups.path_of(id, None).unwrap(), path);
        fs::remove_dir(dir.path().join(path)).unwrap();
        assert!(matches!(cgroups.path_of(id, Some(path)), Err(IdentityError::UnknownCgroup { .. })));
    }

    #[test]
    fn mounts_and_listings_are_read() {
        let line = r"34 24 0:29 / /sys/fs/cgroup/my\040dir rw,nosuid shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2_mount(line), Some(("/".into(), "/sys/fs/cgroup/my dir".into())));
        assert_eq!(cgroup2_mount("34 24 0:29 / /x rw - tmpfs cgroup2 rw"), None);
        assert_eq!(path_in("4:memory:/x\n0::/a/b\n"), Some("a/b".into()));
        assert_eq!(path_in("4:memory:/x\n"), None);
    }

    #[test]
    fn this_machine_has_a_hierarchy_with_ids() {
        let cgroups = Cgroups::open(&settings(&[])).unwrap();
        assert!(cgroups.id_of(Path::new("")).is_some());
    }
}
