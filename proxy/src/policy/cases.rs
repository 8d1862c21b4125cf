//! Case files: what a bundle is expected to decide, kept beside the policies and run by `chaperone policy test`.
//!
//! Their form is described in `policies/README.md`. Unknown keys are errors, and a case that expects nothing is one too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::annotation;
use super::error::Finding;
use super::evaluate::{ColumnQuestion, Question};
use super::names;
use super::set::Set;
use crate::model::{
    AgentName, Clearance, ColumnName, Credential, Effect, Evidence, Identity, MaskStrategy, Operation,
    Principal, Protocol, Resource, Unidentified, UnixMillis, UpstreamTls, UpstreamTlsMode, Verdict,
};

/// The cases of one file.
#[derive(Debug)]
pub struct Cases {
    file: String,
    cases: Vec<Case>,
}

/// A case file that cannot be read; all its errors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct CasesError {
    /// Every error found.
    pub findings: Vec<Finding>,
}

/// How a file's cases went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The file.
    pub file: String,
    /// How many cases it has.
    pub total: usize,
    /// Those that came out otherwise.
    pub failures: Vec<Failure>,
}

/// A case that came out otherwise than expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Name of the case.
    pub name: String,
    /// Line it starts at.
    pub line: usize,
    /// What the file says.
    pub expected: String,
    /// What the bundle says.
    pub got: String,
}

#[derive(Debug)]
struct Case {
    name: String,
    line: usize,
    principal: Principal,
    resource: Resource,
    evidence: Evidence,
    now: UnixMillis,
    check: Check,
}

#[derive(Debug)]
enum Check {
    Operation { operation: Operation, expect: Expect },
    Column { column: ColumnName, class: Option<String>, expect: ExpectColumn },
}

#[derive(Debug)]
struct Expect {
    verdict: String,
    by: Option<BTreeSet<String>>,
    approvers: Option<BTreeSet<String>>,
    quorum: Option<u8>,
    window: Option<std::time::Duration>,
}

#[derive(Debug)]
struct ExpectColumn {
    clear: bool,
    mask: Option<MaskStrategy>,
    by: Option<BTreeSet<String>>,
}

/// Keys of `[[case]]` and, those that describe the asker, of `[defaults]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Option<String>,
    agent: Option<String>,
    groups: Option<BTreeSet<String>>,
    identified: Option<bool>,
    resource: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    effects: Option<BTreeSet<Effect>>,
    tables: Option<Vec<String>>,
    columns: Option<BTreeSet<String>>,
    functions: Option<BTreeSet<String>>,
    filter: Option<bool>,
    rows: Option<u64>,
    destination: Option<SocketAddr>,
    /// The name asked of the resolver.
    asks: Option<String>,
    step: Option<String>,
    hour: Option<u8>,
    weekday: Option<u8>,
    exe: Option<String>,
    exe_sha256: Option<String>,
    unit: Option<String>,
    uid: Option<u32>,
    cgroup: Option<String>,
    read: Option<String>,
    class: Option<String>,
    expect: Option<String>,
    by: Option<BTreeSet<String>>,
    approvers: Option<BTreeSet<String>>,
    quorum: Option<u8>,
    window: Option<String>,
    mask: Option<MaskStrategy>,
}

/// A case file is read by people; a generated one of this size is a mistake.
const CASES_MAX: usize = 10_000;

impl Cases {
    /// Reads a case file.
    ///
    /// # Errors
    /// When anything in it is wrong; the error lists all that is.
    pub fn parse(file: &str, text: &str) -> Result<Self, CasesError> {
        let source: Arc<str> = Arc::from(text);
        let at = |span: std::ops::Range<usize>, message: String| {
            Finding::at(file, &source, (span.start, span.end.saturating_sub(span.start)), message)
        };
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut findings: Vec<Finding> =
            errors.iter().map(|error| at(error.span().unwrap_or(0..0), error.message().to_owned())).collect();
        let mut defaults = Raw::default();
        let mut raws: Vec<(Raw, std::ops::Range<usize>)> = Vec::new();
        for (key, value) in root.into_inner() {
            let span = value.span();
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("defaults", DeValue::Table(_)) => match raw(value.clone()) {
                    Ok(raw) => defaults = raw,
                    Err(error) => findings.push(at(error.span().unwrap_or(span), error.message().to_owned())),
                },
                ("case", DeValue::Array(entries)) => {
                    for entry in entries.iter().take(CASES_MAX) {
                        match raw(entry.clone()) {
                            Ok(raw) => raws.push((raw, entry.span())),
                            Err(error) => {
                                let span = error.span().unwrap_or_else(|| entry.span());
                                findings.push(at(span, error.message().to_owned()));
                            }
                        }
                    }
                    if entries.len() > CASES_MAX {
                        findings.push(Finding::whole(file, format!("more than {CASES_MAX} cases")));
                    }
                }
                (other, _) => findings.push(at(key.span(), format!("unknown key `{other}`"))),
            }
        }
        let mut cases = Vec::new();
        for (raw, span) in raws {
            let place = at(span.clone(), String::new());
            match build(raw, &defaults, place.line) {
                Ok(case) => cases.push(case),
                Err(message) => findings.push(at(span, message)),
            }
        }
        if findings.is_empty() && cases.is_empty() {
            findings.push(Finding::whole(file, "there is no case in the file".to_owned()));
        }
        findings.sort_by_key(|finding| finding.span);
        if findings.is_empty() {
            Ok(Self { file: file.to_owned(), cases })
        } else {
            Err(CasesError { findings })
        }
    }

    /// Asks the bundle every case.
    #[must_use]
    pub fn run(&self, set: &Set) -> Report {
        Report {
            file: self.file.clone(),
            total: self.cases.len(),
            failures: self.cases.iter().filter_map(|case| case.run(set)).collect(),
        }
    }
}

