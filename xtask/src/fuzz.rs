//! `cargo xtask fuzz`: runs every fuzz target for a while with the nightly.
//!
//! Targets are the files in `fuzz/fuzz_targets`; corpora in `fuzz/corpus` are read and grow.
//! A crash stops the run and leaves its input in `fuzz/artifacts`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::{paths, setup, shell};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Seconds per target
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u32,
    /// Only this target
    target: Option<String>,
    /// Change nothing on this machine: list what is missing and end with 3
    #[arg(long)]
    no_install: bool,
}

/// Runs all targets, or one.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { no_install: args.no_install, ci: true })?;
    let all = targets()?;
    let chosen: Vec<&String> = match &args.target {
        None => all.iter().collect(),
        Some(name) => vec![all.get(name).with_context(|| format!("there is no fuzz target `{name}`"))?],
    };
    ensure!(!chosen.is_empty(), "there are no fuzz targets");
    for name in chosen {
        shell::announce(
            &format!("fuzz `{name}`"),
            "parsers meet hostile bytes",
            &format!("build + {} s", args.seconds),
        );
        // The rustup proxy must choose the nightly, so the name `cargo` and not the running one.
        let mut fuzz = shell::as_user("cargo")?;
        fuzz.env_remove("RUSTUP_TOOLCHAIN").args(["+nightly", "fuzz", "run", name, "--"]);
        fuzz.arg(format!("-max_total_time={}", args.seconds)).arg("-rss_limit_mb=2048").arg("-timeout=10");
        shell::run(&mut fuzz)?;
    }
    Ok(())
}

fn targets() -> Result<BTreeSet<String>> {
    let folder = paths::repository()?.join("fuzz/fuzz_targets");
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    let names = entries.filter_map(Result::ok).filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Some(name.strip_suffix(".rs")?.to_owned())
    });
    Ok(names.collect())
}
