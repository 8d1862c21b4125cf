//! Rules that cannot matter: reported when a bundle is checked, because each is a belief of its author that is wrong.
//!
//! Sound in what it claims, not complete: a rule that is not listed may still never fire. It claims three things: the
//! type checker proved the condition false for every request; an unconditional forbid covers the permit; an object
//! that the rule names does not exist in the configuration or in `columns.toml`.

use std::collections::BTreeSet;

use cedar_policy::{EntityTypeName, EntityUid, PrincipalConstraint, ResourceConstraint};

use super::error::Finding;
use super::rule::{Kind, Rule};
use super::set::Set;

/// What exists, by the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Universe {
    /// Names of agents.
    pub agents: BTreeSet<String>,
    /// Names of resources.
    pub resources: BTreeSet<String>,
    /// Labels of resources, `env=prod`.
    pub labels: BTreeSet<String>,
}

/// A rule that cannot matter, in part or as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadRule {
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: DeadReason,
    /// The same in words, with its place.
    pub finding: Finding,
}

/// Why a rule cannot matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadReason {
    /// No request of any type satisfies it.
    NeverTrue,
    /// A forbid without conditions covers everything it permits.
    Shadowed {
        /// The forbid.
        by: String,
    },
    /// It names an agent, resource or label that is not configured.
    UnknownName {
        /// The object, as the rule writes it.
        name: String,
    },
    /// It compares with a class that no column has.
    UnknownClass {
        /// The class.
        class: String,
    },
}

impl Set {
    /// Lists rules that cannot matter; names are checked only when a configuration is given.
    #[must_use]
    pub fn dead_rules(&self, universe: Option<&Universe>) -> Vec<DeadRule> {
        let mut dead = Vec::new();
        for (index, detail) in self.impossible() {
            if let Some(rule) = self.rule(*index) {
                dead.push(self.dead(
                    rule,
                    DeadReason::NeverTrue,
                    format!("the rule can never fire: {detail}"),
                ));
            }
        }
        let forbids: Vec<&Rule> = self
            .rules()
            .iter()
            .filter(|rule| rule.kind() == Kind::Forbid && !rule.policy.has_non_scope_constraint())
            .collect();
        for rule in self.rules() {
            if rule.kind() == Kind::Permit
                && let Some(forbid) = forbids.iter().find(|forbid| covers(forbid, rule))
            {
                let message = format!("everything it permits is forbidden by `{}`", forbid.id());
                dead.push(self.dead(rule, DeadReason::Shadowed { by: forbid.id().to_owned() }, message));
            }
            let classes: BTreeSet<&str> = self.columns().classes().collect();
            for class in rule.mentions.classes.iter().filter(|class| !classes.contains(class.as_str())) {
                let message = format!("no column in columns.toml has class `{class}`");
                dead.push(self.dead(rule, DeadReason::UnknownClass { class: class.clone() }, message));
            }
            for name in universe.map(|universe| self.strangers(rule, universe)).unwrap_or_default() {
                let message = format!("`{name}` is not in the configuration");
                dead.push(self.dead(rule, DeadReason::UnknownName { name }, message));
            }
        }
        dead.sort_by(|a, b| {
            (&a.finding.file, a.finding.span, &a.finding.message).cmp(&(
                &b.finding.file,
                b.finding.span,
                &b.finding.message,
            ))
        });
        dead
    }

    fn dead(&self, rule: &Rule, reason: DeadReason, message: String) -> DeadRule {
        DeadRule { id: rule.id().to_owned(), reason, finding: self.finding(rule, message) }
    }

    fn strangers(&self, rule: &Rule, universe: &Universe) -> BTreeSet<String> {
        let vocabulary = self.vocabulary();
        let unknown = |uid: &EntityUid| {
            let (kind, id) = (uid.type_name(), uid.id().unescaped());
            let is = |name: &EntityTypeName| kind == name;
            // An object within a resource is known if its resource is.
            let owner = id.split_once('/').map_or(id, |(resource, _)| resource);
            if is(&vocabulary.agent) || is(&vocabulary.unidentified) {
                !universe.agents.contains(id)
            } else if is(&vocabulary.label) {
                !universe.labels.contains(id)
            } else if is(&vocabulary.resource) {
                !universe.resources.contains(id)
            } else if is(&vocabulary.table) || is(&vocabulary.column) {
                !universe.resources.contains(owner)
            } else {
                false
            }
        };
        rule.policy.entity_literals().iter().filter(|uid| unknown(uid)).map(ToString::to_string).collect()
    }
}

/// A scope constraint of either end.
enum Scope<'a> {
    Any,
    Eq(&'a EntityUid),
    In(&'a EntityUid),
    Is(&'a EntityTypeName),
    IsIn(&'a EntityTypeName, &'a EntityUid),
}

impl<'a> From<&'a PrincipalConstraint> for Scope<'a> {
    fn from(constraint: &'a PrincipalConstraint) -> Self {
        match constraint {
            PrincipalConstraint::Any => Self::Any,
            PrincipalConstraint::Eq(uid) => Self::Eq(uid),
            PrincipalConstraint::In(uid) => Self::In(uid),
            PrincipalConstraint::Is(name) => Self::Is(name),
            PrincipalConstraint::IsIn(name, uid) => Self::IsIn(name, uid),
        }
    }
}

impl<'a> From<&'a ResourceConstraint> for Scope<'a> {
    fn from(constraint: &'a ResourceConstraint) -> Self {
        match constraint {
            ResourceConstraint::Any => Self::Any,
            ResourceConstraint::Eq(uid) => Self::Eq(uid),
            ResourceConstraint::In(uid) => Self::In(uid),
            ResourceConstraint::Is(name) => Self::Is(name),
            ResourceConstraint::IsIn(name, uid) => Self::IsIn(name, uid),
        }
    }
}

impl Scope<'_> {
    /// Whether everything in `narrow` is certainly in `self`.
    fn covers(&self, narrow: &Scope<'_>) -> bool {
        match (self, narrow) {
            (Scope::Any, _) => true,
            (Scope::Is(wide), Scope::Is(name) | Scope::IsIn(name, _)) => wide == name,
            (Scope::Is(wide), Scope::Eq(uid)) => *wide == uid.type_name(),
            (Scope::In(wide), Scope::Eq(uid) | Scope::In(uid) | Scope::IsIn(_, uid)) => wide == uid,
            (Scope::Eq(wide), Scope::Eq(uid)) => wide == uid,
            (Scope::IsIn(kind, wide), Scope::Eq(uid)) => wide == uid && *kind == uid.type_name(),
            (Scope::IsIn(kind, wide), Scope::IsIn(name, uid)) => wide == uid && kind == name,
            (Scope::Is(_), Scope::Any | Scope::In(_))
            | (Scope::In(_), Scope::Any | Scope::Is(_))
            | (Scope::Eq(_), Scope::Any | Scope::In(_) | Scope::Is(_) | Scope::IsIn(..))
            | (Scope::IsIn(..), Scope::Any | Scope::In(_) | Scope::Is(_)) => false,
        }
    }
}

fn covers(forbid: &Rule, permit: &Rule) -> bool {
    permit.actions().iter().all(|action| forbid.actions().contains(action))
        && Scope::from(forbid.principal()).covers(&Scope::from(permit.principal()))
        && Scope::from(forbid.resource()).covers(&Scope::from(permit.resource()))
}
