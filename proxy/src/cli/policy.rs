//! `chaperone policy`: check, show, explain and test a bundle of policies without touching the one in force.
//!
//! Reads files only; needs no daemon and no privileges. Exit code 0: fine; 1: the bundle is invalid, a case failed,
//! or the explained decision is a denial.

mod explain;

pub use explain::ExplainArgs;

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::config::Config;
use crate::model::RESOLVER;
use crate::policy::{Cases, Finding, Kind, PolicyError, Report, RuleSummary, Set, Universe};

/// Author policy with confidence.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Parse and validate a bundle, and list rules that cannot matter.
    Check {
        /// Where the bundle is.
        #[command(flatten)]
        bundle: Bundle,
        /// Fail on rules that cannot matter, too.
        #[arg(long)]
        strict: bool,
    },
    /// List the policies and the classes of columns.
    Show {
        /// Where the bundle is.
        #[command(flatten)]
        bundle: Bundle,
        /// Show the text of one policy.
        id: Option<String>,
    },
    /// Say what would be decided about an operation, and why.
    Explain(Box<ExplainArgs>),
    /// Run the `.cases` files of the bundle.
    ///
    /// A case file is TOML. `[defaults]` and each `[[case]]` take agent, groups, identified, resource, labels, step,
    /// hour, weekday, exe, exe_sha256, unit, uid and cgroup. A `[[case]]` has a name and `expect`. With effects
    /// (and tables, columns, functions, filter, rows) it expects allow, hold or deny, and may name approvers, quorum
    /// and window. With `read = "schema.table.column"` it expects clear or mask, and may name the mask. `by` lists
    /// exactly the policies that decide.
    Test {
        /// Where the bundle is.
        #[command(flatten)]
        bundle: Bundle,
    },
}

/// Which bundle, and how to print.
#[derive(Debug, Clone, clap::Args)]
pub struct Bundle {
    /// Directory with `*.cedar` and `columns.toml`; without it, the configuration's `policy_dir`.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Configuration: gives `policy_dir`, and the names that policies may use.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Where the configuration is when nobody says.
const CONFIG: &str = "/etc/chaperone/chaperone.toml";

/// Runs the subcommand.
///
/// # Errors
/// When a file cannot be read or the output cannot be written.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check { bundle, strict } => check(&bundle, strict),
        Command::Show { bundle, id } => show(&bundle, id.as_deref()),
        Command::Explain(args) => explain::run(&args),
        Command::Test { bundle } => test(&bundle),
    }
}

/// The bundle's directory and, if one was given or is needed, the configuration.
fn locate(bundle: &Bundle) -> anyhow::Result<(PathBuf, Option<Config>)> {
    let config = match (&bundle.config, &bundle.dir) {
        (Some(file), _) => Some(Config::load(file)?),
        (None, Some(_)) => None,
        (None, None) => Some(Config::load(Path::new(CONFIG)).context("give --dir or --config")?),
    };
    let dir = match (&bundle.dir, &config) {
        (Some(dir), _) => dir.clone(),
        (None, Some(config)) => config.policy.dir.clone(),
        (None, None) => anyhow::bail!("give --dir or --config"),
    };
    Ok((dir, config))
}

/// Loads the bundle, or prints what is wrong with it and answers `None`.
fn load(dir: &Path, json: bool) -> anyhow::Result<Option<Set>> {
    match Set::load(dir) {
        Ok(set) => Ok(Some(set)),
        Err(error) => {
            let text = if json {
                let findings: Vec<Value> = error.findings().iter().map(as_json).collect();
                pretty(&json!({ "valid": false, "error": error.to_string(), "findings": findings }))?
            } else {
                refusal(&error)
            };
            print(&text)?;
            Ok(None)
        }
    }
}

fn refusal(error: &PolicyError) -> String {
    let findings = error.findings();
    if findings.is_empty() {
        return format!("{error}\n");
    }
    let mut text: String = findings.iter().map(|finding| drawn(finding, miette::Severity::Error)).collect();
    // Writing to a string does not fail.
    _ = writeln!(text, "{}; the bundle is not valid", counted(findings.len(), "problem", "problems"));
    text
}

