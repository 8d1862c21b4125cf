//! Debian packages: which are needed, which are missing, how they are installed.
//!
//! A package counts as present when dpkg says so, or when the program it is wanted for is already there.
//! The only root step of the set-up. Refuses to guess on systems without dpkg: it lists the programs instead.

use std::path::Path;

use anyhow::Result;

use super::Step;
use crate::{paths, shell};

/// What proves that a package is not needed.
enum Proof {
    /// dpkg knows the package as installed.
    Package,
    /// This program is found.
    Program(&'static str),
}

const NEEDED: &[(&str, Proof, &str)] = &[
    (
        "gcc",
        Proof::Program("cc"),
        "links every program; compiles the C parts of the SQL parser and of the TLS library",
    ),
    ("libc6-dev", Proof::Package, "headers of the C library"),
    ("make", Proof::Program("make"), "builds libpg_query"),
    ("clang", Proof::Program("clang"), "bindgen reads libpg_query's header with it"),
    ("libclang-dev", Proof::Package, "bindgen's library"),
    ("git", Proof::Program("git"), "the tidy check asks it which files are ours"),
    ("ca-certificates", Proof::Package, "downloads are verified"),
    ("postgresql-15", Proof::Package, "the real server that tests, demo and benchmark use"),
    ("postgresql-client-15", Proof::Package, "psql, pg_dump and pgbench are the real clients"),
    ("pgbouncer", Proof::Package, "the peer that the benchmark compares with"),
    ("iproute2", Proof::Program("ip"), "tests make network namespaces"),
    ("util-linux", Proof::Program("setpriv"), "the demo's approver runs under another account"),
    ("python3", Proof::Program("/usr/bin/python3"), "runs the Python clients"),
    ("python3-psycopg", Proof::Package, "psycopg 3, a client of tests and demo"),
    ("python3-psycopg2", Proof::Package, "psycopg 2, a client of the tests"),
    ("python3-asyncpg", Proof::Package, "asyncpg, a client of the tests"),
    ("python3-pg8000", Proof::Package, "pg8000, a client of the tests"),
    ("nodejs", Proof::Program("node"), "runs the Node client"),
    ("npm", Proof::Program("npm"), "fetches the Node client"),
];

/// Names the missing packages as one step.
pub(super) fn look() -> Result<Vec<Step>> {
    let missing: Vec<&(&str, Proof, &str)> =
        NEEDED.iter().filter(|(package, proof, _)| !present(package, proof)).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    for (package, _, why) in &missing {
        eprintln!("package {package} is missing: {why}");
    }
    let names: Vec<&'static str> = missing.iter().map(|(package, _, _)| *package).collect();
    Ok(vec![Step {
        what: format!("install the Debian packages {} (root step: apt-get)", names.join(" ")),
        why: "see the lines above",
        takes: "1 to 3 minutes, mostly download",
        install: Box::new(move || install(&names)),
    }])
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
