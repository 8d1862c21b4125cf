//! A compiled bundle: loaded, validated strictly, immutable.
//!
//! Load reports every error of every file together. Beyond Cedar's own validation it refuses templates, policies
//! without `@id`, two policies with one id, annotations that mean nothing where they stand, and words compared with
//! `context.effects` that are no effect: a misspelt forbid would never fire.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use cedar_policy::{Policy, PolicyId, PolicySet, ValidationMode, ValidationWarning};
use miette::Diagnostic;

use super::annotation::Annotations;
use super::columns::Columns;
use super::error::{Finding, PolicyError};
use super::mentions::Mentions;
use super::names;
use super::rule::{Kind, Rule, RuleSummary};
use super::schema::{Action, Vocabulary};
use super::slice::Slices;
use super::source::{Bundle, SourceFile};
use crate::model::{BundleHash, Effect, RelationName};

/// An immutable compiled bundle.
#[derive(Debug)]
pub struct Set {
    vocabulary: Vocabulary,
    files: Vec<SourceFile>,
    rules: Vec<Rule>,
    by_id: HashMap<String, usize>,
    columns: Columns,
    hash: BundleHash,
    slices: Slices,
    aliases: Aliases,
    impossible: Vec<(usize, String)>,
    warnings: Vec<Finding>,
}

/// Which other names a relation's written name may stand for, as far as the bundle distinguishes them.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// Schemas that the bundle names together with a relation.
    schemas: BTreeMap<String, BTreeSet<String>>,
    /// Schemas that the bundle compares without naming a relation.
    anywhere: BTreeSet<String>,
    /// Relations that the bundle names without a schema.
    unqualified: BTreeSet<String>,
}

impl Aliases {
    fn learn(&mut self, relation: RelationName) {
        match relation.schema {
            Some(schema) => {
                self.schemas.entry(relation.name).or_default().insert(schema);
            }
            None => {
                self.unqualified.insert(relation.name);
            }
        }
    }

    pub(super) fn of(&self, relation: &RelationName) -> Vec<RelationName> {
        let name = || relation.name.clone();
        match &relation.schema {
            None => {
                let named = self.schemas.get(&relation.name).into_iter().flatten();
                let all: BTreeSet<&String> = named.chain(&self.anywhere).collect();
                all.into_iter()
                    .map(|schema| RelationName { schema: Some(schema.clone()), name: name() })
                    .collect()
            }
            Some(_) if self.unqualified.contains(&relation.name) => {
                vec![RelationName { schema: None, name: name() }]
            }
            Some(_) => Vec::new(),
        }
    }
}

/// Ten times the bundle that decisions are measured with.
const POLICIES_MAX: usize = 10_000;

impl Set {
    /// Loads the bundle of a directory: every `*.cedar` and `columns.toml`.
    ///
    /// # Errors
    /// When anything in it is wrong; the error lists all that is.
    pub fn load(dir: &Path) -> Result<Self, PolicyError> {
        let vocabulary = Vocabulary::parse()?;
        let bundle = Bundle::read(dir)?;
        let mut findings = Vec::new();
        let mut rules = Vec::new();
        for (index, file) in bundle.policies.iter().enumerate() {
            parse_file(index, file, &mut rules, &mut findings);
        }
        if rules.len() > POLICIES_MAX {
            findings.push(Finding::whole("*.cedar", format!("more than {POLICIES_MAX} policies")));
        }
        let columns = Columns::parse(&bundle.columns).unwrap_or_else(|wrong| {
            findings.extend(wrong);
            Columns::default()
        });
        let by_id = index_ids(&rules, &bundle.policies, &mut findings);
        let aliases = aliases(&vocabulary, &rules, &columns);
        let mut set = Self {
            vocabulary,
            files: bundle.policies,
            rules,
            by_id,
            columns,
            hash: bundle.hash,
            slices: Slices::default(),
            aliases,
            impossible: Vec::new(),
            warnings: Vec::new(),
        };
        set.validate(&mut findings);
        if findings.is_empty() {
            return Ok(set);
        }
        findings.sort_by(|a, b| (&a.file, a.span, &a.message).cmp(&(&b.file, b.span, &b.message)));
        Err(PolicyError::Invalid { findings })
    }

    /// Which bundle this is.
    #[must_use]
    pub fn hash(&self) -> &BundleHash {
        &self.hash
    }

