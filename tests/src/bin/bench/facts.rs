//! The facts of the machine that a number means nothing without.
//!
//! Read from the kernel and from the programs themselves; nothing names the machine or its owner.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use chaperone_tests::postgres::program_path;
use chaperone_tests::process;

/// A Markdown list.
pub(crate) fn machine() -> Result<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").context("cannot read about processors")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").context("cannot read about memory")?;
    let memory = memory.lines().next().unwrap_or_default();
    let kernel =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read about the kernel")?;
    let server = version(Command::new(program_path("postgres")).arg("--version"))?;
    let pooler = version(Command::new("/usr/sbin/pgbouncer").arg("--version"))?;
    Ok(format!(
        "- processor{model}, {count} available\n- {memory}\n- Linux {}\n- {server}\n- {pooler}\n- everything on loopback, \
         durability of the server off, the load generator on the same processors\n",
        kernel.trim()
    ))
}

fn version(command: &mut Command) -> Result<String> {
    let text = process::run(command, Duration::from_secs(10))?.success()?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
