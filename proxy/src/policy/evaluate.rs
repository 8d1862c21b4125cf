//! Asks Cedar and combines its answers into one verdict.
//!
//! Refuses to guess: an error of the engine, a fact that a policy needs and nobody has, or an identity past its time
//! makes the verdict a denial, and a column masked. Pure: equal questions to one bundle have equal answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::{Authorizer, Context, EntityUid, Request, RestrictedExpression};

use super::annotation::strictest;
use super::names;
use super::rule::Rule;
use super::schema::Action;
use super::set::Set;
use super::slice::{self, Object, Slice};
use crate::model::{
    Clearance, ColumnName, Decision, Evidence, HoldTerms, Identity, MaskStrategy, Operation, Principal,
    RESOLVER, Reasons, RelationName, Resource, UnixMillis, Verdict,
};

/// May this request go on?
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// Where it goes.
    pub resource: &'a Resource,
    /// What it does.
    pub operation: &'a Operation,
    /// The process it comes from.
    pub evidence: &'a Evidence,
    /// When.
    pub now: UnixMillis,
}

/// May this column be read as it is?
#[derive(Debug, Clone, Copy)]
pub struct ColumnQuestion<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// Where the column is.
    pub resource: &'a Resource,
    /// The column.
    pub column: &'a ColumnName,
    /// Its class.
    pub class: &'a str,
}

/// One answer of the engine about one object.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) action: Action,
    pub(super) slice: Arc<Slice>,
    /// Asked about another name that the written one may stand for; only its forbids count.
    pub(super) alias: bool,
    pub(super) allowed: bool,
    /// Rules that decided: permits when allowed, else forbids; empty when nothing permits.
    pub(super) fired: Vec<usize>,
    /// A permit fired, but none names unidentified principals on purpose.
    pub(super) unnamed: bool,
    pub(super) errors: Vec<String>,
}

/// No statement of a person or a driver names more; each costs two questions.
const RELATIONS_MAX: usize = 1000;

impl Set {
    /// Decides a request.
    ///
    /// `run` and `runUnattended` are asked for every relation of the operation, and once for the resource when it
    /// touches none; the strictest answer holds. A forbid of `run` denies. A forbid of `runUnattended` holds, with
    /// the terms of all forbids that fired put together. A question that no policy permits denies, also when it is
    /// `runUnattended`: nobody decided to hold.
    ///
    /// A permit must fit the name as the request wrote it. A forbid also fires for any name that it may stand for:
    /// unqualified `orders` is asked as `s.orders` for each schema `s` that the bundle names together with `orders`
    /// or compares schemas with, and `s.orders` is asked as `orders` if the bundle speaks of that.
    ///
    /// An unidentified principal is allowed only by a permit whose scope names `Unidentified` on purpose, and a question to
    /// the resolver only by one whose scope names `Resource::"dns"`.
    #[must_use]
    pub fn decide(&self, question: &Question<'_>) -> Decision {
        match self.answers(question) {
            Ok(answers) => self.combine(&answers),
            Err(error) => self.refuse(vec![error]),
        }
    }

    /// Decides whether a column passes unchanged, and how it is masked if not.
    ///
    /// The strategy is the strictest over the forbids that fired, each with its `@mask` or else its class's default;
    /// without any, the class's default.
    #[must_use]
    pub fn clearance(&self, question: &ColumnQuestion<'_>) -> Clearance {
        let default = self.columns().strategy(question.class);
        let object = Object::Column { column: question.column, class: question.class };
        let answered = self
            .slice(question.principal, Action::ReadClear, question.resource, object)
            .and_then(|slice| self.ask(question.principal, Action::ReadClear, slice, Context::empty()));
        let Ok(answered) = answered else {
            return Clearance::Masked { strategy: MaskStrategy::Redact, policies: Vec::new() };
        };
        if answered.allowed && answered.errors.is_empty() {
            return Clearance::Clear;
        }
        let forbids: Vec<&Rule> = if answered.allowed { Vec::new() } else { self.fired(&answered).collect() };
        let errored = if answered.errors.is_empty() { None } else { Some(MaskStrategy::Redact) };
        let strategy = forbids
            .iter()
            .map(|rule| rule.notes.mask.unwrap_or(default))
            .chain(errored)
            .max_by_key(|strategy| strictness(*strategy))
            .unwrap_or(default);
        Clearance::Masked { strategy, policies: ids(forbids.into_iter()) }
    }

