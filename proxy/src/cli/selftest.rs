//! `chaperone selftest`: tries every way out and prints what came of it.
//!
//! Ends with 1 when one gets out that is not known to, or when the witness did not see a control; with 0 otherwise. Known
//! ways out are printed and counted, by launch method. With a daemon the result goes into the record; without one it says that it
//! does not. With `--strict` a known way out, a row that should have been possible and was not, and a result that could not be recorded,
//! end with 1 as well.
//! Known limit: parts of the test can be chosen, and then the result is about those.

use std::process::ExitCode;

use super::{ConfigFile, FAILED, print_json};
use crate::causes::in_one_line;
use crate::control::{Answer, Call};
use crate::model::SelftestResult;
use crate::selftest::{self, AgentArgs, Layer, Method, Plan, Report, StageArgs, Verdict};

/// Options of `selftest`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Test a guard of its own, in namespaces of its own; needs no daemon and records nothing.
    #[arg(long)]
    standalone: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// End with 1 also when a way out works that is known to, when one could not be tried that every kernel has, or when the result could
    /// not be recorded. With `--methods run-uid` it tells whether this machine holds what is started in the recommended way.
    #[arg(long)]
    strict: bool,
    /// Only these rows, by name, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these launch methods: slice, run-root, run-uid, namespace.
    #[arg(long, value_delimiter = ',')]
    methods: Vec<String>,
    /// Kernel programs, or layers of them, to switch off, to see what the others are good for.
    #[arg(long, value_delimiter = ',', hide = true, requires = "standalone")]
    without: Vec<String>,
}

/// The programs of a layer, or the one program of this name.
fn programs_of(name: &str) -> Vec<String> {
    match Layer::named(name) {
        Some(layer) => layer.programs().iter().map(|program| (*program).to_owned()).collect(),
        None => vec![name.to_owned()],
    }
}

/// Tries everything.
///
/// # Errors
/// When the test could not be run to its end.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let named = |name: &String| {
        Method::named(name).ok_or_else(|| anyhow::anyhow!("there is no launch method `{name}`"))
    };
    let plan = Plan {
        only: args.only.clone(),
        methods: args.methods.iter().map(named).collect::<anyhow::Result<_>>()?,
        without: args.without.iter().flat_map(|name| programs_of(name)).collect(),
        installed: None,
    };
    let config = if args.standalone { None } else { Some(args.file.load()?) };
    let installed = config.as_ref().map(|config| config.intercept.clone());
    let report = selftest::run(&Plan { installed, ..plan })?;
    let recorded = match &config {
        None => Ok("not recorded: no daemon was asked".to_owned()),
        Some(_) => record(args, &report),
    };
    let is_strictly_good =
        recorded.is_ok() && report.count(Verdict::Known) == 0 && report.untested().is_empty();
    let told = recorded.unwrap_or_else(|why| format!("not recorded: {why}"));
    if args.json {
        print_json(&report)?;
        eprintln!("chaperone: {told}");
    } else {
        println!("{}{told}", report.table());
    }
    let is_good = report.is_good() && (is_strictly_good || !args.strict);
    Ok(ExitCode::from(if is_good { 0 } else { FAILED }))
}

/// Has the daemon put the result into the record; what it said, or why it did not.
fn record(args: &Args, report: &Report) -> Result<String, String> {
    let count = |verdict| u32::try_from(report.count(verdict)).unwrap_or(u32::MAX);
    let result = SelftestResult {
        kernel: report.kernel.clone(),
        held: count(Verdict::Good),
        known: count(Verdict::Known),
        untried: count(Verdict::Untried),
        out: report.faults(),
    };
    match args.file.call(&Call::Selftest { result }) {
        Ok(Answer::Done { what }) => Ok(what),
        Ok(Answer::Refused { why }) => Err(why),
        Ok(_) => Err("the daemon answered something else".to_owned()),
        Err(problem) => Err(in_one_line(problem.as_ref())),
    }
}

/// The stage's own process.
///
/// # Errors
/// When the stage cannot be built.
pub fn stage(args: &StageArgs) -> anyhow::Result<ExitCode> {
    print_json(&selftest::stage(args)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The hostile process.
///
/// # Errors
/// When it cannot get where it was told to go.
pub fn agent(args: &AgentArgs) -> anyhow::Result<ExitCode> {
    selftest::agent(args)?;
    Ok(ExitCode::SUCCESS)
}
