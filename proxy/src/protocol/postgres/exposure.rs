//! Which columns this agent must not see, and what that means for one statement.
//!
//! A table of masked columns is computed once per (catalog, bundle, principal) and asked per statement. Origins (relation OID
//! and attribute number) decide; where the server names no origin, the column is masked unless the parse tree proves that the
//! expression reads no masked column. INVARIANT: unknown means masked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::catalog::Catalog;
use super::code::Sight;
use super::wire::Column;
use crate::mask::{Cell, Plan, Shape};
use crate::model::{ColumnName, MaskStrategy, MaskedColumn, Operation, RelationName};
use crate::sql::{ColumnReads, Outputs, Statement, is_leaky_catalog};

/// What must not be seen in one database by one principal.
#[derive(Debug, Default)]
pub(crate) struct MaskTable {
    /// Some classified column is masked for the principal, whether or not the snapshot shows it.
    any: bool,
    cells: HashMap<(u32, i16), Mark>,
    /// Relations masked in every column: views over masked columns, catalogs that hold data.
    whole: HashSet<u32>,
    /// Names of masked columns per relation.
    names: HashMap<u32, HashSet<String>>,
}

/// Why and how one column is masked.
#[derive(Debug, Clone)]
struct Mark {
    strategy: MaskStrategy,
    class: Arc<str>,
    policies: Arc<[String]>,
}

/// What policy says of a masked column: how, and by which policies.
pub(crate) type Ruling = (MaskStrategy, Vec<String>);

impl MaskTable {
    /// The table for the classified `columns`, asking `ruling` for each.
    #[must_use]
    pub(crate) fn build(
        catalog: &Catalog,
        columns: &[(ColumnName, String)],
        ruling: impl Fn(&ColumnName, &str) -> Option<Ruling>,
    ) -> Self {
        let mut table = Self::default();
        for (column, class) in columns {
            let Some((strategy, policies)) = ruling(column, class) else { continue };
            let mark = Mark { strategy, class: Arc::from(class.as_str()), policies: Arc::from(policies) };
            table.any = true;
            for declared in catalog.bearers(&column.schema, &column.table) {
                for oid in catalog.family(declared) {
                    table.add(catalog, oid, &column.column, &mark);
                }
                // Rows of a child are read through its parents, too.
                for oid in catalog.ancestry(declared) {
                    if catalog.attribute(oid, &column.column).is_some() {
                        table.add(catalog, oid, &column.column, &mark);
                    }
                }
            }
        }
        if table.is_empty() {
            return table;
        }
        table.add_generated(catalog);
        table.add_catalogs(catalog);
        table.add_views(catalog);
        table
    }

