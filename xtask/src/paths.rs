//! Where things are: the clone, the build output and the tools that `setup` installs.
//!
//! Tools live outside the clone, in `${XDG_CACHE_HOME:-~/.cache}/chaperone-tools`, so that a fresh clone finds
//! them again. Nothing here creates anything.
//! INVARIANT: no path is written into the repository; all are found at run time.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the clone that this command was called in. Cargo says so when it runs us; what was compiled in may be another
/// clone, since clones can share one target folder.
pub(crate) fn repository() -> Result<PathBuf> {
    let running = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = running.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf());
    Ok(manifest.parent().context("the xtask package lies outside a repository")?.to_path_buf())
}

/// Where cargo puts build output.
pub(crate) fn target() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => Ok(repository()?.join(dir)),
        None => Ok(repository()?.join("target")),
    }
}

/// A built program of the given profile folder (`debug` or `release`).
pub(crate) fn built(profile: &str, program: &str) -> Result<PathBuf> {
    Ok(target()?.join(profile).join(program))
}

/// This very program. A build may have replaced it meanwhile; the kernel then marks the old one as deleted, and the
/// new one at the same place is meant.
pub(crate) fn own_program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this very program")?;
    let text = own.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| own.clone(), PathBuf::from))
}

/// The folder of the tools that `setup` builds or downloads.
pub(crate) fn tools() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
        _ => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(cache.join("chaperone-tools"))
}

/// The folder of the tools' programs.
pub(crate) fn tool_programs() -> Result<PathBuf> {
    Ok(tools()?.join("bin"))
}

/// `PATH` with the tools' programs in front.
pub(crate) fn search_path() -> Result<OsString> {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let mut all = vec![tool_programs()?];
    all.extend(std::env::split_paths(&old));
    std::env::join_paths(all).context("PATH holds a folder with a colon in its name")
}

/// Finds a program in the tools' folder, in `PATH` or in the system folders that a user's `PATH` may lack.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = search_path().ok()?;
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| file.is_file())
}
