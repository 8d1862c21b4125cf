//! One policy of a bundle with what Cedar does not keep: its place, its annotations' meaning, its scope as data.
//!
//! INVARIANT: [`Rule::in_scope`] answers exactly what Cedar's scope test would; a rule that is out of scope evaluates
//! to false without error, so leaving it out of a question cannot change the answer.

use cedar_policy::{
    ActionConstraint, Effect, EntityTypeName, EntityUid, Policy, PrincipalConstraint, ResourceConstraint,
};

use super::annotation::Annotations;
use super::mentions::Mentions;
use super::schema::Action;

/// Permit or forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A permit.
    Permit,
    /// A forbid.
    Forbid,
}

/// A policy as listings show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSummary {
    /// Its `@id`.
    pub id: String,
    /// Permit or forbid.
    pub kind: Kind,
    /// File below the bundle's directory.
    pub file: String,
    /// Line it starts at.
    pub line: usize,
    /// Its `@description`, if it has one.
    pub description: Option<String>,
    /// Its text.
    pub text: String,
}

/// A policy of the bundle.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) policy: Policy,
    pub(super) notes: Annotations,
    pub(super) mentions: Mentions,
    /// Index of its file and byte span in it.
    pub(super) file: usize,
    pub(super) span: (usize, usize),
    principal: PrincipalConstraint,
    actions: Vec<Action>,
    resource: ResourceConstraint,
}

/// One end of a question: an entity with all its ancestors.
#[derive(Debug, Clone)]
pub(super) struct Lineage {
    pub(super) uid: EntityUid,
    pub(super) ancestors: Vec<EntityUid>,
}

impl Lineage {
    fn within(&self, group: &EntityUid) -> bool {
        self.uid == *group || self.ancestors.contains(group)
    }

    fn is(&self, name: &EntityTypeName) -> bool {
        self.uid.type_name() == name
    }
}

impl Rule {
    pub(super) fn new(
        policy: Policy,
        notes: Annotations,
        mentions: Mentions,
        file: usize,
        span: (usize, usize),
    ) -> Self {
        let principal = policy.principal_constraint();
        let resource = policy.resource_constraint();
        let constraint = policy.action_constraint();
        let actions = Action::ALL.into_iter().filter(|action| covers(&constraint, *action)).collect();
        Self { policy, notes, mentions, file, span, principal, actions, resource }
    }

    pub(super) fn id(&self) -> &str {
        &self.notes.id
    }

    pub(super) fn kind(&self) -> Kind {
        match self.policy.effect() {
            Effect::Permit => Kind::Permit,
            Effect::Forbid => Kind::Forbid,
        }
    }

    pub(super) fn principal(&self) -> &PrincipalConstraint {
        &self.principal
    }

    pub(super) fn resource(&self) -> &ResourceConstraint {
        &self.resource
    }

    pub(super) fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Whether the policy's scope (not its conditions) fits a question.
    pub(super) fn in_scope(&self, principal: &Lineage, action: Action, resource: &Lineage) -> bool {
        let resource_fits = match &self.resource {
            ResourceConstraint::Any => true,
            ResourceConstraint::Eq(uid) => resource.uid == *uid,
            ResourceConstraint::In(uid) => resource.within(uid),
            ResourceConstraint::Is(name) => resource.is(name),
            ResourceConstraint::IsIn(name, uid) => resource.is(name) && resource.within(uid),
        };
        self.actions.contains(&action) && self.principal_fits(principal) && resource_fits
    }

    /// Whether the scope's principal fits, whatever the rest.
    pub(super) fn principal_fits(&self, principal: &Lineage) -> bool {
        match &self.principal {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Eq(uid) => principal.uid == *uid,
            PrincipalConstraint::In(uid) => principal.within(uid),
            PrincipalConstraint::Is(name) => principal.is(name),
            PrincipalConstraint::IsIn(name, uid) => principal.is(name) && principal.within(uid),
        }
    }

    /// Whether the scope names a resource on purpose.
    pub(super) fn names_resource(&self, is: impl Fn(&EntityUid) -> bool) -> bool {
        match &self.resource {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => false,
            ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
                is(uid)
            }
        }
    }

    /// Whether the scope names unidentified principals on purpose.
    pub(super) fn names_unidentified(&self, unidentified: &EntityTypeName) -> bool {
        match &self.principal {
            PrincipalConstraint::Any => false,
            PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) => uid.type_name() == unidentified,
            PrincipalConstraint::Is(name) | PrincipalConstraint::IsIn(name, _) => name == unidentified,
        }
    }
}

/// The schema has no action groups, so an action is within another only by being it.
fn covers(constraint: &ActionConstraint, action: Action) -> bool {
    let is =
        |uid: &EntityUid| uid.type_name().basename() == "Action" && uid.id().unescaped() == action.as_str();
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => is(uid),
        ActionConstraint::In(uids) => uids.iter().any(is),
    }
}
