//! What a launcher says a run is for: one small file per run, written before the agent starts.
//!
//! Named after agent and run (`<agent>@<run>`), the two directories of the run's cgroup, which root alone makes; so no
//! process of one run can borrow the words of another. A hint for approvers and auditors, never an authority.
//! Refuses texts that are longer than a sentence or two. Files of runs that are gone go with [`Steps::forget_gone`].

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Longest step text that is kept: a sentence, not a document.
pub const STEP_BYTES_MAX: usize = 1024;
/// Neither agents nor runs can have it in their names.
const BETWEEN: &str = "@";

/// The folder of the steps of all runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    dir: PathBuf,
    /// The agents' parent below the cgroup2 mount.
    parent: PathBuf,
}

impl Steps {
    /// The steps in `dir` of runs below the agents' parent cgroup, a path below the cgroup2 mount.
    #[must_use]
    pub fn new(dir: &Path, parent: &Path) -> Self {
        Self { dir: dir.to_owned(), parent: below(parent).collect() }
    }

    /// Keeps what `run`, a path below the cgroup2 mount, is for. Without the folder there is no daemon to tell.
    ///
    /// # Errors
    /// When the text is too long, the path is no run's, or the file cannot be written.
    pub fn note(&self, run: &Path, text: &str) -> io::Result<()> {
        if text.len() > STEP_BYTES_MAX {
            let problem = format!("the step is longer than {STEP_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        if !self.dir.is_dir() {
            return Ok(());
        }
        let file = self.file(run).ok_or_else(|| io::Error::other("this cgroup is no run of an agent"))?;
        fs::write(file, text)
    }

    /// What the run that `cgroup` (a path below the mount) belongs to is for; `None` if its launcher did not say.
    #[must_use]
    pub fn of(&self, cgroup: &Path) -> Option<String> {
        let text = fs::read_to_string(self.file(cgroup)?).ok()?;
        (!text.is_empty() && text.len() <= STEP_BYTES_MAX).then_some(text)
    }

    /// Removes the steps of runs whose cgroup is gone; `mount` is where the cgroup2 tree is.
    pub(super) fn forget_gone(&self, mount: &Path) {
        let Ok(files) = fs::read_dir(&self.dir) else { return };
        for file in files.flatten() {
            let name = file.file_name();
            let run = name.to_str().and_then(|name| name.split_once(BETWEEN));
            let alive =
                run.is_some_and(|(agent, run)| mount.join(&self.parent).join(agent).join(run).is_dir());
            if !alive && let Err(error) = fs::remove_file(file.path()) {
                tracing::debug!(%error, "the step of a run that is gone stays");
            }
        }
    }

    fn file(&self, cgroup: &Path) -> Option<PathBuf> {
        let inside: PathBuf = below(cgroup).collect();
        let mut parts = inside.strip_prefix(&self.parent).ok()?.components();
        let (agent, run) = (parts.next()?, parts.next()?);
        let mut name = OsString::from(agent.as_os_str());
        name.push(BETWEEN);
        name.push(run.as_os_str());
        Some(self.dir.join(name))
    }
}

fn below(path: &Path) -> impl Iterator<Item = Component<'_>> {
    path.components().filter(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("chaperone-steps-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_step_belongs_to_one_run_and_the_cgroups_below_it() {
        let dir = folder("one");
        let steps = Steps::new(&dir, Path::new("agents.slice"));
        let run = Path::new("/agents.slice/reporter/0001");
        steps.note(run, "nightly report").unwrap();
        assert_eq!(steps.of(run).as_deref(), Some("nightly report"));
        assert_eq!(steps.of(&run.join("own/child")).as_deref(), Some("nightly report"));
        for other in
            ["/agents.slice/reporter/0002", "/agents.slice/reporter", "/agents.slice", "/reporter/0001"]
        {
            assert_eq!(steps.of(Path::new(other)), None, "{other}");
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_long_step_or_one_for_no_run_is_refused_and_without_a_daemon_nothing_is_kept() {
        let dir = folder("two");
        let steps = Steps::new(&dir, Path::new("/agents.slice"));
        let run = Path::new("/agents.slice/reporter/0001");
        assert!(steps.note(run, &"x".repeat(STEP_BYTES_MAX + 1)).is_err());
        assert!(steps.note(Path::new("/elsewhere/reporter/0001"), "x").is_err());
        fs::remove_dir_all(&dir).unwrap();
        steps.note(run, "x").unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn steps_of_runs_that_are_gone_are_forgotten() {
        let (dir, mount) = (folder("three"), folder("three-mount"));
        let steps = Steps::new(&dir, Path::new("agents.slice"));
        let (alive, gone) = (Path::new("agents.slice/reporter/1"), Path::new("agents.slice/reporter/2"));
        fs::create_dir_all(mount.join(alive)).unwrap();
        steps.note(alive, "alive").unwrap();
        steps.note(gone, "gone").unwrap();
        steps.forget_gone(&mount);
        assert_eq!((steps.of(alive).as_deref(), steps.of(gone)), (Some("alive"), None));
        fs::remove_dir_all(dir).unwrap();
        fs::remove_dir_all(mount).unwrap();
    }
}
