//! The part of a bundle that can matter to one question, prepared and kept: policies whose scope fits, and the entities.
//!
//! A bundle of a thousand policies has few whose scope fits one principal, action and object. The rest evaluate to
//! false without error whatever the facts are, so they are left out; the answer is the same. Slices are built once per
//! (principal, action, object) and kept up to a limit, because an agent chooses the names of relations.
//! INVARIANT: a slice depends on nothing but its key and the bundle.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use cedar_policy::{Entities, Entity, EntityUid, PolicySet, RestrictedExpression};
use parking_lot::Mutex;

use super::names;
use super::rule::{Lineage, Rule};
use super::schema::{Action, Vocabulary, uid};
use crate::model::{ColumnName, Identity, Principal, RelationName, Resource};

/// What a question is about, within a resource.
#[derive(Debug, Clone, Copy)]
pub(super) enum Object<'a> {
    Resource,
    Table(&'a RelationName),
    Column { column: &'a ColumnName, class: &'a str },
}

/// A prepared question, without its facts.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) policies: PolicySet,
    pub(super) entities: Entities,
    pub(super) principal: EntityUid,
    pub(super) resource: EntityUid,
    /// Indices of the rules in it.
    pub(super) rules: Vec<usize>,
}

/// Slices already built.
#[derive(Debug, Default)]
pub(super) struct Slices(Mutex<HashMap<String, Arc<Slice>>>);

/// Enough for the working set of a busy host; an agent that makes up names costs rebuilding, not memory.
const SLICES_MAX: usize = 4096;

impl Slices {
    pub(super) fn get(&self, key: &str) -> Option<Arc<Slice>> {
        self.0.lock().get(key).map(Arc::clone)
    }

    pub(super) fn put(&self, key: String, slice: Arc<Slice>) {
        let mut slices = self.0.lock();
        if slices.len() >= SLICES_MAX {
            slices.clear();
        }
        slices.insert(key, slice);
    }
}

/// Everything that shapes a slice, as text in which no part can run into the next.
pub(super) fn key(principal: &Principal, action: Action, resource: &Resource, object: Object<'_>) -> String {
    let mut key = String::with_capacity(160);
    let mut push = |part: &str| {
        // Writing to a string does not fail.
        _ = write!(key, "{}:{part}", part.len());
    };
    push(action.as_str());
    push(&principal.agent.0);
    match &principal.identity {
        Identity::Verified { groups, .. } => {
            push("verified");
            groups.iter().for_each(|group| push(group));
        }
        Identity::Unidentified { .. } => push("unidentified"),
    }
    push("resource");
    push(&resource.name);
    for (label, value) in &resource.labels {
        push(label);
        push(value);
    }
    match object {
        Object::Resource => push("whole"),
        Object::Table(relation) => {
            push("table");
            push(&names::relation(relation));
        }
        Object::Column { column, class } => {
            push("column");
            push(&names::column_id("", column));
            push(class);
        }
    }
    key
}

/// Builds the slice for a question. The error is for the record: the question must then be denied.
pub(super) fn build(
    vocabulary: &Vocabulary,
    rules: &[Rule],
    principal: &Principal,
    action: Action,
    target: (&Resource, Object<'_>),
) -> Result<Slice, String> {
    let (resource, object) = target;
    let who = principal_lineage(vocabulary, principal);
    let what = object_lineage(vocabulary, resource, object);
    let mut policies = PolicySet::new();
    let mut members = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        if rule.in_scope(&who, action, &what) {
            policies.add(rule.policy.clone()).map_err(|error| error.to_string())?;
            members.push(index);
        }
    }
    let entities = entities(vocabulary, &who, resource, object)?;
    Ok(Slice { policies, entities, principal: who.uid, resource: what.uid, rules: members })
}

