//! `chaperone policy explain`: an operation, given as flags or as a recorded event, its decision and the reasons.
//!
//! An event is JSON with `agent`, `resource` and `operation` as in a `request_decided` record; `subject`, `groups`,
//! `labels`, `evidence` and `time` (milliseconds) are used when they are there, other keys are ignored. What a record
//! lacks (groups of the identity, labels of the resource) is given by flags or `--config`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Bundle, load, locate, pretty, print};
use crate::clock::Clock;
use crate::config::Config;
use crate::model::{
    AgentName, Clearance, Effect, Evidence, Identity, Operation, Principal, Protocol, Resource, Unidentified,
    UnixMillis, Verdict,
};
use crate::policy::{self, Answer, Asked, ColumnQuestion, Explanation, Question, Set};

/// What to explain.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Where the bundle is.
    #[command(flatten)]
    bundle: Bundle,
    /// File with a recorded event in JSON; `-` reads standard input.
    event: Option<PathBuf>,
    /// The agent.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// A group of its identity; may be repeated.
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// The agent has no valid token.
    #[arg(long)]
    unidentified: bool,
    /// The resource.
    #[arg(long, value_name = "NAME")]
    resource: Option<String>,
    /// A label of the resource, `env=prod`; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// An effect of the operation, `select`; may be repeated.
    #[arg(long = "effect", value_name = "WORD", value_parser = effect)]
    effects: Vec<Effect>,
    /// A relation it touches, `schema.table` or `table`; may be repeated.
    #[arg(long = "table", value_name = "NAME")]
    tables: Vec<String>,
    /// A column it mentions; may be repeated.
    #[arg(long = "column", value_name = "NAME")]
    columns: Vec<String>,
    /// A function it calls; may be repeated.
    #[arg(long = "function", value_name = "NAME")]
    functions: Vec<String>,
    /// Every update, delete and select in it has a filter.
    #[arg(long)]
    filter: bool,
    /// The largest number of rows it can return.
    #[arg(long, value_name = "COUNT")]
    rows: Option<u64>,
    /// Where it goes, if it is a connection, `address:port`.
    #[arg(long, value_name = "ADDRESS")]
    destination: Option<SocketAddr>,
    /// The name it asks the resolver for, with --resource dns and --effect resolve.
    #[arg(long, value_name = "NAME")]
    asks: Option<String>,
    /// The reasoning step it states.
    #[arg(long, value_name = "TEXT")]
    step: Option<String>,
    /// Ask about reading this column instead, `schema.table.column`.
    #[arg(long, value_name = "COLUMN")]
    read: Option<String>,
    /// Class of that column; without it, as in columns.toml.
    #[arg(long, value_name = "CLASS", requires = "read")]
    class: Option<String>,
}

/// A recorded event, as far as policy sees it.
#[derive(Debug, Default, Deserialize)]
struct Event {
    agent: Option<String>,
    subject: Option<String>,
    groups: Option<BTreeSet<String>>,
    resource: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    operation: Option<Operation>,
    evidence: Option<Evidence>,
    time: Option<UnixMillis>,
}

/// Everything that a question borrows.
struct Facts {
    principal: Principal,
    resource: Resource,
    operation: Operation,
    evidence: Evidence,
    now: UnixMillis,
}

/// A record of the log is smaller than this.
const EVENT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Runs the subcommand.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let (dir, config) = locate(&args.bundle)?;
    let Some(set) = load(&dir, args.bundle.json)? else { return Ok(ExitCode::FAILURE) };
    let event = args.event.as_ref().map(read_event).transpose()?;
    let facts = facts(args, event, config.as_ref())?;
    if let Some(column) = &args.read {
        return explain_column(args, &set, &facts, column);
    }
    let question = Question {
        principal: &facts.principal,
        resource: &facts.resource,
        operation: &facts.operation,
        evidence: &facts.evidence,
        now: facts.now,
    };
    let explanation = set.explain(&question);
    let text = if args.bundle.json { pretty(&explanation)? } else { words(&explanation) };
    print(&text)?;
    Ok(match explanation.decision.verdict {
        Verdict::Deny => ExitCode::FAILURE,
        Verdict::Allow | Verdict::Hold(_) => ExitCode::SUCCESS,
    })
}

