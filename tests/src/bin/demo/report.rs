//! What the reader sees: a heading per step, the commands with their real output, and the table at the end.
//!
//! A step hands back its evidence in one line, or an error; both land in the table. A failed step does not stop
//! the others, because the reader wants to know which parts hold.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use chaperone::clock::Clock;
use chaperone_tests::process::{self, Finished};

use crate::stage::Stage;

/// One thing to show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) title: &'static str,
    pub(crate) act: fn(&mut Stage) -> Result<String>,
}

/// What was shown so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    title: &'static str,
    held: bool,
    evidence: String,
    took: Duration,
}

impl Report {
    /// Does one step and keeps its result.
    pub(crate) fn run(&mut self, step: &Step, stage: &mut Stage) {
        println!("\n=== {}. {} ===", self.rows.len() + 1, step.title);
        let clock = Clock::system();
        let start = clock.instant();
        let result = (step.act)(stage);
        let took = clock.instant().duration_since(start);
        let held = result.is_ok();
        let evidence = result.unwrap_or_else(|error| format!("{error:#}"));
        println!("  {}: {evidence}", if held { "held" } else { "FAILED" });
        self.rows.push(Row { title: step.title, held, evidence, took });
    }

    /// Prints the table; true when every step held.
    pub(crate) fn print_table(&self) -> bool {
        let width = self.rows.iter().map(|row| row.title.chars().count()).max().unwrap_or(0);
        println!("\n{:<3} {:<width$} {:<7} {:>6}  evidence", "#", "shown", "result", "time");
        println!("{}", "-".repeat(width + 60));
        for (index, row) in self.rows.iter().enumerate() {
            let word = if row.held { "ok" } else { "FAILED" };
            let first = row.evidence.lines().next().unwrap_or_default();
            println!(
                "{:<3} {:<width$} {word:<7} {:>4.1} s  {first}",
                index + 1,
                row.title,
                row.took.as_secs_f64()
            );
        }
        let failed = self.rows.iter().filter(|row| !row.held).count();
        println!("\n{} of {} held", self.rows.len() - failed, self.rows.len());
        failed == 0 && !self.rows.is_empty()
    }
}

/// Says something about the step.
pub(crate) fn say(text: &str) {
    for line in text.lines() {
        println!("  {line}");
    }
}

/// Prints a command as a person would type it, runs it, prints what it wrote.
pub(crate) fn show(typed: &str, command: &mut Command, limit: Duration) -> Result<Finished> {
    println!("  $ {typed}");
    let done = process::run(command, limit)?;
    print_output(&done);
    Ok(done)
}

/// Prints both outputs of a command.
pub(crate) fn print_output(done: &Finished) {
    const LINES: usize = 24;
    let text = done.both();
    let count = text.lines().count();
    for line in text.lines().take(LINES) {
        println!("    {line}");
    }
    if count > LINES {
        println!("    ... and {} more lines", count - LINES);
    }
}
