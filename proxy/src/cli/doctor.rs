//! `chaperone doctor`: what is wrong, and the fix.
//!
//! Every finding is one line with what was seen and what to do. Ends with 1 if anything is wrong. A note is no fault: it says
//! what stays open here, by the kernel's or the launcher's choice, and how to close it.

mod agents;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::{ConfigFile, needs_root, print_json};
use crate::causes::in_one_line;
use crate::config::{Config, ConfigError};
use crate::control::{Answer, Call, Client, FeatureState};
use crate::intercept::{self, InterceptError, ProgramStatus};

/// Options of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    good: bool,
    seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    fn good(check: &'static str, seen: impl Into<String>) -> Self {
        Self { check, good: true, seen: seen.into(), fix: None }
    }

    /// Not wrong, but open.
    fn note(check: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, good: true, seen: seen.into(), fix: Some(fix.into()) }
    }

    fn word(&self) -> &'static str {
        match (self.good, &self.fix) {
            (true, None) => "good",
            (true, Some(_)) => "note",
            (false, _) => "BAD",
        }
    }

    fn bad(check: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, good: false, seen: seen.into(), fix: Some(fix.into()) }
    }
}

/// Looks at everything.
///
/// # Errors
/// When the findings cannot be printed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let findings = match args.file.load() {
        Ok(config) => examine(&config),
        Err(error) => vec![unusable(&error)],
    };
    if args.json {
        print_json(&findings)?;
    } else {
        for finding in &findings {
            println!("{:<5} {:<14} {}", finding.word(), finding.check, finding.seen);
            if let Some(fix) = &finding.fix {
                println!("      {:<14} fix: {fix}", "");
            }
        }
    }
    let bad = findings.iter().any(|finding| !finding.good);
    Ok(ExitCode::from(u8::from(bad)))
}

fn unusable(error: &anyhow::Error) -> Finding {
    let fix = match error.downcast_ref::<ConfigError>() {
        Some(ConfigError::Read { .. }) => {
            "write it, beginning with `packaging/chaperone.toml`, or name another with `--config`"
        }
        Some(ConfigError::Invalid { .. }) | None => "mend the lines named",
    };
    Finding::bad("configuration", in_one_line(error.as_ref()), fix)
}

fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::good("configuration", "is good")];
    findings.push(match crate::policy::Set::load(&config.policy.dir) {
        Ok(bundle) => Finding::good("policy", format!("bundle {}", bundle.hash().0)),
        Err(error) => Finding::bad("policy", error.to_string(), "run `chaperone policy check`"),
    });
    findings.push(kernel());
    findings.push(Finding::good("jail", crate::jail::outsiders()));
    let settings = &config.intercept;
    let opened = intercept::Tree::find().and_then(|tree| tree.open(&settings.parent));
    let programs = opened.and_then(|parent| intercept::effective(settings, &parent));
    findings.extend(guard(&programs));
    findings.extend(uplinks(config));
    findings.extend(daemon(config));
    findings.extend(credentials(config));
    // Programs on security hooks take the point out of some of an agent's rights.
    let secured = programs.is_ok_and(|programs| intercept::secured(&programs));
    findings.extend(agents::findings(&settings.parent, secured));
    findings
}

fn kernel() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        Finding::good("kernel", "has BTF")
    } else {
        Finding::bad(
            "kernel",
            "has no BTF at /sys/kernel/btf/vmlinux",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF",
        )
    }
}

/// What the kernel says of the guard, asked without the daemon.
fn guard(found: &Result<Vec<ProgramStatus>, InterceptError>) -> Vec<Finding> {
    let programs = match found {
        Ok(programs) => programs,
        Err(error) => {
            let fix = match error {
                InterceptError::NoCgroup2 => "mount it; systemd does so where it uses the unified hierarchy",
                error if needs_root(error) => "run this as root",
                _ => "start `chaperone daemon` as root; it installs the guard",
            };
            return vec![Finding::bad("guard", in_one_line(error), fix)];
        }
    };
    let missing: Vec<String> = programs
        .iter()
        .filter(|program| !program.effective)
        .map(|program| format!("{} ({})", program.name, program.detail))
        .collect();
    if missing.is_empty() {
        vec![Finding::good(
            "guard",
            format!("all {} programs at the agents' cgroup are effective", programs.len()),
        )]
    } else {
        let seen = format!("not effective: {}", missing.join(", "));
        vec![Finding::bad(
            "guard",
            seen,
            "restart `chaperone daemon`; if it persists, another program holds the hook",
        )]
    }
}

