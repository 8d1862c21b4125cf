//! Cargo's own additions that only the full check needs: cargo-deny and cargo-fuzz.
//!
//! Built from source at fixed versions into the tools folder, by the invoking user.
//! A program that is already there or in `PATH` is used as it is.

use anyhow::Result;

use super::Step;
use crate::{paths, shell};

const TOOLS: &[(&str, &str, &str, &str)] = &[
    (
        "cargo-deny",
        "0.20.2",
        "checks licences, sources and duplicates of dependencies",
        "6 to 10 minutes on two cores",
    ),
    ("cargo-fuzz", "0.13.2", "drives the fuzz targets", "about 1 minute on two cores"),
];

/// Names the absent ones.
pub(super) fn look() -> Result<Vec<Step>> {
    let missing = TOOLS.iter().filter(|(name, _, _, _)| paths::find_program(name).is_none());
    Ok(missing
        .map(|&(name, version, why, takes)| Step {
            what: format!("build {name} {version} into the tools folder"),
            why,
            takes,
            install: Box::new(move || {
                let mut install = shell::cargo()?;
                install.env_remove("CARGO_TARGET_DIR").current_dir(paths::repository()?);
                install.args(["install", name, "--version", version, "--locked", "--root"]);
                shell::run(install.arg(paths::tools()?))
            }),
        })
        .collect())
}
