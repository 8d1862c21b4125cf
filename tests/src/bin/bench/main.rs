//! The measuring program behind `cargo xtask bench postgres` and `cargo xtask bench connect`.
//!
//! PostgreSQL: three ways to the same server, interleaved in one run: direct, through pgbouncer in session mode, and captured by
//! Chaperone with policy, masking and record on. Prints a table and writes it with the machine's facts.
//! The hidden words `fetch`, `idle`, `dial`, `knock`, `ping`, `bulk` and `hold` are this program's own clients, started inside and outside the cgroup.
//! Limits: one machine, loopback; the load generator shares the processors with everything it measures.

mod clients;
mod connect;
mod facts;
mod idle;
mod paths;
mod table;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["postgres", "--seconds", seconds, "--report", report] => postgres(seconds, Path::new(report), None),
        ["postgres", "--seconds", seconds, "--report", report, "--only", only] => {
            postgres(seconds, Path::new(report), Some(only))
        }
        ["connect", "--report", report] => connect::run(Path::new(report)),
        ["dissect"] => connect::dissect(),
        ["dial", address, count] => connect::dial(address, count),
        ["knock", address, count, bytes] => connect::knock(address, count, bytes),
        ["ping", address, count] => connect::ping(address, count),
        ["bulk", address, bytes] => connect::bulk(address, bytes),
        ["hold", address, count] => connect::hold(address, count),
        ["fetch", address, user, database, sql] => clients::fetch(address, user, database, sql),
        ["idle", address, user, database, count] => clients::idle(address, user, database, count),
        _ => Err(anyhow::anyhow!(
            "usage: bench postgres --seconds N --report FILE [--only TEXT], bench connect --report FILE, or bench dissect"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures everything and writes the report; with `only`, measures the loads whose title has that text and just prints.
fn postgres(seconds: &str, report: &Path, only: Option<&str>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this needs root, to load kernel programs; start it with `cargo xtask bench postgres`");
    }
    let seconds: u32 = seconds.parse().context("`--seconds` wants a number")?;
    let bench = paths::Bench::set()?;
    let mut table = table::Table::only(only);
    workload::select_only(&bench, seconds, &mut table)?;
    workload::connects(&bench, seconds, &mut table)?;
    workload::large_result(&bench, &mut table)?;
    idle::sessions(&bench, &mut table)?;
    table.note(format!("the record took {} bytes for the whole run", bench.record_bytes()?));
    let text = table.to_markdown(&facts::machine()?, seconds);
    println!("\n{text}");
    if only.is_some() {
        return Ok(());
    }
    let report: PathBuf = report.to_path_buf();
    std::fs::write(&report, text).with_context(|| format!("cannot write `{}`", report.display()))?;
    println!("written to {}", report.display());
    Ok(())
}