    /// True if nothing is masked.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        !self.any
    }

    fn add(&mut self, catalog: &Catalog, oid: u32, column: &str, mark: &Mark) {
        match catalog.attribute(oid, column) {
            Some(attribute) => {
                self.cells.insert((oid, attribute), mark.clone());
                self.names.entry(oid).or_default().insert(column.to_owned());
            }
            // A classified column that the snapshot does not show: the whole relation is suspect.
            None => {
                self.whole.insert(oid);
            }
        }
    }

    /// A column computed from a masked one is masked; generated columns cannot depend on each other (PostgreSQL refuses it).
    fn add_generated(&mut self, catalog: &Catalog) {
        let relations: Vec<u32> = self.names.keys().copied().collect();
        for oid in relations {
            for (attribute, source) in catalog.generated(oid) {
                let mark = self.cells.get(&(oid, *source)).filter(|_| attribute != source);
                if let Some(mark) = mark.cloned() {
                    let mark = Mark { strategy: MaskStrategy::Redact, ..mark };
                    self.cells.entry((oid, *attribute)).or_insert(mark);
                    if let Some(name) = catalog.attribute_name(oid, *attribute) {
                        self.names.entry(oid).or_default().insert(name.to_owned());
                    }
                }
            }
        }
    }

    fn add_catalogs(&mut self, catalog: &Catalog) {
        for (oid, relation) in catalog.relations() {
            let name = RelationName { schema: Some(relation.schema.clone()), name: relation.name.clone() };
            if is_leaky_catalog(&name) {
                self.whole.insert(oid);
            }
        }
    }

    /// Views over anything sensitive, to the fixed point. A whole-row reference leaves no column dependency in the catalog,
    /// so a view counts as reading every column of its relations.
    fn add_views(&mut self, catalog: &Catalog) {
        loop {
            let found: Vec<u32> = catalog
                .views()
                .filter(|(view, sources)| {
                    !self.whole.contains(view)
                        && sources.iter().any(|source| *source == 0 || self.is_sensitive(*source))
                })
                .map(|(view, _)| view)
                .collect();
            if found.is_empty() {
                return;
            }
            self.whole.extend(found);
        }
    }

    fn is_sensitive(&self, oid: u32) -> bool {
        self.whole.contains(&oid) || self.names.contains_key(&oid)
    }

    /// Whether a relation it names has masked columns.
    #[must_use]
    pub(crate) fn names_sensitive(&self, catalog: &Catalog, operation: &Operation) -> bool {
        let mut names = operation.relations.iter();
        names.any(|name| catalog.named(name.schema.as_deref(), &name.name).any(|oid| self.is_sensitive(oid)))
    }

    /// Whether a relation in that schema has masked columns.
    #[must_use]
    pub(crate) fn lives_in(&self, catalog: &Catalog, schema: &str) -> bool {
        catalog.relations().any(|(oid, relation)| relation.schema == schema && self.is_sensitive(oid))
    }

    /// What a statement can show.
    #[must_use]
    pub(crate) fn exposure(&self, catalog: &Catalog, statement: &Statement) -> Exposure {
        if self.is_empty() {
            return Exposure::default();
        }
        let mut exposure = Exposure::default();
        for relation in &statement.operation.relations {
            let before = exposure.relations.len();
            exposure.relations.extend(catalog.named(relation.schema.as_deref(), &relation.name));
            let found = exposure.relations.get(before..).unwrap_or_default();
            let whole = found.iter().any(|oid| self.whole.contains(oid));
            exposure.touches |=
                whole || found.is_empty() || found.iter().any(|oid| self.names.contains_key(oid));
            exposure.everything |= whole || found.is_empty();
            exposure.unknown |= found.is_empty();
        }
        let known: &[u32] = if exposure.unknown { &[] } else { &exposure.relations };
        let code = catalog.code(statement, known);
        exposure.opaque = statement.opaque || code == Sight::Called;
        exposure.computed = exposure.opaque || code == Sight::Computed;
        exposure.touches |= exposure.computed;
        exposure.everything |= exposure.computed;
        exposure
    }

    /// Whether an expression with these reads shows nothing masked. A name that is no column of the statement's relations may
    /// be a function of a whole row (`c.f` is `f(c)`), so it proves nothing.
    #[must_use]
    pub(crate) fn is_harmless(&self, catalog: &Catalog, exposure: &Exposure, reads: &ColumnReads) -> bool {
        let plain = |name: &String| {
            let mut known = false;
            for oid in &exposure.relations {
                if self.names.get(oid).is_some_and(|names| names.contains(name)) {
                    return false;
                }
                known |= catalog.attribute(*oid, name).is_some();
            }
            known
        };
        match reads {
            ColumnReads::Nothing => !exposure.computed,
            ColumnReads::Columns(columns) => {
                !exposure.touches || (!exposure.everything && columns.iter().all(plain))
            }
            ColumnReads::Unknown => !exposure.touches,
        }
    }

    /// Whether a result comes from a relation that the statement's names do not mean: they mean something else by now.
    #[must_use]
    pub(crate) fn strays(&self, columns: &[Column], exposure: &Exposure) -> bool {
        let expected = |table: u32| exposure.everything || exposure.relations.contains(&table);
        !self.is_empty() && columns.iter().any(|column| column.table != 0 && !expected(column.table))
    }

    /// The plan for one result.
    #[must_use]
    pub(crate) fn plan(
        &self,
        catalog: &Catalog,
        columns: &[Column],
        exposure: &Exposure,
        outputs: &Outputs,
    ) -> Plan {
        let reads = match outputs {
            Outputs::Columns(reads) if reads.len() == columns.len() => Some(reads),
            Outputs::Columns(_) | Outputs::Unknown | Outputs::None => None,
        };
        let cell = |(index, column): (usize, &Column)| {
            let strategy = if column.table == 0 {
                self.unnamed(catalog, exposure, reads.and_then(|reads| reads.get(index)))
            } else {
                self.named(catalog, column, exposure)
            };
            strategy.map(|strategy| Cell { strategy, shape: shape(column) })
        };
        Plan::new(columns.iter().enumerate().map(cell).collect())
    }

    /// The masked columns of a planned result, for the record. What has no origin is called by its place.
    #[must_use]
    pub(crate) fn marks(&self, catalog: &Catalog, columns: &[Column], plan: &Plan) -> Vec<MaskedColumn> {
        let mark = |(index, column): (usize, &Column)| {
            let strategy = plan.cell(index)?.strategy;
            let mark = self.cells.get(&(column.table, column.attribute));
            let place = || format!("column {} of the result", index.saturating_add(1));
            Some(MaskedColumn {
                column: full_name(catalog, column).unwrap_or_else(place),
                class: mark.map(|mark| mark.class.to_string()),
                strategy,
                policies: mark.map(|mark| mark.policies.to_vec()).unwrap_or_default(),
            })
        };
        columns.iter().enumerate().filter_map(mark).collect()
    }

    /// A column whose origin the server names.
    fn named(&self, catalog: &Catalog, column: &Column, exposure: &Exposure) -> Option<MaskStrategy> {
        if let Some(mark) = self.cells.get(&(column.table, column.attribute)) {
            return Some(mark.strategy);
        }
        let whole_row = column.attribute == 0 && self.is_sensitive(column.table);
        let unknown = exposure.touches && catalog.relation(column.table).is_none();
        (whole_row || unknown || self.whole.contains(&column.table)).then_some(MaskStrategy::Redact)
    }

    /// A column whose origin the server does not name: masked unless the tree proves it harmless.
    fn unnamed(
        &self,
        catalog: &Catalog,
        exposure: &Exposure,
        reads: Option<&ColumnReads>,
    ) -> Option<MaskStrategy> {
        let harmless =
            !exposure.touches || reads.is_some_and(|reads| self.is_harmless(catalog, exposure, reads));
        (!harmless).then_some(MaskStrategy::Redact)
    }
}

