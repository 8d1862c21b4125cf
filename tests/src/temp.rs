//! Temporary folders that go away with their value.
//!
//! Readable by every account, because agents, approvers and database servers run under different ones; what is
//! secret inside gets its own mode. Names start with `chaperone-`, so that a check can find forgotten ones.

use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A folder that is removed when this value is dropped.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
}

impl Dir {
    /// Makes a new folder whose name tells what it is for.
    pub fn new(label: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("chaperone-{label}-{}", unique()));
        std::fs::create_dir(&path).with_context(|| format!("cannot make `{}`", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot open `{}` to others", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file in it with the given mode and returns its path.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of `{}`", path.display()))?;
        Ok(path)
    }

    /// Makes a folder in it and returns its path.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make `{}`", path.display()))?;
        Ok(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove `{}`: {error}", self.path.display());
        }
    }
}

/// A short name that no other test uses: the standard library seeds its hashers from the system's randomness.
#[must_use]
pub fn unique() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::Dir;

    #[test]
    fn a_folder_goes_away_with_its_value() {
        let dir = Dir::new("temp-test").unwrap();
        let path = dir.path().to_path_buf();
        dir.write("file", "text", 0o600).unwrap();
        assert!(path.is_dir());
        drop(dir);
        assert!(!path.exists());
    }
}