    /// Classes of sensitive columns.
    #[must_use]
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Whether any permit names unidentified principals on purpose. If not, no such principal is ever allowed.
    #[must_use]
    pub fn names_unidentified(&self) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.kind() == Kind::Permit && rule.names_unidentified(&self.vocabulary.unidentified))
    }

    /// Whether any policy speaks of the time. If not, a decision may be kept for as long as its other facts hold.
    #[must_use]
    pub fn depends_on_time(&self) -> bool {
        self.rules.iter().any(|rule| rule.mentions.has("now"))
    }

    /// Every policy, in order of file and line.
    #[must_use]
    pub fn summaries(&self) -> Vec<RuleSummary> {
        self.rules.iter().map(|rule| self.summary(rule)).collect()
    }

    /// Remarks that do not invalidate the bundle.
    #[must_use]
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    pub(super) fn summary(&self, rule: &Rule) -> RuleSummary {
        let place = self.finding(rule, String::new());
        let (start, length) = rule.span;
        let text = place.source.get(start..start.saturating_add(length)).unwrap_or_default().to_owned();
        RuleSummary {
            id: rule.id().to_owned(),
            kind: rule.kind(),
            file: place.file,
            line: place.line,
            description: rule.notes.description.clone(),
            text,
        }
    }

    pub(super) fn finding(&self, rule: &Rule, message: String) -> Finding {
        match self.files.get(rule.file) {
            Some(file) => file.finding(rule.span, message),
            None => Finding::whole("*.cedar", message),
        }
    }

    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(super) fn rule(&self, index: usize) -> Option<&Rule> {
        self.rules.get(index)
    }

    pub(super) fn index_of(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    pub(super) fn slices(&self) -> &Slices {
        &self.slices
    }

    pub(super) fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// Policies that the type checker proved unable to fire.
    pub(super) fn impossible(&self) -> &[(usize, String)] {
        &self.impossible
    }

    /// Cedar's strict validation of all policies together.
    fn validate(&mut self, findings: &mut Vec<Finding>) {
        let mut policies = PolicySet::new();
        for index in self.by_id.values() {
            if let Some(rule) = self.rules.get(*index)
                && let Err(error) = policies.add(rule.policy.clone())
            {
                findings.push(self.finding(rule, error.to_string()));
            }
        }
        let result = self.vocabulary.validator().validate(&policies, ValidationMode::Strict);
        let place = |id: &PolicyId| self.by_id.get(AsRef::<str>::as_ref(id)).copied();
        for error in result.validation_errors() {
            let rule = place(error.policy_id()).and_then(|index| self.rules.get(index));
            findings.push(
                match rule.and_then(|rule| self.files.get(rule.file).map(|file| (file, rule.span))) {
                    Some((file, fallback)) => diagnostic(file, error, fallback),
                    None => Finding::whole("*.cedar", error.to_string()),
                },
            );
        }
        let mut impossible = Vec::new();
        let mut warnings = Vec::new();
        for warning in result.validation_warnings() {
            let Some(index) = place(warning.policy_id()) else { continue };
            match warning {
                ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_) => {
                    impossible.push((index, warning.to_string()));
                }
                _ => {
                    warnings.extend(self.rules.get(index).map(|rule| self.finding(rule, warning.to_string())))
                }
            }
        }
        impossible.sort();
        impossible.dedup_by_key(|(index, _)| *index);
        self.impossible = impossible;
        self.warnings = warnings;
    }
}

fn parse_file(index: usize, file: &SourceFile, rules: &mut Vec<Rule>, findings: &mut Vec<Finding>) {
    let parsed = match file.text.parse::<PolicySet>() {
        Ok(parsed) => parsed,
        Err(errors) => {
            findings.extend(errors.iter().map(|error| diagnostic(file, error, (0, 0))));
            return;
        }
    };
    for template in parsed.templates() {
        let message = format!("`{}` is a template; templates are not used here", template.id());
        findings.push(Finding::whole(&file.name, message));
    }
    let mut policies: Vec<(&Policy, (usize, usize))> =
        parsed.policies().map(|policy| (policy, span_of(policy))).collect();
    policies.sort_by_key(|(_, span)| *span);
    for (policy, span) in policies {
        match Annotations::parse(policy.annotations()) {
            Ok(notes) => {
                let Some(mentions) = Mentions::of(policy) else {
                    findings.push(file.finding(span, "the policy cannot be read as data".to_owned()));
                    continue;
                };
                let named = policy.new_id(PolicyId::new(&notes.id));
                let rule = Rule::new(named, notes, mentions, index, span);
                findings.extend(
                    misuse(&rule)
                        .into_iter()
                        .chain(misnamed(&rule))
                        .map(|message| file.finding(span, message)),
                );
                rules.push(rule);
            }
            Err(problems) => findings.extend(problems.into_iter().map(|problem| file.finding(span, problem))),
        }
    }
}

/// Annotations and words that can have no effect where they stand.
fn misuse(rule: &Rule) -> Vec<String> {
    let mut problems = Vec::new();
    let forbids = |action| rule.kind() == Kind::Forbid && rule.actions().contains(&action);
    if !forbids(Action::RunUnattended) {
        let say = |name| format!("`@{name}` only has a meaning on a forbid of `runUnattended`");
        problems.extend(rule.notes.holds.iter().map(say));
    }
    if rule.notes.mask.is_some() && !forbids(Action::ReadClear) {
        problems.push("`@mask` only has a meaning on a forbid of `readClear`".to_owned());
    }
    let known = |word: &String| EFFECTS.iter().any(|effect| effect.as_str() == word);
    let words = EFFECTS.map(Effect::as_str).join(", ");
    for word in rule.mentions.effects.iter().filter(|word| !known(word)) {
        problems.push(format!("`{word}` is not an effect; known are {words}"));
    }
    problems
}