/// Agents that could send past the guard, by rights that whoever started them gave them.
fn uplinks(config: &Config) -> Vec<Finding> {
    let found = intercept::uplinks(&config.intercept).unwrap_or_default();
    let told = |one: intercept::Uplink| {
        let intercept::Uplink { account, pid, rights, devices } = one;
        let seen = format!(
            "`{account}`: process {pid} may have {rights} over {}; what it sends that way is unseen",
            devices.join(", ")
        );
        let fix = "start it without these capabilities, or give its container no network (`--network none`)";
        Finding::bad("uplink", seen, fix)
    };
    found.into_iter().map(told).collect()
}

fn daemon(config: &Config) -> Vec<Finding> {
    let answer = Client::connect(&config.runtime_dir).and_then(|mut client| client.call(&Call::Status));
    let report = match answer {
        Ok(Answer::Status(report)) => report,
        Ok(Answer::Refused { why }) => return vec![Finding::bad("daemon", why, "run this as root")],
        Ok(_) => {
            return vec![Finding::bad("daemon", "answers something else", "restart it: its version differs")];
        }
        Err(error) => {
            let fix = "start it: `systemctl start chaperone`, or `chaperone daemon`; until then agents reach nothing";
            return vec![Finding::bad("daemon", error.to_string(), fix)];
        }
    };
    let mut findings =
        vec![Finding::good("daemon", format!("version {}, process {}", report.version, report.pid))];
    findings.push(match report.record {
        None => Finding::good("record", "takes events"),
        Some(trouble) => {
            Finding::bad("record", trouble, "make room or mend the disk; it opens again by itself")
        }
    });
    if report.kernel_untold > 0 {
        findings.push(Finding::note(
            "denials",
            format!("{} were made and counted, but could not be told one by one", report.kernel_untold),
            "`chaperone audit verify --kernel` shows each agent's number; `chaperone quarantine` stops one that floods",
        ));
    }
    findings.extend(features(&report.features));
    for agent in report.agents {
        let name = agent.name;
        findings.push(match (agent.subject, agent.problem) {
            (Some(subject), None) => {
                Finding::good("identity", format!("{name} is {}", super::shown(&subject)))
            }
            (_, problem) => {
                let seen = format!("{name}: {}", problem.unwrap_or_else(|| "unidentified".to_owned()));
                let has_source =
                    config.identity.agents.iter().any(|agent| agent.name.0 == name && agent.source.is_some());
                let fix = if has_source {
                    "put a fresh token into its `token_file`; its issuer must answer from here"
                } else {
                    "add `identity` to this agent in the configuration and restart the daemon"
                };
                Finding::bad("identity", seen, fix)
            }
        });
    }
    findings
}

/// What the kernel refused, each purpose once.
fn features(features: &[FeatureState]) -> Vec<Finding> {
    let refused: BTreeMap<&str, (&str, &str)> = features
        .iter()
        .filter_map(|one| Some((one.purpose.as_str(), (one.name.as_str(), one.refused.as_deref()?))))
        .collect();
    if refused.is_empty() {
        return vec![Finding::good(
            "features",
            format!("all {} optional kernel features are in effect", features.len()),
        )];
    }
    let told =
        |(purpose, (name, why))| Finding::note("features", format!("nothing {purpose}: {why}"), fix(name));
    refused.into_iter().map(told).collect()
}

/// What to do where a feature is missing.
fn fix(feature: &str) -> &'static str {
    match feature {
        "security_hooks" => {
            "boot a kernel from 6.1 on with `bpf` among its security modules (`lsm=...,bpf`), or start agents with `chaperone run`"
        }
        _ => {
            "use a kernel that takes it, or close it by the launcher: `chaperone run`, or a unit's `InaccessiblePaths=`"
        }
    }
}

fn credentials(config: &Config) -> Vec<Finding> {
    let files = config.resources.iter().filter_map(|resource| {
        resource.credential.password_file.as_ref().map(|file| (resource.name.as_str(), file))
    });
    files
        .map(|(name, file)| match std::fs::File::open(file) {
            Ok(_) => Finding::good("credential", format!("{name}: can be read")),
            Err(error) => {
                let seen = format!("{name}: `{}` cannot be read: {error}", file.display());
                let fix = if needs_root(&error) {
                    "run this as root"
                } else {
                    "put the password there, owned by root, mode 0600"
                };
                Finding::bad("credential", seen, fix)
            }
        })
        .collect()
}