fn explain_column(args: &ExplainArgs, set: &Set, facts: &Facts, column: &str) -> anyhow::Result<ExitCode> {
    let column = policy::column_of(column)
        .with_context(|| format!("`{column}` is not a column; write schema.table.column"))?;
    let known = set.columns().class(&facts.resource.name, &column);
    let Some(class) = args.class.as_deref().or(known) else {
        let text = format!("column `{column}` of `{}` has no class; it is not masked\n", facts.resource.name);
        let value = json!({ "column": column.to_string(), "class": Value::Null, "clear": true });
        print(&if args.bundle.json { pretty(&value)? } else { text })?;
        return Ok(ExitCode::SUCCESS);
    };
    let question =
        ColumnQuestion { principal: &facts.principal, resource: &facts.resource, column: &column, class };
    let (value, text) = match set.clearance(&question) {
        Clearance::Clear => (
            json!({ "column": column.to_string(), "class": class, "clear": true }),
            format!("clear: `{column}` ({class}) passes unchanged\n"),
        ),
        Clearance::Masked { strategy, policies } => {
            let by =
                if policies.is_empty() { "no policy permits it".to_owned() } else { policies.join(", ") };
            (
                json!({ "column": column.to_string(), "class": class, "clear": false,
                        "mask": strategy, "policies": policies }),
                format!("mask {strategy}: `{column}` ({class}); {by}\n"),
            )
        }
    };
    print(&if args.bundle.json { pretty(&value)? } else { text })?;
    Ok(ExitCode::SUCCESS)
}

fn read_event(path: &PathBuf) -> anyhow::Result<Event> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(EVENT_BYTES_MAX).read_to_string(&mut text)?;
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        file.take(EVENT_BYTES_MAX).read_to_string(&mut text)?;
    }
    serde_json::from_str(&text).with_context(|| format!("`{}` is not an event", path.display()))
}

/// Flags go before the event, the event before the configuration.
fn facts(args: &ExplainArgs, event: Option<Event>, config: Option<&Config>) -> anyhow::Result<Facts> {
    let recorded = event.is_some();
    let event = event.unwrap_or_default();
    let agent = args.agent.clone().or(event.agent).context("give --agent")?;
    let name = args.resource.clone().or(event.resource).context("give --resource")?;
    let labels: BTreeMap<String, String> = if args.labels.is_empty() {
        let configured =
            config.and_then(|config| config.resources.iter().find(|resource| resource.name == name));
        event.labels.or_else(|| configured.map(|resource| resource.labels.clone())).unwrap_or_default()
    } else {
        args.labels.iter().cloned().collect()
    };
    let groups = if args.groups.is_empty() {
        event.groups.unwrap_or_default()
    } else {
        args.groups.iter().cloned().collect()
    };
    let identity = if args.unidentified || (recorded && event.subject.is_none()) {
        Identity::Unidentified { reason: Unidentified::NoToken }
    } else {
        Identity::Verified {
            issuer: String::new(),
            subject: event.subject.unwrap_or_else(|| agent.clone()),
            groups,
            expires_at: UnixMillis(u64::MAX),
            token_sha256: String::new(),
        }
    };
    let operation = match (args.effects.is_empty(), event.operation) {
        (true, Some(operation)) => operation,
        (true, None) if args.read.is_some() => Operation::unknown(),
        (true, None) => anyhow::bail!("give at least one --effect, or an event"),
        (false, _) => operation(args)?,
    };
    let protocol = if operation.destination.is_some() { Protocol::Opaque } else { Protocol::Postgres };
    let mut evidence = event.evidence.unwrap_or_default();
    evidence.step = args.step.clone().or(evidence.step);
    Ok(Facts {
        principal: Principal { agent: AgentName(agent), identity },
        resource: policy::stand_in(name, labels, protocol),
        operation,
        evidence,
        now: event.time.unwrap_or_else(|| Clock::system().now()),
    })
}