/// Object names that no request can have.
fn misnamed(rule: &Rule) -> Vec<String> {
    let mut problems = Vec::new();
    let forbids_reading = rule.kind() == Kind::Forbid && rule.actions().contains(&Action::ReadClear);
    for uid in rule.policy.entity_literals() {
        let id = uid.id().unescaped();
        match uid.type_name().basename() {
            "Table" => match names::table_of_id(id) {
                None => problems
                    .push(format!("`{uid}` is no table; write resource/schema.table or resource/table")),
                // A column always has a schema, so such a forbid would never mask anything.
                Some(RelationName { schema: None, .. }) if forbids_reading => {
                    problems
                        .push(format!("`{uid}` holds no column; write its schema: resource/schema.table"));
                }
                Some(_) => {}
            },
            "Column" if id.split_once('/').and_then(|(_, name)| names::column_of(name)).is_none() => {
                problems.push(format!("`{uid}` is no column; write resource/schema.table.column"));
            }
            "Label" if !id.contains('=') => {
                problems.push(format!("`{uid}` is no label; write key=value"));
            }
            _ => {}
        }
    }
    problems
}

const EFFECTS: [Effect; 18] = [
    Effect::Select,
    Effect::Insert,
    Effect::Update,
    Effect::Delete,
    Effect::Truncate,
    Effect::Create,
    Effect::Alter,
    Effect::Drop,
    Effect::Grant,
    Effect::CopyIn,
    Effect::CopyOut,
    Effect::Execute,
    Effect::Call,
    Effect::Transaction,
    Effect::Set,
    Effect::Connect,
    Effect::Resolve,
    Effect::Unknown,
];

fn index_ids(rules: &[Rule], files: &[SourceFile], findings: &mut Vec<Finding>) -> HashMap<String, usize> {
    let mut by_id: HashMap<String, usize> = HashMap::new();
    for (index, rule) in rules.iter().enumerate() {
        let first = by_id.get(rule.id()).and_then(|first| rules.get(*first));
        match (first, files.get(rule.file)) {
            (Some(first), Some(file)) => {
                let other = files.get(first.file).map_or_else(
                    || Finding::whole("*.cedar", String::new()),
                    |file| file.finding(first.span, String::new()),
                );
                let message =
                    format!("the id `{}` is already used in {} line {}", rule.id(), other.file, other.line);
                findings.push(file.finding(rule.span, message));
            }
            (Some(_) | None, _) => {
                by_id.insert(rule.id().to_owned(), index);
            }
        }
    }
    by_id
}

fn aliases(vocabulary: &Vocabulary, rules: &[Rule], columns: &Columns) -> Aliases {
    let mut aliases = Aliases::default();
    for rule in rules {
        for uid in rule.policy.entity_literals() {
            if *uid.type_name() == vocabulary.table
                && let Some(relation) = names::table_of_id(uid.id().unescaped())
            {
                aliases.learn(relation);
            }
        }
        if rule.mentions.has("tables") || rule.mentions.has("name") {
            rule.mentions
                .strings
                .iter()
                .filter_map(|text| names::relation_of(text))
                .for_each(|r| aliases.learn(r));
        }
        if rule.mentions.has("schema") {
            aliases.anywhere.extend(rule.mentions.strings.iter().cloned());
        }
    }
    for (schema, table) in columns.relations() {
        aliases.learn(RelationName { schema: Some(schema.to_owned()), name: table.to_owned() });
    }
    aliases
}

fn span_of(policy: &Policy) -> (usize, usize) {
    policy.as_ref().loc().map_or((0, 0), |loc| (loc.start(), loc.end().saturating_sub(loc.start())))
}

/// A remark from one of the engine's diagnostics: its message, first label and advice.
fn diagnostic(file: &SourceFile, error: &dyn Diagnostic, fallback: (usize, usize)) -> Finding {
    let label = error.labels().and_then(|mut labels| labels.next());
    let span = label.as_ref().map_or(fallback, |label| (label.offset(), label.len()));
    let detail =
        label.as_ref().and_then(|label| label.label()).map(|text| format!(": {text}")).unwrap_or_default();
    let finding = file.finding(span, format!("{error}{detail}"));
    match error.help() {
        Some(help) => finding.with_help(help.to_string()),
        None if finding.message.contains("in context for Action::\"readClear\"") => finding.with_help(
            "reading a column has no facts; write `action in [Action::\"run\", Action::\"runUnattended\"]`",
        ),
        None => finding,
    }
}
