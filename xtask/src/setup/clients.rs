//! The Node driver `pg`, kept in the tools folder at one fixed version.
//!
//! The Python drivers are Debian packages, so that accounts other than the invoking user can read them;
//! the Node driver has no such package everywhere, so tests copy this folder to where the agent can read it.

use anyhow::{Context, Result};

use super::Step;
use crate::{paths, shell};

const PG: &str = "pg@8.16.3";

/// Names the download when the driver is absent.
pub(super) fn look() -> Result<Vec<Step>> {
    let folder = paths::tools()?.join("node");
    if folder.join("node_modules/pg/package.json").is_file() {
        return Ok(Vec::new());
    }
    Ok(vec![Step {
        what: format!("fetch {PG} with npm into the tools folder"),
        why: "the Node client of the tests",
        takes: "a few seconds",
        install: Box::new(move || {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make `{}`", folder.display()))?;
            let mut npm = shell::as_user("npm")?;
            npm.current_dir(&folder).args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--prefix",
                ".",
            ]);
            shell::run(npm.arg(PG))
        }),
    }])
}
