//! Memory with a thousand idle sessions: what pgbouncer and the daemon take for each.
//!
//! Counts resident memory of the process and of its children, before and after.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaperone_tests::wait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::paths::{Bench, Way};
use crate::table::Table;

const SESSIONS: u32 = 1000;

/// Opens them through both proxies, one after the other.
pub(crate) fn sessions(bench: &Bench, table: &mut Table) -> Result<()> {
    let title = "resident memory per idle session";
    if !table.wants(title) {
        return Ok(());
    }
    let mut row = [0.0; 2];
    // The pooler goes last: it keeps its connections to the server when its clients leave.
    for (way, cell) in [Way::Chaperone, Way::Pgbouncer].into_iter().zip(row.iter_mut().rev()) {
        let memory = || match way {
            Way::Pgbouncer => resident(bench.pooler.pid().as_raw()),
            Way::Direct | Way::Chaperone => bench.daemon_memory(),
        };
        let before = memory()?;
        let holder = Holder::start(bench.own_client(way, "idle", &SESSIONS.to_string()))?;
        let after = memory()?;
        drop(holder);
        let each =
            f64::from(u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX)) / f64::from(SESSIONS);
        eprintln!(
            "{way}: {before} KiB before, {after} KiB with {SESSIONS} idle sessions, {each:.1} KiB each"
        );
        table.note(format!("{way}: {before} KiB resident before, {after} KiB with {SESSIONS} idle sessions"));
        *cell = each;
    }
    let [pooler, ours] = row;
    table.add(title, "KiB", &[0.0, pooler, ours]);
    Ok(())
}

impl Bench {
    /// Processor time that the proxy of this way has used; none for the direct way.
    pub(crate) fn processor_time(&self, way: Way) -> Result<Duration> {
        match way {
            Way::Direct => Ok(Duration::ZERO),
            Way::Pgbouncer => processor_time(self.pooler.pid().as_raw()),
            Way::Chaperone => processor_time(self.daemon.pid().context("the daemon is not running")?),
        }
    }

    /// Resident memory of the daemon and its workers, in KiB.
    pub(crate) fn daemon_memory(&self) -> Result<u64> {
        let pid = self.daemon.pid().context("the daemon is not running")?;
        let workers = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let mut total = resident(pid)?;
        for worker in workers.split_whitespace().filter_map(|word| word.parse().ok()) {
            // A worker may be replaced between the two looks.
            total += resident(worker).unwrap_or(0);
        }
        Ok(total)
    }
}

/// User and system time of a process with all its threads, in the kernel's ticks of 10 ms.
fn processor_time(pid: i32) -> Result<Duration> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).context("cannot read a process's times")?;
    // The name in brackets may hold anything; `utime` and `stime` are fields 14 and 15 of proc(5).
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2).collect();
    let mut ticks = 0_u64;
    for field in fields {
        ticks += field.parse::<u64>().with_context(|| format!("`{field}` is no number of ticks"))?;
    }
    Ok(Duration::from_millis(ticks * 10))
}

/// `VmRSS` of a process, in KiB.
pub(crate) fn resident(pid: i32) -> Result<u64> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).context("cannot read a process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no resident size")?;
    let number = line.trim().trim_end_matches("kB").trim();
    number.parse().with_context(|| format!("`{line}` is no size"))
}

/// A client that holds sessions until it is dropped.
struct Holder(Child);

impl Holder {
    fn start(mut command: Command) -> Result<Self> {
        let child = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut holder = Self(child.context("cannot start the idle client")?);
        let stdout = holder.0.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("cannot read from the idle client")?;
        ensure!(
            line.trim() == format!("{SESSIONS} open"),
            "the idle client did not open its sessions: `{line}`"
        );
        // Let buffers that are freed late be freed.
        wait::until("the dust to settle", Duration::from_secs(5), {
            let mut asked = 0;
            move || {
                asked += 1;
                Ok((asked > 50).then_some(()))
            }
        })?;
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).unwrap_or(i32::MAX);
        if killpg(Pid::from_raw(pid), Signal::SIGKILL).is_err() {
            return;
        }
        if let Err(error) = self.0.wait() {
            eprintln!("cannot reap the idle client: {error}");
        }
    }
}
