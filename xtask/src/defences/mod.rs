//! `cargo xtask defences`: takes each defence against bad input away, one at a time, and requires its test to notice.
//!
//! Everything happens in a throw-away copy of the clone with build output of its own. Every named test must pass on the
//! unchanged copy; then each entry of `tests/defences.toml` is applied, built and tried by itself, and its test must fail.
//! A build that breaks is a mistake in the entry; a test that still passes is a row of bad input that nothing defends.
//! Tests wait more than they work, so a few run beside the next builds.
//! INVARIANT: an entry is judged by one test that really ran: a test that was not found is never taken for a failure.
//! Limits: a test that does not end counts as failed and is killed, and then what it started may be left behind.

mod list;
mod stage;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use anyhow::{Context, Result, bail, ensure};

use self::list::{Defence, List};
use self::stage::{Daemon, Seen, Stage};
use crate::{leftovers, paths, setup, shell};

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Only entries whose row, rule, test or test program contains this text; may be given again for more
    #[arg(long, value_name = "SUBSTRING")]
    only: Vec<String>,
    /// Print the entries and do nothing
    #[arg(long)]
    list: bool,
    /// Change nothing on this machine: list what is missing and end with 3
    #[arg(long)]
    no_install: bool,
}

/// Two cores build while this many tests, which mostly wait for a limit, are under way.
const TESTS_AT_ONCE: usize = 3;

/// Copies, builds, tries every entry, prints a table.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = paths::repository()?;
    let list = List::read(&root)?;
    let problems = list.problems(&root);
    ensure!(problems.is_empty(), "the list of defences has rotted:\n  {}", problems.join("\n  "));
    let chosen = list.only(&args.only);
    ensure!(!chosen.is_empty(), "no entry contains such a text");
    if args.list {
        for entry in &chosen {
            println!("{}: {} ({})", entry.row, entry.defence, entry.test);
        }
        return Ok(());
    }
    setup::require_kernel()?;
    setup::run(&setup::Args { no_install: args.no_install, ci: false })?;
    shell::announce(
        "take each defence away and run its test as root, in a copy of this clone",
        "a test that cannot fail defends nothing",
        &format!("{} entries, about 20 s each, after a build of up to ten minutes", chosen.len()),
    );
    leftovers::adopt_orphans()?;
    let before = leftovers::Snapshot::take()?;
    let (seen, took) = shell::timed(|| try_all(&chosen))?;
    let clean = leftovers::require_none(&before);
    let unnoticed = print(&chosen, &seen);
    println!("{} defences, {unnoticed} of them not noticed, in {} s", chosen.len(), took.as_secs());
    ensure!(unnoticed == 0, "{unnoticed} defence(s) could be removed without their test failing");
    clean
}

fn try_all(chosen: &[&Defence]) -> Result<Vec<Seen>> {
    let stage = Stage::set()?;
    let whole = Arc::new(stage.whole()?);
    let mut known = BTreeSet::new();
    let tests: Vec<&Defence> =
        chosen.iter().copied().filter(|entry| known.insert((&entry.target, &entry.test))).collect();
    let passed = side_by_side(&stage, &tests, |_| Ok(Ok(Arc::clone(&whole))))?;
    for (entry, seen) in tests.iter().zip(passed) {
        ensure!(seen == Seen::Passed, "`{}` does not pass on the unchanged clone: {seen:?}", entry.test);
    }
    side_by_side(&stage, chosen, |index| {
        let entry = chosen.get(index).context("more daemons than entries")?;
        Ok(stage.without(entry, &index.to_string())?.map(Arc::new))
    })
}

/// Gets one daemon after the other and plays each entry's test against its own, a few at a time.
fn side_by_side(
    stage: &Stage,
    entries: &[&Defence],
    daemon: impl Fn(usize) -> Result<Result<Arc<Daemon>, Seen>>,
) -> Result<Vec<Seen>> {
    let say = |index: usize, seen: &Seen| {
        let entry = entries.get(index).map_or("", |entry| entry.test.as_str());
        eprintln!("    {} of {}: {entry}: {seen:?}", index + 1, entries.len());
    };
    std::thread::scope(|scope| {
        let mut running = VecDeque::new();
        let mut all = Vec::new();
        for (index, entry) in entries.iter().copied().enumerate() {
            if running.len() == TESTS_AT_ONCE {
                all.extend(running.pop_front().map(finish).transpose()?);
            }
            let daemon = daemon(index)?;
            running.push_back(scope.spawn(move || {
                let seen = match daemon {
                    Ok(daemon) => stage.play(entry, &daemon)?,
                    Err(seen) => seen,
                };
                say(index, &seen);
                Ok(seen)
            }));
        }
        for last in running {
            all.push(finish(last)?);
        }
        Ok(all)
    })
}

fn finish(running: ScopedJoinHandle<'_, Result<Seen>>) -> Result<Seen> {
    running.join().unwrap_or_else(|_| bail!("the thread of a test failed"))
}

/// Prints what was seen and returns how many entries went unnoticed.
fn print(chosen: &[&Defence], seen: &[Seen]) -> usize {
    let wide = |cell: fn(&Defence) -> &str| chosen.iter().map(|entry| cell(entry).len()).max().unwrap_or(0);
    let (row, defence) = (wide(|entry| &entry.row), wide(|entry| &entry.defence));
    println!("\n{:row$} | {:defence$} | seen | test that must fail", "bad input", "defence");
    for (entry, seen) in chosen.iter().zip(seen) {
        println!("{:row$} | {:defence$} | {seen} | {}", entry.row, entry.defence, entry.test);
    }
    seen.iter().filter(|seen| !seen.is_noticed()).count()
}
