//! `cargo xtask fuzz`: runs every fuzz target for a while with the nightly.
//!
//! Targets are the files in `fuzz/fuzz_targets`. Each starts from its seeds in `fuzz/seeds`, which are kept with the
//! sources; what it finds beyond them grows in `fuzz/corpus`, which is not.
//! A crash stops the run and leaves its input in `fuzz/artifacts`: once mended, the input becomes a seed.

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
    let folder = paths::repository()?.join("fuzz");
    for name in chosen {
        shell::announce(
            &format!("fuzz `{name}`"),
            "parsers meet hostile bytes",
            &format!("build + {} s", args.seconds),
        );
        // The rustup proxy must choose the nightly, so the name `cargo` and not the running one.
        let mut fuzz = shell::as_user("cargo")?;
        let corpus = folder.join("corpus").join(name);
        std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make `{}`", corpus.display()))?;
        fuzz.env_remove("RUSTUP_TOOLCHAIN").args(["+nightly", "fuzz", "run", name]);
        // New inputs go to the first folder.
        fuzz.arg(corpus).arg(folder.join("seeds").join(name)).arg("--");
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

#[cfg(test)]
mod tests {
    use super::targets;
    use crate::paths;

    /// What clones carry for ever must stay small.
    const SEEDS_BYTES_MAX: u64 = 300 << 10;
    const SEED_BYTES_MAX: u64 = 4 << 10;

    #[test]
    fn every_target_has_seeds_and_they_are_small() {
        let folder = paths::repository().unwrap().join("fuzz/seeds");
        let mut all = 0;
        for name in targets().unwrap() {
            let sizes: Vec<u64> = std::fs::read_dir(folder.join(&name))
                .unwrap()
                .map(|seed| seed.unwrap().metadata().unwrap().len())
                .collect();
            assert!(sizes.len() >= 20, "`{name}` has {} seeds", sizes.len());
            assert!(sizes.iter().all(|size| *size <= SEED_BYTES_MAX), "`{name}` has a large seed");
            all += sizes.iter().sum::<u64>();
        }
        assert!(all <= SEEDS_BYTES_MAX, "the seeds are {all} bytes");
        let folders = std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(folders, targets().unwrap().len(), "seeds of a target that is gone");
    }
}
