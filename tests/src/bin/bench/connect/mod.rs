//! `bench connect`: what capture costs a connection, and what passing one on costs, beside a plain copying proxy.
//!
//! Ways, taking turns in one run: direct; captured and refused; captured and passed on unread (`opaque`); HAProxy in TCP mode.
//! A client times `connect()` alone, which is the kernel's part: the handshake is done before any daemon runs. The cost of the
//! sentinel is what an untagged process pays while another daemon, with the sentinel on, is there.
//! Limits: one machine, loopback; client, proxy and server share its processors.

mod dialler;
mod dissect;
mod server;
mod stage;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaperone_tests::process;

pub(crate) use self::dialler::{bulk, dial, hold, knock, ping};
pub(crate) use self::dissect::run as dissect;
use self::stage::{Crowd, Load, Stage, Way, with_sentinel};
use crate::facts;

/// Connections of one cell.
const CONNECTS: u32 = 2000;
/// Round trips of one cell.
const TRIPS: u32 = 20_000;
/// Bytes of one bulk cell.
const BULK_BYTES: u64 = 2 << 30;
/// Times each cell is measured; the median counts.
const ROUNDS: usize = 5;
const LIMIT: Duration = Duration::from_secs(300);

/// One line of the report.
struct Line {
    load: &'static str,
    unit: &'static str,
    cells: Vec<(Way, f64)>,
}

/// Measures everything and writes the report.
pub(crate) fn run(report: &Path) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this needs root, to load kernel programs; start it with `cargo xtask bench connect`");
    }
    let stage = Stage::set()?;
    // First: a machine on which it cannot be had says so at once.
    let crowd = crowd(&stage)?;
    let mut lines = connects(&stage)?;
    lines.push(trips(&stage)?);
    lines.push(bulks(&stage)?);
    let sentinel = sentinel(&stage)?;
    let text = to_markdown(&lines, &[sentinel, crowd].concat(), &facts::machine()?);
    println!("\n{text}");
    std::fs::write(report, text).with_context(|| format!("cannot write `{}`", report.display()))?;
    println!("written to {}", report.display());
    Ok(())
}

fn connects(stage: &Stage) -> Result<Vec<Line>> {
    let mut samples: Vec<(Way, Vec<[f64; 3]>)> = Way::ALL.into_iter().map(|way| (way, Vec::new())).collect();
    for _ in 0..ROUNDS {
        for (way, found) in &mut samples {
            found.push(measured(stage, *way, Load::Close, CONNECTS.into())?);
        }
    }
    let cell = |index: usize| -> Vec<(Way, f64)> {
        let of =
            |found: &[[f64; 3]]| median(found.iter().filter_map(|row| row.get(index).copied()).collect());
        samples.iter().map(|(way, found)| (*way, of(found))).collect()
    };
    Ok(vec![
        Line { load: "`connect()` alone, half of them faster", unit: "µs", cells: cell(0) },
        Line { load: "`connect()` alone, one in a hundred slower", unit: "µs", cells: cell(1) },
        Line { load: "connections, one after the other, each to its end", unit: "per s", cells: cell(2) },
    ])
}

fn trips(stage: &Stage) -> Result<Line> {
    let cells =
        rounds(&Way::TALKING, |way| measured(stage, way, Load::Echo, TRIPS.into()).map(|[half, ..]| half))?;
    Ok(Line { load: "round trip of 64 bytes, half of them faster", unit: "µs", cells })
}

fn bulks(stage: &Stage) -> Result<Line> {
    let cells =
        rounds(&Way::TALKING, |way| measured(stage, way, Load::Source, BULK_BYTES).map(|[rate, ..]| rate))?;
    Ok(Line { load: "one stream of 2 GiB", unit: "GB/s", cells })
}

