//! Debian's kernels and busybox, unpacked in the tools folder.
//!
//! A kernel that is there is used; another is looked for with apt. Nothing is installed: packages are downloaded and
//! unpacked beside each other. Limits: needs apt, and a mirror when something is missing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell;

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What it is called here.
    pub(crate) name: &'static str,
    /// The image.
    pub(crate) image: PathBuf,
    /// Where its modules are.
    pub(crate) modules: PathBuf,
    /// A static busybox.
    pub(crate) busybox: PathBuf,
}

/// Name here, and how Debian's packages of that line begin and end.
const LINES: [(&str, &str, &str); 2] =
    [("6.1", "linux-image-6.1.0-", "-amd64"), ("6.12", "linux-image-6.12.", "-cloud-amd64")];

/// All kernels, oldest first.
pub(crate) fn kernels(folder: &Path) -> Result<Vec<Kernel>> {
    let busybox = folder.join("busybox");
    if !busybox.is_dir() {
        unpack("busybox-static", &busybox)?;
    }
    LINES.into_iter().map(|line| kernel(folder, line, &busybox)).collect()
}

fn kernel(folder: &Path, (name, start, end): (&'static str, &str, &str), busybox: &Path) -> Result<Kernel> {
    let place = folder.join(name);
    if !place.is_dir() {
        unpack(&newest(start, end)?, &place)?;
    }
    let image = one(&place.join("boot"), "vmlinuz-")?;
    let modules = one(&place.join("lib/modules"), "")?.join("kernel");
    Ok(Kernel { name, image, modules, busybox: busybox.join("bin/busybox") })
}

/// The newest package of a line; names that differ in numbers only are compared number by number.
fn newest(start: &str, end: &str) -> Result<String> {
    let listed = shell::output(shell::as_user("apt-cache")?.args(["pkgnames", start]))?;
    newest_of(&listed, start, end).with_context(|| format!("apt knows no package `{start}…{end}`"))
}

fn newest_of(listed: &str, start: &str, end: &str) -> Option<String> {
    let numbers = |name: &str| -> Option<Vec<u32>> {
        let middle = name.strip_prefix(start)?.strip_suffix(end)?;
        let plain = middle.strip_suffix("+deb12").unwrap_or(middle);
        plain.split('.').map(|part| part.parse().ok()).collect()
    };
    listed.lines().filter_map(|name| Some((numbers(name)?, name))).max().map(|(_, name)| name.to_owned())
}

fn unpack(package: &str, place: &Path) -> Result<()> {
    shell::announce(
        &format!("download {package} and unpack it into the tools folder"),
        "a guest needs it",
        "some seconds",
    );
    let mut staging = place.as_os_str().to_owned();
    staging.push(".new");
    let staging = PathBuf::from(staging);
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    fs::create_dir_all(&staging)?;
    shell::run(shell::as_user("apt-get")?.args(["download", package]).current_dir(&staging))?;
    let file = one(&staging, package)?;
    shell::run(shell::as_user("dpkg")?.arg("-x").arg(&file).arg(&staging))?;
    fs::remove_file(file)?;
    fs::rename(&staging, place).context("cannot give an unpacked package its place")
}

/// The one entry of a folder whose name begins so.
fn one(folder: &Path, start: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    let fits =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
    paths.find(fits).with_context(|| format!("nothing in `{}` begins with `{start}`", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::newest_of;

    #[test]
    fn the_newest_package_is_told_by_its_numbers() {
        let listed = "linux-image-6.1.0-9-amd64\nlinux-image-6.1.0-50-amd64\nlinux-image-6.1.0-50-amd64-unsigned\n\
                      linux-image-6.1.0-60-cloud-amd64\n";
        assert_eq!(newest_of(listed, "linux-image-6.1.0-", "-amd64").unwrap(), "linux-image-6.1.0-50-amd64");
        let cloud = "linux-image-6.12.9+deb12-cloud-amd64\nlinux-image-6.12.117+deb12-cloud-amd64\n";
        let found = newest_of(cloud, "linux-image-6.12.", "-cloud-amd64").unwrap();
        assert_eq!(found, "linux-image-6.12.117+deb12-cloud-amd64");
        assert_eq!(newest_of("", "a", "b"), None);
    }
}