pub(super) fn principal_lineage(vocabulary: &Vocabulary, principal: &Principal) -> Lineage {
    match &principal.identity {
        Identity::Verified { groups, .. } => Lineage {
            uid: uid(&vocabulary.agent, &principal.agent.0),
            ancestors: groups.iter().map(|group| uid(&vocabulary.group, group)).collect(),
        },
        Identity::Unidentified { .. } => {
            Lineage { uid: uid(&vocabulary.unidentified, &principal.agent.0), ancestors: Vec::new() }
        }
    }
}

fn object_lineage(vocabulary: &Vocabulary, resource: &Resource, object: Object<'_>) -> Lineage {
    let labels = labels(vocabulary, resource);
    let resource_uid = uid(&vocabulary.resource, &resource.name);
    match object {
        Object::Resource => Lineage { uid: resource_uid, ancestors: labels },
        Object::Table(relation) => Lineage {
            uid: uid(&vocabulary.table, &names::table_id(&resource.name, relation)),
            ancestors: labels.into_iter().chain([resource_uid]).collect(),
        },
        Object::Column { column, .. } => {
            let table = uid(&vocabulary.table, &names::column_table_id(&resource.name, column));
            Lineage {
                uid: uid(&vocabulary.column, &names::column_id(&resource.name, column)),
                ancestors: labels.into_iter().chain([resource_uid, table]).collect(),
            }
        }
    }
}

fn labels(vocabulary: &Vocabulary, resource: &Resource) -> Vec<EntityUid> {
    resource.labels.iter().map(|(key, value)| uid(&vocabulary.label, &format!("{key}={value}"))).collect()
}

fn entities(
    vocabulary: &Vocabulary,
    who: &Lineage,
    resource: &Resource,
    object: Object<'_>,
) -> Result<Entities, String> {
    let resource_uid = uid(&vocabulary.resource, &resource.name);
    let mut all = vec![
        Entity::new_no_attrs(who.uid.clone(), who.ancestors.iter().cloned().collect()),
        entity(
            resource_uid.clone(),
            [text("name", &resource.name), text("protocol", &resource.protocol.to_string())],
            labels(vocabulary, resource).into_iter().collect(),
        )?,
    ];
    let table = |id: &str, schema: Option<&str>, name: &str| {
        let attributes = schema.map(|schema| text("schema", schema)).into_iter().chain([text("name", name)]);
        entity(uid(&vocabulary.table, id), attributes, HashSet::from([resource_uid.clone()]))
    };
    match object {
        Object::Resource => {}
        Object::Table(relation) => {
            let id = names::table_id(&resource.name, relation);
            all.push(table(&id, relation.schema.as_deref(), &relation.name)?);
        }
        Object::Column { column, class } => {
            let id = names::column_table_id(&resource.name, column);
            all.push(table(&id, Some(&column.schema), &column.table)?);
            all.push(entity(
                uid(&vocabulary.column, &names::column_id(&resource.name, column)),
                [text("class", class)],
                HashSet::from([uid(&vocabulary.table, &id), resource_uid.clone()]),
            )?);
        }
    }
    Entities::from_entities(all, Some(&vocabulary.schema)).map_err(|error| error.to_string())
}

fn entity(
    uid: EntityUid,
    attributes: impl IntoIterator<Item = (String, RestrictedExpression)>,
    parents: HashSet<EntityUid>,
) -> Result<Entity, String> {
    Entity::new(uid, attributes.into_iter().collect(), parents).map_err(|error| error.to_string())
}

fn text(name: &str, value: &str) -> (String, RestrictedExpression) {
    (name.to_owned(), RestrictedExpression::new_string(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_do_not_fill_the_memory() {
        let slices = Slices::default();
        let slice = Arc::new(Slice {
            policies: PolicySet::new(),
            entities: Entities::empty(),
            principal: r#"Agent::"a""#.parse().unwrap(),
            resource: r#"Resource::"r""#.parse().unwrap(),
            rules: Vec::new(),
        });
        for number in 0..SLICES_MAX * 2 {
            slices.put(number.to_string(), Arc::clone(&slice));
        }
        assert!(slices.0.lock().len() <= SLICES_MAX);
    }
}
