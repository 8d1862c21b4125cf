//! Agents that systemd starts: a drop-in that puts a unit into the agents' slice and into as much of the jail as systemd offers.
//!
//! The text is composed from the same settings as the jail of `run`, and written to one file per unit, which later drop-ins can
//! add to. Refuses units that are no service, and slices that systemd does not have. Limits: systemd has no Landlock, covers no
//! sockets outside `/run` and `/tmp`, and applies a drop-in when the unit is next started.

mod error;
mod text;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use error::UnitError;

use crate::{intercept, jail};

/// What systemd says about a unit that matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether it tells systemd when it is ready.
    pub notifies: bool,
    /// Its folders below `/run`.
    pub runtime_directories: Vec<PathBuf>,
}

/// What the drop-in is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The jail.
    pub jail: &'a jail::Settings,
    /// The guard.
    pub intercept: &'a intercept::Settings,
    /// This program, which asks the kernel before each start.
    pub program: &'a Path,
    /// Its configuration.
    pub config: &'a Path,
}

/// A service's name, as systemd spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service(String);

const FOLDER: &str = "/etc/systemd/system";
/// Between what packages bring and what operators add.
const FILE: &str = "50-chaperone.conf";
/// systemd's own limit.
const NAME_BYTES_MAX: usize = 255;

impl Service {
    /// Parses a name such as `reporter.service` or `reporter@one.service`.
    ///
    /// # Errors
    /// When it is no service's.
    pub fn parse(name: &str) -> Result<Self, UnitError> {
        let sign =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@' | b':');
        let stem = name.strip_suffix(".service").unwrap_or_default();
        if stem.is_empty() || stem.starts_with('.') || name.len() > NAME_BYTES_MAX || !name.bytes().all(sign)
        {
            return Err(UnitError::Name { name: name.to_owned() });
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The socket unit that would start it, if there is one of that name.
    #[must_use]
    pub fn socket(&self) -> String {
        format!("{}.socket", self.0.strip_suffix(".service").unwrap_or(&self.0))
    }

    /// Where its drop-in is.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        Path::new(FOLDER).join(format!("{}.d", self.0)).join(FILE)
    }

    /// Writes the drop-in, in place of an older one. systemd reads it when it is told to.
    ///
    /// # Errors
    /// When it cannot be composed or written.
    pub fn attach(&self, plan: &Plan<'_>, facts: &Facts) -> Result<(), UnitError> {
        let text = text::compose(plan, facts)?;
        let file = self.file();
        let failed = |source| UnitError::File { action: "write", path: file.clone(), source };
        let folder = file.parent().unwrap_or(Path::new(FOLDER));
        fs::create_dir_all(folder).map_err(failed)?;
        let everyone = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(folder, everyone(0o755)).map_err(failed)?;
        // systemd reads no file whose name starts with a dot, and never half of this one.
        let draft = folder.join(format!(".{FILE}"));
        fs::write(&draft, text).map_err(failed)?;
        fs::set_permissions(&draft, everyone(0o644)).map_err(failed)?;
        fs::rename(&draft, &file).map_err(failed)
    }

    /// Removes the drop-in, if it is ours; says whether there was one.
    ///
    /// # Errors
    /// When it is somebody else's or cannot be removed.
    pub fn detach(&self) -> Result<bool, UnitError> {
        let file = self.file();
        let failed = |action| {
            let path = file.clone();
            move |source| UnitError::File { action, path, source }
        };
        match fs::read_to_string(&file) {
            Ok(text) if text.starts_with(text::FIRST_LINE) => {}
            Ok(_) => return Err(UnitError::Foreign { path: file }),
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(problem) => return Err(failed("read")(problem)),
        }
        fs::remove_file(&file).map_err(failed("remove"))?;
        if let Some(folder) = file.parent()
            && let Err(problem) = fs::remove_dir(folder)
        {
            // Others' drop-ins are still in it.
            tracing::debug!(%problem, "the folder stays");
        }
        Ok(true)
    }
}

/// The slice that lies at a path below the cgroup2 mount: `a.slice/a-b.slice` is `a-b.slice`.
fn slice(parent: &Path) -> Result<String, UnitError> {
    let refused = || UnitError::Slice { path: parent.to_owned() };
    let name = parent.file_name().and_then(|name| name.to_str()).ok_or_else(refused)?;
    let stem = name.strip_suffix(".slice").filter(|stem| !stem.is_empty()).ok_or_else(refused)?;
    let mut place = PathBuf::new();
    let mut above = String::new();
    for part in stem.split('-') {
        if !above.is_empty() {
            above.push('-');
        }
        above.push_str(part);
        place.push(format!("{above}.slice"));
    }
    if place == parent { Ok(name.to_owned()) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_services_have_a_drop_in_of_ours() {
        assert_eq!(
            Service::parse("reporter.service").unwrap().file(),
            Path::new("/etc/systemd/system/reporter.service.d/50-chaperone.conf")
        );
        Service::parse("reporter@one.service").unwrap();
        for wrong in [
            "reporter",
            "agents.slice",
            "../x.service",
            "a/b.service",
            ".service",
            "a b.service",
            "..service",
        ] {
            assert!(Service::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_parent_is_a_slice_only_where_systemd_would_put_it() {
        assert_eq!(slice(Path::new("agents.slice")).unwrap(), "agents.slice");
        assert_eq!(slice(Path::new("work.slice/work-agents.slice")).unwrap(), "work-agents.slice");
        for wrong in ["agents", "work.slice/agents.slice", "work-agents.slice", ".slice", "x/agents.slice"] {
            assert!(slice(Path::new(wrong)).is_err(), "{wrong}");
        }
    }
}