fn operation(args: &ExplainArgs) -> anyhow::Result<Operation> {
    let mut operation = Operation {
        effects: args.effects.iter().copied().collect(),
        columns: args.columns.iter().cloned().collect(),
        functions: args.functions.iter().cloned().collect(),
        has_filter: args.filter,
        row_limit: args.rows,
        destination: args.destination,
        name: args.asks.clone(),
        ..Operation::default()
    };
    for table in &args.tables {
        let relation = policy::relation_of(table)
            .with_context(|| format!("`{table}` is not a table; write table or schema.table"))?;
        operation.relations.insert(relation);
    }
    Ok(operation)
}

fn label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "write key=value".to_owned())
}

fn effect(text: &str) -> Result<Effect, String> {
    Effect::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text))
        .map_err(|error| error.to_string())
}

fn words(explanation: &Explanation) -> String {
    let decision = &explanation.decision;
    let mut text = match &decision.verdict {
        Verdict::Allow => "allow".to_owned(),
        Verdict::Deny => "deny".to_owned(),
        Verdict::Hold(terms) => {
            let groups = terms.approvers.iter().cloned().collect::<Vec<_>>().join(" and ");
            let who = if groups.is_empty() { "any approver".to_owned() } else { groups };
            format!("hold for {who}, quorum {}, window {}s", terms.quorum, terms.window.as_secs())
        }
    };
    if decision.reasons.policies.is_empty() && decision.reasons.errors.is_empty() {
        text.push_str(": no policy permits it");
    } else if !decision.reasons.policies.is_empty() {
        // Writing to a string does not fail.
        _ = write!(text, ": {}", decision.reasons.policies.join(", "));
    }
    text.push('\n');
    for error in &decision.reasons.errors {
        _ = writeln!(text, "  error: {error}");
    }
    for asked in &explanation.asked {
        // Another name that the written one may stand for matters only when something fired.
        if !(asked.alias && asked.answer != Answer::Forbidden && asked.errors.is_empty()) {
            answer(asked, &mut text);
        }
    }
    text
}

fn answer(asked: &Asked, text: &mut String) {
    let verb = match asked.answer {
        Answer::Permitted => "permitted",
        Answer::Forbidden => "forbidden",
        Answer::NotPermitted => "not permitted",
    };
    let alias = if asked.alias { " (which the written name may stand for)" } else { "" };
    _ = writeln!(text, "{} on {}{alias}: {verb}", asked.action, asked.object);
    for policy in &asked.fired {
        _ = writeln!(text, "  by {policy}");
    }
    for near in &asked.near {
        _ = writeln!(text, "  near: {}: {}", near.policy, near.why);
    }
    for error in &asked.errors {
        _ = writeln!(text, "  error: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_event_is_read_and_a_missing_subject_means_unidentified() {
        let event: Event = serde_json::from_value(json!({
            "v": 1, "seq": 9, "time": 1000, "event": "request_decided", "agent": "reporter", "subject": null,
            "resource": "orders-db",
            "operation": { "effects": ["copy-in"], "relations": [], "columns": [], "functions": [],
                           "has_filter": false, "row_limit": null },
        }))
        .unwrap();
        let args = <Parsed as clap::Parser>::try_parse_from(["explain", "--dir", "d"]).unwrap().args;
        let facts = facts(&args, Some(event), None).unwrap();
        assert!(matches!(facts.principal.identity, Identity::Unidentified { .. }));
        assert_eq!(facts.now, UnixMillis(1000));
        assert!(facts.operation.effects.contains(&Effect::CopyIn));
    }

    #[test]
    fn an_unknown_effect_or_label_is_refused() {
        assert!(effect("copy-out").is_ok());
        assert!(effect("udpate").is_err());
        assert!(label("prod").is_err());
    }

    #[derive(Debug, clap::Parser)]
    struct Parsed {
        #[command(flatten)]
        args: ExplainArgs,
    }
}
