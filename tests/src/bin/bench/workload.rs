//! The measured loads: select-only pgbench, connects, and one large result.
//!
//! Ways take turns within each cell, so that a slow minute of the machine hits all of them.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaperone_tests::process;
use chaperone_tests::sample;

use crate::paths::{Bench, Way};
use crate::table::Table;

const CLIENTS: [u32; 3] = [1, 4, 16];
const MODES: [&str; 3] = ["simple", "extended", "prepared"];

/// Rows of the large result.
const ROWS: u64 = 1_000_000;

/// Repetitions of the large result; the best counts, the rest warms up.
const REPEATS: usize = 3;

/// `pgbench -S` in each mode with each number of clients.
pub(crate) fn select_only(bench: &Bench, seconds: u32, table: &mut Table) -> Result<()> {
    for mode in MODES {
        for clients in CLIENTS {
            let title = format!("select-only, {mode}, {clients} clients");
            if !table.wants(&title) {
                continue;
            }
            let (mut row, mut costs) = (Vec::new(), Vec::new());
            for way in Way::ALL {
                let mut command = bench.pgbench(way);
                let before = bench.processor_time(way)?;
                command.args([
                    "-n",
                    "-S",
                    "-M",
                    mode,
                    "-c",
                    &clients.to_string(),
                    "-j",
                    &clients.min(4).to_string(),
                ]);
                command.args(["-T", &seconds.to_string(), sample::DATABASE]);
                let rate = tps(command, seconds, &format!("{way} {mode} {clients}"))?;
                let spent = bench.processor_time(way)?.saturating_sub(before);
                row.push(rate);
                costs.push(spent.as_secs_f64() * 1e6 / (rate * f64::from(seconds)));
            }
            table.add(&title, "statements/s", &row);
            table.add(
                &format!("the proxy's processor time, {mode}, {clients} clients"),
                "µs/statement",
                &costs,
            );
        }
    }
    Ok(())
}

/// The same with a new connection for each statement.
pub(crate) fn connects(bench: &Bench, seconds: u32, table: &mut Table) -> Result<()> {
    let title = "connect, one statement, disconnect, 4 clients";
    if !table.wants(title) {
        return Ok(());
    }
    let mut row = Vec::new();
    for way in Way::ALL {
        let mut command = bench.pgbench(way);
        command.args(["-n", "-S", "-C", "-c", "4", "-j", "2", "-T", &seconds.to_string(), sample::DATABASE]);
        row.push(tps(command, seconds, &format!("{way} connects"))?);
    }
    table.add(title, "connects/s", &row);
    Ok(())
}

/// One million rows, plain, and with a column that Chaperone masks.
pub(crate) fn large_result(bench: &Bench, table: &mut Table) -> Result<()> {
    let loads = [
        ("1,000,000 rows, no sensitive column", "SELECT id, amount FROM million"),
        ("1,000,000 rows, one masked column", "SELECT id, email, amount FROM million"),
    ];
    for (title, sql) in loads {
        if !table.wants(title) {
            continue;
        }
        let mut best = [0.0_f64; 3];
        let before = bench.daemon_memory()?;
        for _ in 0..REPEATS {
            for (slot, way) in best.iter_mut().zip(Way::ALL) {
                let text = process::run(&mut bench.own_client(way, "fetch", sql), Duration::from_secs(300))?
                    .success()?;
                *slot = slot.max(rows_per_second(&text)?);
            }
        }
        table.add(title, "rows/s", &best);
        let grown = bench.daemon_memory()?.saturating_sub(before);
        table.note(format!("{title}: the daemon's resident memory grew by {grown} KiB over {REPEATS} runs"));
    }
    Ok(())
}

fn rows_per_second(text: &str) -> Result<f64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [rows, _, seconds] = words.as_slice() else { bail!("not a result: `{text}`") };
    ensure!(*rows == ROWS.to_string(), "{rows} rows came back");
    let seconds: f64 = seconds.parse().context("no time was printed")?;
    Ok(1_000_000.0 / seconds)
}

/// Runs pgbench and reads its throughput.
fn tps(mut command: std::process::Command, seconds: u32, what: &str) -> Result<f64> {
    let limit = Duration::from_secs(u64::from(seconds) * 3 + 60);
    let done = process::run(&mut command, limit)?;
    let errors = done.stderr.clone();
    let text = done.success().with_context(|| format!("pgbench failed: {what}"))?;
    let line = text
        .lines()
        .find(|line| line.starts_with("tps = "))
        .with_context(|| format!("no result: {errors}"))?;
    let number = line.trim_start_matches("tps = ").split(' ').next().unwrap_or_default();
    let value: f64 = number.parse().with_context(|| format!("`{line}`"))?;
    eprintln!("{what}: {value:.0}");
    Ok(value)
}