fn check(bundle: &Bundle, strict: bool) -> anyhow::Result<ExitCode> {
    let (dir, config) = locate(bundle)?;
    let Some(set) = load(&dir, bundle.json)? else { return Ok(ExitCode::FAILURE) };
    let universe = config.as_ref().map(universe);
    let dead = set.dead_rules(universe.as_ref());
    let remarks: Vec<&Finding> = dead.iter().map(|dead| &dead.finding).chain(set.warnings()).collect();
    let text = if bundle.json {
        pretty(&json!({
            "valid": true,
            "bundle": set.hash(),
            "policies": set.summaries().len(),
            "dead_rules": dead.iter().map(|dead| named(&dead.id, &dead.finding)).collect::<Vec<_>>(),
            "warnings": set.warnings().iter().map(as_json).collect::<Vec<_>>(),
        }))?
    } else {
        let mut text: String =
            remarks.iter().map(|finding| drawn(finding, miette::Severity::Warning)).collect();
        let policies = counted(set.summaries().len(), "policy", "policies");
        let warnings = counted(remarks.len(), "warning", "warnings");
        _ = writeln!(text, "{policies}, {warnings}, bundle {}", set.hash().0);
        text
    };
    print(&text)?;
    Ok(if strict && !remarks.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn universe(config: &Config) -> Universe {
    let resources = || config.resources.iter().chain(&config.unregistered);
    let labels = resources().flat_map(|resource| &resource.labels);
    Universe {
        agents: config.identity.agents.iter().map(|agent| agent.name.0.clone()).collect(),
        resources: resources().map(|resource| resource.name.clone()).chain([RESOLVER.to_owned()]).collect(),
        labels: labels.map(|(key, value)| format!("{key}={value}")).collect(),
    }
}

fn show(bundle: &Bundle, id: Option<&str>) -> anyhow::Result<ExitCode> {
    let (dir, _) = locate(bundle)?;
    let Some(set) = load(&dir, bundle.json)? else { return Ok(ExitCode::FAILURE) };
    let mut rules = set.summaries();
    if let Some(id) = id {
        rules.retain(|rule| rule.id == id);
        if rules.is_empty() {
            print(&format!("there is no policy `{id}` in {}\n", dir.display()))?;
            return Ok(ExitCode::FAILURE);
        }
    }
    let columns = set.columns().listed();
    let text = if bundle.json {
        let columns = columns.iter().map(|(resource, column, class)| {
            json!({ "resource": resource, "column": column.to_string(), "class": class,
                    "mask": set.columns().strategy(class) })
        });
        pretty(&json!({
            "bundle": set.hash(),
            "policies": rules.iter().map(summary_json).collect::<Vec<_>>(),
            "columns": columns.collect::<Vec<_>>(),
        }))?
    } else if let (Some(_), [rule]) = (id, rules.as_slice()) {
        format!("{}:{}\n{}\n", rule.file, rule.line, rule.text)
    } else {
        let mut text = String::new();
        for rule in &rules {
            let place = format!("{}:{}", rule.file, rule.line);
            let description = rule.description.as_deref().unwrap_or_default();
            _ = writeln!(text, "{:<7} {:<36} {place:<22} {description}", kind(rule.kind), rule.id);
        }
        for (resource, column, class) in &columns {
            let mask = set.columns().strategy(class);
            _ = writeln!(text, "class   {class:<36} {resource:<22} {column} ({mask})");
        }
        text
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn test(bundle: &Bundle) -> anyhow::Result<ExitCode> {
    let (dir, _) = locate(bundle)?;
    let Some(set) = load(&dir, bundle.json)? else { return Ok(ExitCode::FAILURE) };
    let (files, untested) = case_files(&dir)?;
    let mut reports = Vec::new();
    let mut unread = Vec::new();
    for file in files {
        let path = dir.join(&file);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        match Cases::parse(&file, &text) {
            Ok(cases) => reports.push(cases.run(&set)),
            Err(error) => unread.extend(error.findings),
        }
    }
    let total: usize = reports.iter().map(|report| report.total).sum();
    let failed: usize = reports.iter().map(|report| report.failures.len()).sum();
    let text = if bundle.json {
        pretty(&json!({
            "total": total,
            "failed": failed,
            "reports": reports.iter().map(report_json).collect::<Vec<_>>(),
            "unreadable": unread.iter().map(as_json).collect::<Vec<_>>(),
            "untested": untested,
        }))?
    } else {
        results(&reports, &unread, &untested, total)
    };
    print(&text)?;
    // A bundle that nothing tests has not passed its tests.
    let good = failed == 0 && unread.is_empty() && total > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn results(reports: &[Report], unread: &[Finding], untested: &[String], total: usize) -> String {
    let mut text: String = unread.iter().map(|finding| drawn(finding, miette::Severity::Error)).collect();
    let mut failed = 0_usize;
    for report in reports {
        for failure in &report.failures {
            failed = failed.saturating_add(1);
            let (file, line) = (&report.file, failure.line);
            _ = writeln!(text, "FAILED {file}:{line}: {}", failure.name);
            _ = writeln!(text, "  expected {}\n  got      {}", failure.expected, failure.got);
        }
    }
    for file in untested {
        _ = writeln!(text, "{file} has no cases");
    }
    _ = writeln!(text, "{total} cases, {} passed, {failed} failed", total.saturating_sub(failed));
    text
}

/// The `.cases` files, and the policy files that have none.
fn case_files(dir: &Path) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let mut cases = Vec::new();
    let mut policies = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if let Some(stem) = name.strip_suffix(".cedar") {
            policies.push(stem.to_owned());
        } else if name.ends_with(".cases") {
            cases.push(name);
        }
    }
    cases.sort();
    policies.sort();
    policies.retain(|stem| !cases.contains(&format!("{stem}.cases")));
    Ok((cases, policies.into_iter().map(|stem| format!("{stem}.cedar")).collect()))
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Permit => "permit",
        Kind::Forbid => "forbid",
    }
}

fn summary_json(rule: &RuleSummary) -> Value {
    json!({
        "id": rule.id, "kind": kind(rule.kind), "file": rule.file, "line": rule.line,
        "description": rule.description, "text": rule.text,
    })
}

fn report_json(report: &Report) -> Value {
    let failures = report.failures.iter().map(|failure| {
        json!({ "name": failure.name, "line": failure.line, "expected": failure.expected, "got": failure.got })
    });
    json!({ "file": report.file, "total": report.total, "failures": failures.collect::<Vec<_>>() })
}

fn as_json(finding: &Finding) -> Value {
    json!({
        "file": finding.file, "line": finding.line, "column": finding.column,
        "message": finding.message, "help": finding.help,
    })
}

fn named(id: &str, finding: &Finding) -> Value {
    json!({ "id": id, "file": finding.file, "line": finding.line, "message": finding.message })
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn pretty(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// A remark as the terminal shows it: the line with a caret under the place.
fn drawn(finding: &Finding, severity: miette::Severity) -> String {
    if finding.line == 0 {
        return format!("{finding}\n");
    }
    // An empty span, as at the end of the file, has no caret: point at the character before it.
    let (start, length) = finding.span;
    let span = if length == 0 { (start.saturating_sub(1), 1) } else { (start, length) };
    let mut report = miette::MietteDiagnostic::new(&finding.message)
        .with_severity(severity)
        .with_label(miette::LabeledSpan::underline(span));
    if let Some(help) = &finding.help {
        report = report.with_help(help);
    }
    let theme = if std::io::stdout().is_terminal() {
        miette::GraphicalTheme::unicode()
    } else {
        miette::GraphicalTheme::unicode_nocolor()
    };
    let source = miette::NamedSource::new(&finding.file, finding.source.to_string());
    let report = miette::Report::new(report).with_source_code(source);
    let mut text = String::new();
    match miette::GraphicalReportHandler::new_themed(theme).render_report(&mut text, report.as_ref()) {
        Ok(()) => text,
        Err(std::fmt::Error) => format!("{finding}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(extra: &[&str]) -> Command {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(subcommand)]
            command: Command,
        }
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
        let (verb, rest) = extra.split_first().unwrap();
        let line = ["policy", *verb, "--dir", dir.to_str().unwrap()].into_iter().chain(rest.iter().copied());
        <Line as clap::Parser>::try_parse_from(line).unwrap().command
    }

    fn succeeds(extra: &[&str]) -> bool {
        run(shipped(extra)).unwrap() == ExitCode::SUCCESS
    }

    #[test]
    fn the_shipped_bundle_checks_and_tests_clean() {
        assert!(succeeds(&["check", "--strict"]));
        assert!(succeeds(&["check", "--json"]));
        assert!(succeeds(&["test"]));
        assert!(succeeds(&["test", "--json"]));
        assert!(succeeds(&["show"]));
        assert!(succeeds(&["show", "no-ddl-on-prod"]));
        assert!(!succeeds(&["show", "no-such-policy"]));
    }

    #[test]
    fn an_explained_denial_exits_with_failure() {
        let with = |effect, agent| {
            succeeds(&[
                "explain",
                "--agent",
                agent,
                "--resource",
                "orders-db",
                "--label",
                "env=prod",
                "--effect",
                effect,
                "--table",
                "public.orders",
                "--json",
            ])
        };
        assert!(with("select", "reporter"));
        assert!(with("update", "reporter"), "a hold is no failure");
        assert!(!with("drop", "reporter"));
        assert!(!with("select", "stranger"));
    }

    #[test]
    fn an_invalid_or_missing_bundle_fails() {
        let dir = std::env::temp_dir().join(format!("chaperone-cli-policy-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("a.cedar"), "permit (principal,").unwrap();
        std::fs::write(dir.join("columns.toml"), "").unwrap();
        let bundle = |json| Bundle { dir: Some(dir.clone()), config: None, json };
        for json in [true, false] {
            assert_eq!(check(&bundle(json), false).unwrap(), ExitCode::FAILURE);
            assert_eq!(test(&bundle(json)).unwrap(), ExitCode::FAILURE);
        }
        std::fs::write(dir.join("a.cedar"), "@id(\"a\") permit (principal, action, resource);").unwrap();
        assert_eq!(check(&bundle(false), true).unwrap(), ExitCode::SUCCESS);
        assert_eq!(test(&bundle(false)).unwrap(), ExitCode::FAILURE, "nothing was tested");
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(check(&bundle(false), false).unwrap(), ExitCode::FAILURE);
    }

    #[test]
    fn a_finding_is_drawn_with_its_line_and_a_caret() {
        let finding = Finding::at("a.cedar", &"permit (\nprincipal\n".into(), (9, 9), "odd principal".into());
        let text = drawn(&finding, miette::Severity::Error);
        assert!(text.contains('┬') || text.contains('─'), "{text}");
        assert!(text.contains("odd principal") && text.contains("a.cedar:2:1"), "{text}");
    }
}