/// What one statement can show of masked columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Exposure {
    /// It touches a relation with masked columns, or may.
    pub(crate) touches: bool,
    /// It names a relation that the catalog snapshot does not have.
    pub(crate) unknown: bool,
    everything: bool,
    /// It runs code nobody can see into, which may do anything.
    opaque: bool,
    /// What it computes may come from such code, so that even an expression without columns may show something.
    computed: bool,
    /// Every relation that its names can mean.
    relations: Vec<u32>,
}

impl Exposure {
    /// Whether it runs code nobody can see into.
    #[must_use]
    pub(crate) fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// The exposure of something nobody can see into.
    #[must_use]
    pub(crate) fn total() -> Self {
        Self { unknown: false, ..Self::doubtful(true) }
    }

    /// The exposure of a statement while names may mean something else than the catalog snapshot says.
    #[must_use]
    pub(crate) fn doubtful(opaque: bool) -> Self {
        let computed = opaque;
        Self { touches: true, unknown: true, everything: true, opaque, computed, relations: Vec::new() }
    }

    /// Both together.
    #[must_use]
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.touches |= other.touches;
        self.unknown |= other.unknown;
        self.everything |= other.everything;
        self.opaque |= other.opaque;
        self.computed |= other.computed;
        self.relations.extend(other.relations.iter().copied());
        self
    }
}

/// `schema.table.column`, or `schema.table` for a whole row and for what the snapshot does not show.
fn full_name(catalog: &Catalog, column: &Column) -> Option<String> {
    let relation = catalog.relation(column.table)?;
    let whole = format!("{}.{}", relation.schema, relation.name);
    Some(match catalog.attribute_name(column.table, column.attribute) {
        Some(name) => format!("{whole}.{name}"),
        None => whole,
    })
}

/// Type OIDs (`pg_type.dat`) whose values can be any text.
const TEXT_TYPES: [u32; 5] = [25, 1043, 1042, 19, 705];
const JSON: u32 = 114;
const JSONB: u32 = 3802;

