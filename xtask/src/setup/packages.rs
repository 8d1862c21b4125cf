//! Debian packages: which are needed, which are missing, how they are installed.
//!
//! A package counts as present when dpkg says so, or when the program it is wanted for is already there.
//! The only root step of the set-up. Refuses to guess on systems without dpkg: it lists the programs instead.

use std::path::Path;

use anyhow::Result;

use super::{Purpose, Step};
use crate::{paths, shell};

/// What proves that a package is not needed.
enum Proof {
    /// dpkg knows the package as installed.
    Package,
    /// This program is found.
    Program(&'static str),
}

/// A package, when it is not needed, who first needs it, and what for.
type Need = (&'static str, Proof, Purpose, &'static str);

const NEEDED: &[Need] = &[
    (
        "gcc",
        Proof::Program("cc"),
        Purpose::Build,
        "links every program; compiles the C parts of the SQL parser and of the TLS library",
    ),
    ("libc6-dev", Proof::Package, Purpose::Build, "headers of the C library"),
    ("make", Proof::Program("make"), Purpose::Build, "builds libpg_query"),
    ("clang", Proof::Program("clang"), Purpose::Build, "bindgen reads libpg_query's header with it"),
    ("libclang-dev", Proof::Package, Purpose::Build, "bindgen's library"),
    ("ca-certificates", Proof::Package, Purpose::Build, "downloads are verified"),
    ("postgresql-15", Proof::Package, Purpose::Demo, "the real server that tests, demo and benchmark use"),
    ("postgresql-client-15", Proof::Package, Purpose::Demo, "psql, pg_dump and pgbench are the real clients"),
    (
        "util-linux",
        Proof::Program("setpriv"),
        Purpose::Demo,
        "the demo's approver runs under another account",
    ),
    ("python3", Proof::Program("/usr/bin/python3"), Purpose::Demo, "runs the Python clients"),
    ("python3-psycopg", Proof::Package, Purpose::Demo, "psycopg 3, a client of tests and demo"),
    ("git", Proof::Program("git"), Purpose::Test, "the tidy check asks it which files are ours"),
    ("pgbouncer", Proof::Package, Purpose::Test, "the peer that the benchmark compares with"),
    ("haproxy", Proof::Package, Purpose::Test, "the copying proxy that the benchmark compares with"),
    ("iproute2", Proof::Program("ip"), Purpose::Test, "tests make network namespaces"),
    ("systemd", Proof::Package, Purpose::Test, "the first process in tests of attached services"),
    ("nftables", Proof::Program("nft"), Purpose::Test, "tests turn packets round in network namespaces"),
    ("runc", Proof::Program("runc"), Purpose::Test, "tests run real containers"),
    ("python3-psycopg2", Proof::Package, Purpose::Test, "psycopg 2, a client of the tests"),
    ("python3-asyncpg", Proof::Package, Purpose::Test, "asyncpg, a client of the tests"),
    ("python3-pg8000", Proof::Package, Purpose::Test, "pg8000, a client of the tests"),
    (
        "qemu-system-x86",
        Proof::Program("qemu-system-x86_64"),
        Purpose::Ci,
        "boots the supported kernels, to try the guard on each",
    ),
    ("xz-utils", Proof::Program("xz"), Purpose::Ci, "unpacks those kernels' modules"),
    ("binutils", Proof::Program("strip"), Purpose::Ci, "makes the program small enough for a guest"),
    ("nodejs", Proof::Program("node"), Purpose::Test, "runs the Node client"),
    ("npm", Proof::Program("npm"), Purpose::Test, "fetches the Node client"),
];

/// Names the missing packages as one step.
pub(super) fn look(purpose: Purpose) -> Result<Vec<Step>> {
    let missing: Vec<&Need> =
        needed(purpose).filter(|(package, proof, ..)| !present(package, proof)).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    for (package, _, _, why) in &missing {
        eprintln!("package {package} is missing: {why}");
    }
    let names: Vec<&'static str> = missing.iter().map(|(package, ..)| *package).collect();
    Ok(vec![Step {
        what: format!("install the Debian packages {} (root step: apt-get)", names.join(" ")),
        why: "see the lines above",
        takes: "1 to 3 minutes, mostly download",
        install: Box::new(move || install(&names)),
    }])
}

fn needed(purpose: Purpose) -> impl Iterator<Item = &'static Need> {
    NEEDED.iter().filter(move |(_, _, first, _)| *first <= purpose)
}

fn present(package: &str, proof: &Proof) -> bool {
    match proof {
        Proof::Program(name) if name.starts_with('/') => Path::new(name).is_file(),
        Proof::Program(name) => paths::find_program(name).is_some(),
        Proof::Package => {
            let mut query = std::process::Command::new("dpkg-query");
            let answer = query.args(["-W", "-f", "${db:Status-Status}", package]).output();
            answer.is_ok_and(|answer| answer.stdout.trim_ascii() == b"installed")
        }
    }
}

fn install(names: &[&str]) -> Result<()> {
    if paths::find_program("apt-get").is_none() {
        anyhow::bail!(super::Missing(format!(
            "the packages {} (no apt-get on this system)",
            names.join(" ")
        )));
    }
    shell::require_root()?;
    shell::run(shell::as_root("apt-get")?.arg("update"))?;
    // RUNLEVEL=1 asks Debian's packages not to start a server of their own; ours are started by the tests.
    let mut apt = shell::as_root("env")?;
    apt.args([
        "DEBIAN_FRONTEND=noninteractive",
        "RUNLEVEL=1",
        "apt-get",
        "install",
        "--yes",
        "--no-install-recommends",
    ]);
    shell::run(apt.args(names))
}

#[cfg(test)]
mod tests {
    use super::{Purpose, needed};

    #[test]
    fn who_only_watches_the_demo_is_not_asked_for_the_clients_of_the_tests() {
        let names = |purpose| needed(purpose).map(|(package, ..)| *package).collect::<Vec<_>>();
        let (build, demo, test) = (names(Purpose::Build), names(Purpose::Demo), names(Purpose::Test));
        assert!(build.contains(&"clang") && !build.contains(&"postgresql-15"));
        assert!(demo.contains(&"postgresql-15") && !demo.contains(&"npm") && !demo.contains(&"pgbouncer"));
        assert!(demo.iter().all(|name| test.contains(name)) && test.contains(&"npm"));
    }
}
