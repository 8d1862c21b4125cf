//! The Cedar schema: what policies may speak of. Every bundle is validated strictly against it.
//!
//! The schema is part of the program, not of the bundle: an operator cannot widen what an attribute means.
//! Names of types and actions are parsed once, at load.

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema, Validator};

use super::error::PolicyError;

/// The schema in Cedar's own notation.
pub(super) const TEXT: &str = r#"
// Groups of the verified identity, as its issuer claims them.
entity Group;
// An agent with a verified identity.
entity Agent in [Group];
// An agent without one; only policies that name this type on purpose permit it anything.
entity Unidentified;
// A label of a resource: Label::"env=prod".
entity Label;
entity Resource in [Label] { name: String, protocol: String };
// Table::"orders-db/public.orders"; Table::"orders-db/orders" when the request wrote no schema.
entity Table in [Resource] { schema?: String, name: String };
// Column::"orders-db/public.customers.email".
entity Column in [Table, Resource] { class: String };

// UTC; weekday is 1 for Monday to 7 for Sunday.
type Now = { hour: Long, weekday: Long, epochSeconds: Long };
type Evidence = { exe: String, exeSha256: String, unit?: String, uid: Long, cgroup: String };
type Facts = {
  effects: Set<String>,
  tables: Set<String>,
  columns: Set<String>,
  functions: Set<String>,
  hasFilter: Bool,
  rowLimit?: Long,
  // Only of effect `connect`.
  destination?: ipaddr,
  port?: Long,
  // Of a question to the resolver, Resource::"dns": the name, in lower case and without the last dot.
  name?: String,
  step?: String,
  now: Now,
  evidence: Evidence,
};

action run, runUnattended appliesTo {
  principal: [Agent, Unidentified],
  resource: [Resource, Table],
  context: Facts,
};
action readClear appliesTo {
  principal: [Agent, Unidentified],
  resource: [Column],
};
"#;

/// One of the three questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Action {
    Run,
    RunUnattended,
    ReadClear,
}

impl Action {
    pub(super) const ALL: [Self; 3] = [Self::Run, Self::RunUnattended, Self::ReadClear];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::RunUnattended => "runUnattended",
            Self::ReadClear => "readClear",
        }
    }
}

/// The schema with the names of its types, parsed.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) schema: Schema,
    pub(super) agent: EntityTypeName,
    pub(super) unidentified: EntityTypeName,
    pub(super) group: EntityTypeName,
    pub(super) label: EntityTypeName,
    pub(super) resource: EntityTypeName,
    pub(super) table: EntityTypeName,
    pub(super) column: EntityTypeName,
    action: EntityTypeName,
}

impl Vocabulary {
    pub(super) fn parse() -> Result<Self, PolicyError> {
        let (schema, _) = Schema::from_cedarschema_str(TEXT)
            .map_err(|error| PolicyError::Schema { reason: error.to_string() })?;
        Ok(Self {
            schema,
            agent: type_name("Agent")?,
            unidentified: type_name("Unidentified")?,
            group: type_name("Group")?,
            label: type_name("Label")?,
            resource: type_name("Resource")?,
            table: type_name("Table")?,
            column: type_name("Column")?,
            action: type_name("Action")?,
        })
    }

    pub(super) fn action(&self, action: Action) -> EntityUid {
        uid(&self.action, action.as_str())
    }

    pub(super) fn validator(&self) -> Validator {
        Validator::new(self.schema.clone())
    }
}

pub(super) fn uid(name: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id))
}

fn type_name(text: &str) -> Result<EntityTypeName, PolicyError> {
    text.parse().map_err(|error: cedar_policy::ParseErrors| PolicyError::Schema { reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_knows_exactly_the_three_actions() {
        let vocabulary = Vocabulary::parse().unwrap();
        let mut known: Vec<String> =
            vocabulary.schema.actions().map(|uid| uid.id().unescaped().to_owned()).collect();
        known.sort();
        let mut ours: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
        ours.sort_unstable();
        assert_eq!(known, ours);
    }
}