    /// Everything the engine says about a request.
    pub(super) fn answers(&self, question: &Question<'_>) -> Result<Vec<Answered>, String> {
        let Question { principal, resource, operation, .. } = *question;
        if let Identity::Verified { expires_at, .. } = &principal.identity
            && *expires_at <= question.now
        {
            return Err("the identity has expired".to_owned());
        }
        if operation.effects.is_empty() {
            return Err("the operation has no effect that policy could judge".to_owned());
        }
        if operation.relations.len() > RELATIONS_MAX {
            return Err(format!("the operation touches more than {RELATIONS_MAX} relations"));
        }
        let written = facts(question, &BTreeSet::new())?;
        let mut answers = Vec::new();
        let mut ask = |action, object, context: &Context, alias| -> Result<(), String> {
            let slice = self.slice(principal, action, resource, object)?;
            let missing = self.missing_facts(&slice, question.evidence);
            let mut answered = self.ask(principal, action, slice, context.clone())?;
            answered.alias = alias;
            answered.errors.extend(missing);
            answers.push(answered);
            Ok(())
        };
        for action in [Action::Run, Action::RunUnattended] {
            if operation.relations.is_empty() {
                ask(action, Object::Resource, &written, false)?;
            }
            for relation in &operation.relations {
                ask(action, Object::Table(relation), &written, false)?;
            }
        }
        let aliases: BTreeSet<RelationName> =
            operation.relations.iter().flat_map(|relation| self.aliases().of(relation)).collect();
        if !aliases.is_empty() {
            let widened = facts(question, &aliases)?;
            for action in [Action::Run, Action::RunUnattended] {
                for relation in aliases.iter().chain(&operation.relations) {
                    ask(action, Object::Table(relation), &widened, true)?;
                }
            }
        }
        Ok(answers)
    }

    /// The verdict over all answers.
    pub(super) fn combine(&self, answers: &[Answered]) -> Decision {
        let errors: Vec<String> = answers
            .iter()
            .flat_map(|answer| answer.errors.iter().cloned())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let refused =
            |action: Action| answers.iter().filter(move |answer| answer.action == action && !answer.allowed);
        let denied = ids(refused(Action::Run).flat_map(|answer| self.fired(answer)));
        let absent = answers.iter().any(|answer| !answer.alias && !answer.allowed && answer.fired.is_empty());
        if !errors.is_empty() || !denied.is_empty() || absent {
            return self.decision(Verdict::Deny, Reasons { policies: denied, errors });
        }
        let holding: Vec<&Rule> =
            refused(Action::RunUnattended).flat_map(|answer| self.fired(answer)).collect();
        let terms = holding.iter().fold(None, |terms: Option<HoldTerms>, rule| {
            Some(match terms {
                Some(terms) => strictest(terms, &rule.notes.terms),
                None => rule.notes.terms.clone(),
            })
        });
        let (verdict, policies) = match terms {
            Some(terms) => (Verdict::Hold(terms), ids(holding.into_iter())),
            None if answers.is_empty() => (Verdict::Deny, Vec::new()),
            None => {
                let permits =
                    answers.iter().filter(|answer| !answer.alias).flat_map(|answer| self.fired(answer));
                (Verdict::Allow, ids(permits))
            }
        };
        self.decision(verdict, Reasons { policies, errors })
    }

    pub(super) fn refuse(&self, errors: Vec<String>) -> Decision {
        self.decision(Verdict::Deny, Reasons { policies: Vec::new(), errors })
    }

    fn decision(&self, verdict: Verdict, reasons: Reasons) -> Decision {
        Decision { verdict, reasons, bundle: self.hash().clone() }
    }

    fn fired<'a>(&'a self, answered: &'a Answered) -> impl Iterator<Item = &'a Rule> {
        answered.fired.iter().filter_map(|index| self.rule(*index))
    }

    fn slice(
        &self,
        principal: &Principal,
        action: Action,
        resource: &Resource,
        object: Object<'_>,
    ) -> Result<Arc<Slice>, String> {
        let key = slice::key(principal, action, resource, object);
        if let Some(slice) = self.slices().get(&key) {
            return Ok(slice);
        }
        let built = slice::build(self.vocabulary(), self.rules(), principal, action, (resource, object))?;
        let slice = Arc::new(built);
        self.slices().put(key, Arc::clone(&slice));
        Ok(slice)
    }

    fn ask(
        &self,
        principal: &Principal,
        action: Action,
        slice: Arc<Slice>,
        context: Context,
    ) -> Result<Answered, String> {
        let vocabulary = self.vocabulary();
        let request = Request::new(
            slice.principal.clone(),
            vocabulary.action(action),
            slice.resource.clone(),
            context,
            Some(&vocabulary.schema),
        )
        .map_err(|error| format!("the question does not fit the schema: {error}"))?;
        let response = Authorizer::new().is_authorized(&request, &slice.policies, &slice.entities);
        let errors = response.diagnostics().errors().map(ToString::to_string).collect();
        let mut fired: Vec<usize> =
            response.diagnostics().reason().filter_map(|id| self.index_of(id.as_ref())).collect();
        fired.sort_unstable();
        let mut allowed = response.decision() == cedar_policy::Decision::Allow;
        let unidentified = matches!(principal.identity, Identity::Unidentified { .. });
        let unnamed = allowed && unidentified && !fired.iter().any(|index| self.is_on_purpose(*index));
        // "Everything" was written about databases; a name goes out to the world.
        let whole = allowed
            && self.is_resolver(&slice.resource)
            && !fired.iter().any(|index| self.means_names(*index));
        if unnamed || whole {
            allowed = false;
            fired.clear();
        }
        Ok(Answered { action, slice, alias: false, allowed, fired, unnamed, errors })
    }