fn raw(value: Spanned<DeValue<'_>>) -> Result<Raw, toml::de::Error> {
    Raw::deserialize(ValueDeserializer::from(value))
}

fn build(raw: Raw, defaults: &Raw, line: usize) -> Result<Case, String> {
    let name = raw.name.clone().ok_or("the case has no `name`")?;
    let expect = raw.expect.clone().ok_or("the case has no `expect`")?;
    let check = match &raw.read {
        Some(column) => column_check(&raw, column, &expect)?,
        None => operation_check(&raw, &expect)?,
    };
    let identified = raw.identified.or(defaults.identified).unwrap_or(true);
    let groups = raw.groups.or_else(|| defaults.groups.clone()).unwrap_or_default();
    let identity = if identified {
        Identity::Verified {
            issuer: "https://idp.example".to_owned(),
            subject: name.clone(),
            groups,
            expires_at: UnixMillis(u64::MAX),
            token_sha256: String::new(),
        }
    } else {
        Identity::Unidentified { reason: Unidentified::NoToken }
    };
    let or = |own: Option<String>, default: &Option<String>| own.or_else(|| default.clone());
    let agent = or(raw.agent, &defaults.agent).ok_or("neither the case nor `[defaults]` has an `agent`")?;
    let resource =
        or(raw.resource, &defaults.resource).ok_or("neither the case nor `[defaults]` has a `resource`")?;
    let protocol = if raw.destination.is_some() { Protocol::Opaque } else { Protocol::Postgres };
    let labels = raw.labels.or_else(|| defaults.labels.clone()).unwrap_or_default();
    Ok(Case {
        name,
        line,
        principal: Principal { agent: AgentName(agent), identity },
        resource: stand_in(resource, labels, protocol),
        evidence: Evidence {
            exe: or(raw.exe, &defaults.exe).unwrap_or_default(),
            exe_sha256: or(raw.exe_sha256, &defaults.exe_sha256).unwrap_or_default(),
            unit: or(raw.unit, &defaults.unit),
            uid: raw.uid.or(defaults.uid).unwrap_or(0),
            cgroup: or(raw.cgroup, &defaults.cgroup).unwrap_or_default(),
            step: or(raw.step, &defaults.step),
            ..Evidence::default()
        },
        now: moment(raw.hour.or(defaults.hour), raw.weekday.or(defaults.weekday))?,
        check,
    })
}

fn operation_check(raw: &Raw, expect: &str) -> Result<Check, String> {
    if !matches!(expect, "allow" | "hold" | "deny") {
        return Err(format!("`{expect}` is not a decision; write allow, hold or deny"));
    }
    let tables = raw.tables.iter().flatten().map(|table| {
        names::relation_of(table)
            .ok_or_else(|| format!("`{table}` is not a table; write table or schema.table"))
    });
    Ok(Check::Operation {
        operation: Operation {
            effects: raw.effects.clone().ok_or("the case has neither `effects` nor `read`")?,
            relations: tables.collect::<Result<_, _>>()?,
            columns: raw.columns.clone().unwrap_or_default(),
            functions: raw.functions.clone().unwrap_or_default(),
            has_filter: raw.filter.unwrap_or(false),
            row_limit: raw.rows,
            destination: raw.destination,
            name: raw.asks.clone(),
        },
        expect: Expect {
            verdict: expect.to_owned(),
            by: raw.by.clone(),
            approvers: raw.approvers.clone(),
            quorum: raw.quorum,
            window: raw.window.as_deref().map(annotation::window).transpose()?,
        },
    })
}

fn column_check(raw: &Raw, column: &str, expect: &str) -> Result<Check, String> {
    let clear = match expect {
        "clear" => true,
        "mask" => false,
        other => return Err(format!("`{other}` is not an answer about a column; write clear or mask")),
    };
    let column = names::column_of(column)
        .ok_or_else(|| format!("`{column}` is not a column; write schema.table.column"))?;
    Ok(Check::Column {
        column,
        class: raw.class.clone(),
        expect: ExpectColumn { clear, mask: raw.mask, by: raw.by.clone() },
    })
}

