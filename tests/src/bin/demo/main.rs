//! The demonstration behind `cargo xtask demo`: the whole path with real programs and their real output.
//!
//! Starts a PostgreSQL server, an OpenID provider and the daemon with the shipped policies, and lets an agent in a
//! tagged cgroup work at the database's own address. Each step says what is done, shows what came out and checks
//! it; the table at the end is made of those checks, and the exit code is 0 only if all of them held.
//! INVARIANT: nothing is claimed that was not checked, and nothing is left behind; Ctrl-C cleans up too.
//! Limits: needs root, cgroup2 and BPF; everything happens on loopback.

mod issuer;
mod report;
mod stage;
mod steps;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use report::Report;
use stage::Stage;

fn main() -> ExitCode {
    let keep = std::env::args().skip(1).any(|word| word == "--keep");
    match demonstrate(keep) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nthe demo stopped: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything; true when every step held.
fn demonstrate(keep: bool) -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this needs root, to load kernel programs; start it with `cargo xtask demo`");
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let interrupted = watch_interrupts(&runtime)?;
    let mut report = Report::default();
    let mut stage = Stage::set(&runtime)?;
    for step in steps::ALL {
        if interrupted.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
        report.run(step, &mut stage);
    }
    let held = report.print_table();
    if keep {
        stage.print_hints()?;
        while !interrupted.load(Ordering::SeqCst) {
            stage.refresh_token()?;
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
    Ok(held)
}

/// Ctrl-C, SIGTERM and a terminal that goes away set a flag instead of ending us, so that everything is cleaned up.
fn watch_interrupts(runtime: &tokio::runtime::Runtime) -> Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let flag = Arc::new(AtomicBool::new(false));
    let _context = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind).context("cannot watch for signals")?;
        let flag = Arc::clone(&flag);
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                flag.store(true, Ordering::SeqCst);
                // The terminal may be gone; `eprintln!` would end this task then.
                drop(writeln!(std::io::stderr(), "\nstopping and cleaning up after this step"));
            }
        });
    }
    Ok(flag)
}