    fn is_resolver(&self, resource: &EntityUid) -> bool {
        resource.id().unescaped() == RESOLVER && resource.type_name() == &self.vocabulary().resource
    }

    fn means_names(&self, index: usize) -> bool {
        self.rule(index).is_some_and(|rule| rule.names_resource(|uid| self.is_resolver(uid)))
    }

    fn is_on_purpose(&self, index: usize) -> bool {
        self.rule(index).is_some_and(|rule| rule.names_unidentified(&self.vocabulary().unidentified))
    }

    /// Facts that a policy in scope speaks of and the kernel could not give.
    fn missing_facts(&self, slice: &Slice, evidence: &Evidence) -> Vec<String> {
        let facts =
            [("exe", &evidence.exe), ("exeSha256", &evidence.exe_sha256), ("cgroup", &evidence.cgroup)];
        let needed = |fact: &str| {
            slice.rules.iter().filter_map(|index| self.rule(*index)).any(|rule| rule.mentions.has(fact))
        };
        facts
            .into_iter()
            .filter(|(fact, value)| value.is_empty() && needed(fact))
            .map(|(fact, _)| format!("the fact `evidence.{fact}` is missing"))
            .collect()
    }
}

/// Sorted ids without repetition.
fn ids<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<String> {
    rules.map(Rule::id).collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect()
}

/// Higher tells less about the value.
fn strictness(strategy: MaskStrategy) -> (u8, u8) {
    match strategy {
        MaskStrategy::Redact => (4, 0),
        MaskStrategy::Null => (3, 0),
        MaskStrategy::Hash => (2, 0),
        MaskStrategy::Token => (1, 0),
        MaskStrategy::KeepLast(shown) => (0, u8::MAX.saturating_sub(shown)),
    }
}

/// The context of `run` and `runUnattended`, with further names that the written relations may stand for.
fn facts(question: &Question<'_>, aliases: &BTreeSet<RelationName>) -> Result<Context, String> {
    let Question { operation, evidence, now, .. } = *question;
    let tables = operation.relations.iter().chain(aliases).map(names::relation);
    let mut facts = vec![
        ("effects", set(operation.effects.iter().map(|effect| effect.as_str().to_owned()))),
        ("tables", set(tables)),
        ("columns", set(operation.columns.iter().cloned())),
        ("functions", set(operation.functions.iter().cloned())),
        ("hasFilter", RestrictedExpression::new_bool(operation.has_filter)),
        ("now", time(now)?),
        ("evidence", process(evidence)?),
    ];
    if let Some(limit) = operation.row_limit {
        facts.push(("rowLimit", RestrictedExpression::new_long(i64::try_from(limit).unwrap_or(i64::MAX))));
    }
    if let Some(destination) = operation.destination {
        let address = destination.ip().to_canonical().to_string();
        facts.push(("destination", RestrictedExpression::new_ip(address)));
        facts.push(("port", RestrictedExpression::new_long(i64::from(destination.port()))));
    }
    if let Some(name) = &operation.name {
        facts.push(("name", text(name)));
    }
    if let Some(step) = &evidence.step {
        facts.push(("step", text(step)));
    }
    Context::from_pairs(facts.into_iter().map(|(name, value)| (name.to_owned(), value)))
        .map_err(|error| error.to_string())
}

fn process(evidence: &Evidence) -> Result<RestrictedExpression, String> {
    let mut fields = vec![
        ("exe".to_owned(), text(&evidence.exe)),
        ("exeSha256".to_owned(), text(&evidence.exe_sha256)),
        ("uid".to_owned(), RestrictedExpression::new_long(i64::from(evidence.uid))),
        ("cgroup".to_owned(), text(&evidence.cgroup)),
    ];
    if let Some(unit) = &evidence.unit {
        fields.push(("unit".to_owned(), text(unit)));
    }
    RestrictedExpression::new_record(fields).map_err(|error| error.to_string())
}

const DAY_SECONDS: u64 = 24 * 60 * 60;
/// 1 January 1970 was a Thursday: the fourth day, counted from Monday.
const EPOCH_WEEKDAY: u64 = 3;

fn time(now: UnixMillis) -> Result<RestrictedExpression, String> {
    let seconds = now.0 / 1000;
    let long = |value: u64| RestrictedExpression::new_long(i64::try_from(value).unwrap_or(i64::MAX));
    RestrictedExpression::new_record([
        ("hour".to_owned(), long(seconds % DAY_SECONDS / 3600)),
        ("weekday".to_owned(), long((seconds / DAY_SECONDS).saturating_add(EPOCH_WEEKDAY) % 7 + 1)),
        ("epochSeconds".to_owned(), long(seconds)),
    ])
    .map_err(|error| error.to_string())
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn set(items: impl Iterator<Item = String>) -> RestrictedExpression {
    RestrictedExpression::new_set(items.map(RestrictedExpression::new_string))
}