/// What an untagged process pays for the sentinel.
fn sentinel(stage: &Stage) -> Result<Vec<String>> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(measured(stage, Way::Direct, Load::Close, CONNECTS.into())?[0]);
        with.push(with_sentinel(|| Ok(measured(stage, Way::Direct, Load::Close, CONNECTS.into())?[0]))?);
    }
    let (without, with) = (median(without), median(with));
    Ok(vec![format!(
        "an untagged process's `connect()`: {without:.1} µs without the sentinel, {with:.1} µs with it ({:+.1} µs; goal: at most 1)",
        with - without
    )])
}

/// Whether one agent pays for the number of others.
fn crowd(stage: &Stage) -> Result<Vec<String>> {
    let alone = measured(stage, Way::Passed, Load::Close, CONNECTS.into())?;
    let crowd = Crowd::gather(stage)?;
    let among = measured(stage, Way::Passed, Load::Close, CONNECTS.into())?;
    let text = format!(
        "an agent's `connect()` alone: {:.1} µs; among {} units of agents with {} open connections: {:.1} µs",
        alone[0],
        crowd.agents(),
        crowd.connections(),
        among[0]
    );
    let daemon = format!("the daemon's resident memory with them: {} MiB", stage.daemon_memory()? / 1024);
    drop(crowd);
    Ok(vec![text, daemon])
}

fn rounds(ways: &[Way], mut measure: impl FnMut(Way) -> Result<f64>) -> Result<Vec<(Way, f64)>> {
    let mut samples: Vec<(Way, Vec<f64>)> = ways.iter().map(|way| (*way, Vec::new())).collect();
    for _ in 0..ROUNDS {
        for (way, found) in &mut samples {
            found.push(measure(*way)?);
        }
    }
    Ok(samples.into_iter().map(|(way, found)| (way, median(found))).collect())
}

/// Runs a client and reads the three numbers that it prints; one that has fewer prints zeroes.
fn measured(stage: &Stage, way: Way, load: Load, count: u64) -> Result<[f64; 3]> {
    let found = numbers(&mut stage.client(way, load, count)?)?;
    eprintln!("{way}, {load:?}: {found:?}");
    Ok(found)
}

fn numbers(client: &mut Command) -> Result<[f64; 3]> {
    let text = process::run(client, LIMIT)?.success()?;
    let found: Vec<f64> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("`{text}`"))?;
    ensure!(found.len() == 3, "not a result: `{text}`");
    found.try_into().map_err(|found| anyhow::anyhow!("not three numbers: {found:?}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn to_markdown(lines: &[Line], notes: &[String], machine: &str) -> String {
    let mut text = String::from(
        "# Benchmarks of capture\n\nWritten by `cargo xtask bench connect`. Ways take turns in one run; each cell is the median \
         of five rounds.\nRatios compare within the run only. `connect()` alone is the kernel's part: it returns before any proxy \
         runs.\n\n| load | unit |",
    );
    for way in Way::ALL {
        text.push_str(&format!(" {way} |"));
    }
    text.push_str("\n|---|---|---:|---:|---:|---:|\n");
    for Line { load, unit, cells } in lines {
        text.push_str(&format!("| {load} | {unit} |"));
        for way in Way::ALL {
            match cells.iter().find(|(of, _)| *of == way) {
                Some((_, value)) => text.push_str(&format!(" {value:.1} |")),
                None => text.push_str(" - |"),
            }
        }
        text.push('\n');
    }
    text.push('\n');
    for note in notes {
        text.push_str(&format!("- {note}\n"));
    }
    text.push_str(&format!("\n## Machine\n\n{machine}\n## Again\n\n`cargo xtask bench connect`\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_was_not_measured_shows_a_dash() {
        let line = Line { load: "load", unit: "µs", cells: vec![(Way::Direct, 1.25), (Way::Haproxy, 3.0)] };
        let text = to_markdown(&[line], &["a note".to_owned()], "- none\n");
        assert!(text.contains("| load | µs | 1.2 | - | - | 3.0 |"), "{text}");
        assert!(text.contains("- a note\n"), "{text}");
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
