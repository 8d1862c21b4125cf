//! The guest's file system: busybox, the stripped program with its libraries, a few kernel modules, and an `init`.
//!
//! Written as a `newc` archive by hand: the format is a page long, and no tool has to be there for it.
//! Limits: regular files and folders; module names are listed here in the order of loading.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::fetch::Kernel;
use crate::shell;

const INIT: &str = include_str!("init.sh");
const LIFE: &str = include_str!("life.sh");
/// The cable, and kinds of socket that an agent might get the kernel to load; each after what it needs.
const MODULES: [&str; 17] = [
    "veth",
    "libcrc32c",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "sctp",
    "dccp",
    "dccp_ipv4",
    "tls",
    "af_alg",
    "algif_hash",
    "vsock",
    "slhc",
    "ppp_generic",
    "pppox",
    "pppoe",
    "can",
    "can-raw",
];

/// How many steps of a daemon's life the guest reports.
pub(crate) fn steps_of_life() -> usize {
    LIFE.lines().filter(|line| line.starts_with("check ")).count()
}

/// Writes the archive.
pub(crate) fn build(kernel: &Kernel, program: &Path, target: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for folder in ["bin", "modules", "etc"] {
        archive.add(folder, 0o040_755, &[]);
    }
    archive.add("init", 0o100_755, INIT.as_bytes());
    archive.add("life.sh", 0o100_755, LIFE.as_bytes());
    // Without it, looking an account up is an error and not an account without a name.
    archive.add("etc/passwd", 0o100_644, b"root:x:0:0:root:/:/bin/sh\n");
    archive.file("bin/busybox", &kernel.busybox)?;
    let stripped = target.with_extension("program");
    shell::run(shell::as_user("strip")?.arg("-o").arg(&stripped).arg(program))?;
    archive.file("bin/chaperone", &stripped)?;
    fs::remove_file(&stripped)?;
    for library in libraries(program)? {
        archive.folders(&library);
        archive.file(&library.to_string_lossy(), &library)?;
    }
    let found = modules(&kernel.modules)?;
    for (at, name) in MODULES.into_iter().enumerate() {
        let Some(path) = found.iter().find(|path| is_module(path, name)) else { continue };
        let bytes =
            if path.extension().is_some_and(|end| end == "xz") { unxz(path)? } else { fs::read(path)? };
        archive.add(&format!("modules/{at:02}-{name}.ko"), 0o100_644, &bytes);
    }
    fs::write(target, archive.finish()).with_context(|| format!("cannot write `{}`", target.display()))
}

/// What `ldd` names, the loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = shell::output(shell::as_user("ldd")?.arg(program))?;
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(paths.collect())
}

fn modules(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list `{}`", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    Ok(found)
}

fn is_module(path: &Path, name: &str) -> bool {
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    file == format!("{name}.ko") || file == format!("{name}.ko.xz")
}

fn unxz(path: &Path) -> Result<Vec<u8>> {
    let done = Command::new("xz").arg("-dc").arg(path).stderr(Stdio::inherit()).output();
    Ok(done.context("cannot start `xz`")?.stdout)
}

/// A `newc` archive.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    count: usize,
    known: Vec<String>,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        let name = name.trim_start_matches('/');
        self.count += 1;
        let numbers = [self.count, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        let mut head = String::from("070701");
        for number in numbers {
            // Writing to a string cannot fail.
            if write!(head, "{number:08x}").is_err() {}
        }
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        self.add(name, 0o100_755, &content);
        Ok(())
    }

    /// The folders above a path.
    fn folders(&mut self, path: &Path) {
        let above: Vec<String> = path.ancestors().skip(1).map(|path| path.display().to_string()).collect();
        for folder in above.into_iter().rev().filter(|folder| folder != "/") {
            if !self.known.contains(&folder) {
                self.add(&folder, 0o040_755, &[]);
                self.known.push(folder);
            }
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_are_padded_to_four_bytes_and_the_archive_ends_with_its_mark() {
        let mut archive = Archive::default();
        archive.add("/init", 0o100_755, b"abc");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000081ed"));
        assert!(text.contains("init\0") && text.contains("abc") && text.contains("TRAILER!!!"));
    }
}