fn shape(column: &Column) -> Shape {
    match (column.type_oid, column.format) {
        (oid, _) if TEXT_TYPES.contains(&oid) => Shape::Text,
        (JSON, _) | (JSONB, 0) => Shape::Json,
        (JSONB, 1) => Shape::JsonbBinary,
        _ => Shape::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::sql::analyse_text;

    use super::super::catalog::tests::{self, rows};
    use super::*;

    fn catalog() -> Catalog {
        let relations = rows(&[
            &["10", "public", "customers"],
            &["11", "public", "orders"],
            &["12", "public", "contacts"],
            &["13", "public", "customers_eu"],
            &["14", "public", "calls_code"],
            &["15", "other", "orders"],
            &["2619", "pg_catalog", "pg_statistic"],
        ]);
        let inherits = rows(&[&["13", "10"]]);
        let views = rows(&[&["12", "10"], &["14", "0"]]);
        let attributes = rows(&[
            &["10", "1", "id"],
            &["10", "2", "email"],
            &["10", "3", "email_lower"],
            &["13", "1", "id"],
            &["13", "5", "email"],
            &["11", "1", "id"],
        ]);
        let generated = rows(&[&["10", "3", "2"]]);
        let functions = rows(&[&["lower", "public", ""]]);
        let operators = rows(&[&["+", "public", ""]]);
        tests::catalog([relations, inherits, views, attributes, generated, functions, operators]).unwrap()
    }

    fn email() -> Vec<(ColumnName, String)> {
        let column =
            ColumnName { schema: "public".into(), table: "customers".into(), column: "email".into() };
        vec![(column, "pii.email".into())]
    }

    fn of(operation: Operation) -> Statement {
        Statement { operation, opaque: false, ..Statement::unknown() }
    }

    fn table() -> MaskTable {
        MaskTable::build(&catalog(), &email(), |_, _| Some((MaskStrategy::KeepLast(4), vec!["p".to_owned()])))
    }

    fn touching(names: &[(Option<&str>, &str)]) -> Exposure {
        let relations = names
            .iter()
            .map(|(schema, name)| RelationName {
                schema: schema.map(str::to_owned),
                name: (*name).to_owned(),
            })
            .collect();
        table().exposure(&catalog(), &of(Operation { relations, ..Operation::default() }))
    }

    fn text(table: u32, attribute: i16) -> Column {
        Column { table, attribute, type_oid: 25, format: 0 }
    }

    fn masked(column: Column, exposure: &Exposure, outputs: &Outputs) -> bool {
        !table().plan(&catalog(), &[column], exposure, outputs).is_clear()
    }

    #[test]
    fn the_origin_decides_and_not_the_printed_name() {
        let exposure = touching(&[(None, "customers")]);
        assert!(masked(text(10, 2), &exposure, &Outputs::Unknown));
        assert!(!masked(text(10, 1), &exposure, &Outputs::Unknown));
    }

    #[test]
    fn children_generated_columns_views_and_whole_rows_are_masked() {
        let exposure = touching(&[(None, "customers")]);
        for column in [text(13, 5), text(10, 3), text(12, 1), text(14, 1), text(10, 0), text(2619, 4)] {
            assert!(masked(column, &exposure, &Outputs::Unknown), "{column:?}");
        }
    }

    #[test]
    fn a_class_on_a_child_holds_for_the_parent_that_shows_its_rows() {
        let column =
            ColumnName { schema: "public".into(), table: "customers_eu".into(), column: "email".into() };
        let table = MaskTable::build(&catalog(), &[(column, "pii".into())], |_, _| {
            Some((MaskStrategy::Null, Vec::new()))
        });
        assert!(table.cells.contains_key(&(13, 5)) && table.cells.contains_key(&(10, 2)));
        assert!(!table.cells.contains_key(&(10, 1)) && !table.whole.contains(&10));
    }

    #[test]
    fn without_an_origin_only_proof_clears_a_column() {
        let exposure = touching(&[(None, "customers")]);
        let of = |reads| Outputs::Columns(vec![reads]);
        let columns = |name: &str| ColumnReads::Columns(BTreeSet::from([name.to_owned()]));
        assert!(masked(text(0, 0), &exposure, &Outputs::Unknown));
        assert!(masked(text(0, 0), &exposure, &of(ColumnReads::Unknown)));
        assert!(masked(text(0, 0), &exposure, &of(columns("email"))));
        assert!(!masked(text(0, 0), &exposure, &of(columns("id"))));
        assert!(
            masked(text(0, 0), &exposure, &of(columns("no_column_at_all"))),
            "it may be a function of the row"
        );
        assert!(!masked(text(0, 0), &exposure, &of(ColumnReads::Nothing)));
        let two = Outputs::Columns(vec![ColumnReads::Nothing, ColumnReads::Nothing]);
        assert!(masked(text(0, 0), &exposure, &two), "a count that does not fit proves nothing");
    }

    #[test]
    fn relations_that_the_catalog_does_not_know_are_sensitive() {
        let exposure = touching(&[(None, "brand_new")]);
        assert!(exposure.touches && exposure.unknown);
        assert!(masked(text(999, 1), &exposure, &Outputs::Unknown));
    }

    #[test]
    fn relations_without_masked_columns_are_left_alone() {
        let exposure = touching(&[(None, "orders")]);
        assert!(!exposure.touches && !exposure.unknown && !masked(text(11, 1), &exposure, &Outputs::Unknown));
        assert!(
            !masked(text(0, 0), &exposure, &Outputs::Unknown),
            "an expression over it cannot show a masked column"
        );
        assert!(!touching(&[(Some("other"), "orders")]).touches);
    }

    #[test]
    fn a_users_function_under_a_built_in_name_is_opaque() {
        let calling = |name: &str| {
            let operation =
                Operation { functions: BTreeSet::from([name.to_owned()]), ..Operation::default() };
            table().exposure(&catalog(), &of(operation)).touches
        };
        assert!(calling("lower") && calling("public.lower"));
        assert!(!calling("pg_catalog.lower") && !calling("upper"));
    }

    #[test]
    fn a_users_operator_under_a_built_in_name_makes_every_computed_value_unknown() {
        let see = |sql: &str| table().exposure(&catalog(), &analyse_text(sql).statements[0]);
        let nothing = Outputs::Columns(vec![ColumnReads::Nothing]);
        for sql in ["SELECT 1 + 'x'::text", "SELECT id FROM orders WHERE id + 1 = 2"] {
            assert!(masked(text(0, 0), &see(sql), &nothing), "{sql}");
            assert!(!masked(text(11, 1), &see(sql), &nothing), "a column is no computed value: {sql}");
        }
        assert!(!masked(text(0, 0), &see("SELECT 1 - 2"), &nothing));
    }

    #[test]
    fn a_relation_that_was_renamed_keeps_its_class() {
        let mut renamed = tests::catalog([
            rows(&[&["10", "kept", "people"], &["20", "public", "customers"]]),
            vec![],
            vec![],
            rows(&[&["10", "1", "id"], &["10", "2", "email"], &["20", "1", "email"]]),
        ])
        .unwrap();
        renamed.remember(&catalog());
        let table = MaskTable::build(&renamed, &email(), |_, _| Some((MaskStrategy::Null, Vec::new())));
        assert!(table.cells.contains_key(&(10, 2)) && table.cells.contains_key(&(20, 1)));
        assert!(table.lives_in(&renamed, "kept") && !table.lives_in(&renamed, "other"));
    }

    #[test]
    fn a_result_from_a_relation_that_was_not_named_shows_that_names_have_changed() {
        let exposure = touching(&[(None, "orders")]);
        assert!(!table().strays(&[text(11, 1), text(0, 0), text(15, 1)], &exposure));
        assert!(table().strays(&[text(11, 1), text(10, 1)], &exposure));
        assert!(table().strays(&[text(999, 1)], &exposure));
        assert!(!MaskTable::default().strays(&[text(999, 1)], &Exposure::default()));
    }

    #[test]
    fn the_record_names_columns_with_class_strategy_and_policies_and_others_by_place() {
        let exposure = touching(&[(None, "customers")]);
        let columns = [text(10, 1), text(10, 2), text(0, 0), text(12, 1)];
        let plan = table().plan(&catalog(), &columns, &exposure, &Outputs::Unknown);
        let marks = table().marks(&catalog(), &columns, &plan);
        let told: Vec<_> = marks.iter().map(|mark| (mark.column.as_str(), mark.class.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("public.customers.email", Some("pii.email")),
                ("column 3 of the result", None),
                ("public.contacts", None)
            ]
        );
        assert_eq!(
            (marks[0].strategy, marks[0].policies.as_slice()),
            (MaskStrategy::KeepLast(4), &["p".to_owned()][..])
        );
    }

    #[test]
    fn a_cleared_principal_sees_everything() {
        let table = MaskTable::build(&catalog(), &email(), |_, _| None);
        assert!(table.is_empty());
        assert!(!table.exposure(&catalog(), &Statement::unknown()).touches);
    }

    #[test]
    fn a_classified_relation_that_is_not_there_yet_is_masked_when_it_comes() {
        let table =
            MaskTable::build(&Catalog::default(), &email(), |_, _| Some((MaskStrategy::Null, Vec::new())));
        let relations = BTreeSet::from([RelationName { schema: None, name: "customers".into() }]);
        let operation = Operation { relations, ..Operation::default() };
        let exposure = table.exposure(&Catalog::default(), &of(operation));
        assert!(exposure.touches && exposure.unknown);
        assert!(!table.plan(&Catalog::default(), &[text(10, 1)], &exposure, &Outputs::Unknown).is_clear());
    }

    #[test]
    fn a_classified_column_missing_from_the_snapshot_masks_its_whole_relation() {
        let column = ColumnName { schema: "public".into(), table: "orders".into(), column: "gone".into() };
        let table = MaskTable::build(&catalog(), &[(column, "pii".into())], |_, _| {
            Some((MaskStrategy::Null, Vec::new()))
        });
        assert!(table.whole.contains(&11));
    }
}