/// A moment in January 1970, whose 5th was a Monday, with the given hour and weekday.
fn moment(hour: Option<u8>, weekday: Option<u8>) -> Result<UnixMillis, String> {
    let (hour, weekday) = (hour.unwrap_or(12), weekday.unwrap_or(1));
    if hour > 23 || !(1..=7).contains(&weekday) {
        return Err("`hour` is 0 to 23 and `weekday` is 1 (Monday) to 7".to_owned());
    }
    let days = u64::from(weekday).saturating_add(3);
    let seconds = days.saturating_mul(86_400).saturating_add(u64::from(hour).saturating_mul(3600));
    Ok(UnixMillis(seconds.saturating_mul(1000)))
}

/// A resource as far as policy sees it: a name, labels and a protocol, without addresses or credential.
#[must_use]
pub fn stand_in(name: String, labels: BTreeMap<String, String>, protocol: Protocol) -> Resource {
    Resource {
        name,
        protocol,
        addresses: Vec::new(),
        labels,
        credential: Credential::none(),
        tls: UpstreamTls { mode: UpstreamTlsMode::VerifyFull, ca_file: None, server_name: None },
        hold: std::time::Duration::ZERO,
        agent_scram: false,
        sync_reads: false,
        idle: std::time::Duration::ZERO,
    }
}

impl Case {
    fn run(&self, set: &Set) -> Option<Failure> {
        let (expected, got) = match &self.check {
            Check::Operation { operation, expect } => self.run_operation(set, operation, expect),
            Check::Column { column, class, expect } => self.run_column(set, column, class.as_deref(), expect),
        };
        (expected != got).then(|| Failure { name: self.name.clone(), line: self.line, expected, got })
    }

    /// Both sides in words, with only those parts that the case speaks of.
    fn run_operation(&self, set: &Set, operation: &Operation, expect: &Expect) -> (String, String) {
        let decision = set.decide(&Question {
            principal: &self.principal,
            resource: &self.resource,
            operation,
            evidence: &self.evidence,
            now: self.now,
        });
        let mut expected = vec![expect.verdict.clone()];
        let mut got = vec![
            match &decision.verdict {
                Verdict::Allow => "allow",
                Verdict::Hold(_) => "hold",
                Verdict::Deny => "deny",
            }
            .to_owned(),
        ];
        let terms = match &decision.verdict {
            Verdict::Hold(terms) => Some(terms),
            Verdict::Allow | Verdict::Deny => None,
        };
        let mut compare = |label: &str, wanted: Option<String>, actual: Option<String>| {
            if let Some(wanted) = wanted {
                expected.push(format!("{label} {wanted}"));
                got.push(format!("{label} {}", actual.unwrap_or_else(|| "none".to_owned())));
            }
        };
        compare(
            "approvers",
            expect.approvers.as_ref().map(listed),
            terms.map(|terms| listed(&terms.approvers)),
        );
        compare("quorum", expect.quorum.map(|q| q.to_string()), terms.map(|terms| terms.quorum.to_string()));
        compare(
            "window",
            expect.window.map(|window| format!("{}s", window.as_secs())),
            terms.map(|terms| format!("{}s", terms.window.as_secs())),
        );
        let policies = decision.reasons.policies.iter().cloned().collect();
        compare("by", expect.by.as_ref().map(listed), Some(listed(&policies)));
        if expected != got && !decision.reasons.errors.is_empty() {
            got.push(format!("errors {}", decision.reasons.errors.join("; ")));
        }
        (expected.join(", "), got.join(", "))
    }

    fn run_column(
        &self,
        set: &Set,
        column: &ColumnName,
        class: Option<&str>,
        expect: &ExpectColumn,
    ) -> (String, String) {
        let expected = if expect.clear { "clear" } else { "mask" }.to_owned();
        let Some(class) = class.or_else(|| set.columns().class(&self.resource.name, column)) else {
            return (expected, format!("column `{column}` has no class in columns.toml"));
        };
        let question = ColumnQuestion { principal: &self.principal, resource: &self.resource, column, class };
        match set.clearance(&question) {
            Clearance::Clear => (expected, "clear".to_owned()),
            Clearance::Masked { strategy, policies } => {
                let (mut expected, mut got) = (vec![expected], vec!["mask".to_owned()]);
                if let Some(mask) = expect.mask {
                    expected.push(mask.to_string());
                    got.push(strategy.to_string());
                }
                if let Some(by) = &expect.by {
                    expected.push(format!("by {}", listed(by)));
                    got.push(format!("by {}", listed(&policies.into_iter().collect())));
                }
                (expected.join(", "), got.join(", "))
            }
        }
    }
}

fn listed(items: &BTreeSet<String>) -> String {
    if items.is_empty() { "none".to_owned() } else { items.iter().cloned().collect::<Vec<_>>().join("+") }
}
