//! Which columns this agent must not see, and what that means for one statement.
//!
//! A table of masked columns is computed once per (catalog, bundle, principal) and asked per statement. Origins (relation OID
//! and attribute number) decide; where the server names no origin, the column is masked unless the parse tree proves that the
//! expression reads no masked column. INVARIANT: unknown means masked.

use std::collections::{HashMap, HashSet};

use super::catalog::Catalog;
use super::wire::Column;
use crate::mask::{Cell, Plan, Shape};
use crate::model::{ColumnName, MaskStrategy, Operation, RelationName};
use crate::sql::{ColumnReads, Outputs, is_leaky_catalog};

/// What must not be seen in one database by one principal.
#[derive(Debug, Default)]
pub(crate) struct MaskTable {
    /// Some classified column is masked for the principal, whether or not the snapshot shows it.
    any: bool,
    cells: HashMap<(u32, i16), MaskStrategy>,
    /// Relations masked in every column: views over masked columns, catalogs that hold data.
    whole: HashSet<u32>,
    /// Names of masked columns per relation.
    names: HashMap<u32, HashSet<String>>,
}

impl MaskTable {
    /// The table for the classified `columns`, asking `strategy` for each.
    #[must_use]
    pub(crate) fn build(
        catalog: &Catalog,
        columns: &[(ColumnName, String)],
        strategy: impl Fn(&ColumnName, &str) -> Option<MaskStrategy>,
    ) -> Self {
        let mut table = Self::default();
        for (column, class) in columns {
            let Some(strategy) = strategy(column, class) else { continue };
            table.any = true;
            for declared in catalog.named(Some(&column.schema), &column.table) {
                for oid in catalog.family(declared) {
                    table.add(catalog, oid, &column.column, strategy);
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

    fn add(&mut self, catalog: &Catalog, oid: u32, column: &str, strategy: MaskStrategy) {
        match catalog.attribute(oid, column) {
            Some(attribute) => {
                self.cells.insert((oid, attribute), strategy);
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
                if self.cells.contains_key(&(oid, *source)) && attribute != source {
                    self.cells.entry((oid, *attribute)).or_insert(MaskStrategy::Redact);
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

    /// What a statement with this operation can show.
    #[must_use]
    pub(crate) fn exposure(&self, catalog: &Catalog, operation: &Operation, opaque: bool) -> Exposure {
        if self.is_empty() {
            return Exposure::default();
        }
        let opaque = opaque || operation.functions.iter().any(|written| catalog.may_be_users(written));
        let mut exposure =
            Exposure { touches: opaque, opaque, everything: opaque, relations: Vec::new(), unknown: false };
        for relation in &operation.relations {
            let before = exposure.relations.len();
            exposure.relations.extend(catalog.named(relation.schema.as_deref(), &relation.name));
            let found = exposure.relations.get(before..).unwrap_or_default();
            let whole = found.iter().any(|oid| self.whole.contains(oid));
            exposure.touches |=
                whole || found.is_empty() || found.iter().any(|oid| self.names.contains_key(oid));
            exposure.everything |= whole || found.is_empty();
            exposure.unknown |= found.is_empty();
        }
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
            ColumnReads::Nothing => !exposure.opaque,
            ColumnReads::Columns(columns) => {
                !exposure.touches || (!exposure.everything && columns.iter().all(plain))
            }
            ColumnReads::Unknown => !exposure.touches,
        }
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

    /// A column whose origin the server names.
    fn named(&self, catalog: &Catalog, column: &Column, exposure: &Exposure) -> Option<MaskStrategy> {
        if let Some(strategy) = self.cells.get(&(column.table, column.attribute)) {
            return Some(*strategy);
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
    /// It runs code nobody can see into, so that even an expression without columns may show something.
    opaque: bool,
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
        Self { touches: true, unknown: false, everything: true, opaque: true, relations: Vec::new() }
    }

    /// The exposure of a statement while names may mean something else than the catalog snapshot says.
    #[must_use]
    pub(crate) fn doubtful(opaque: bool) -> Self {
        Self { touches: true, unknown: true, everything: true, opaque, relations: Vec::new() }
    }

    /// Both together.
    #[must_use]
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.touches |= other.touches;
        self.unknown |= other.unknown;
        self.everything |= other.everything;
        self.opaque |= other.opaque;
        self.relations.extend(other.relations.iter().copied());
        self
    }
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

    use super::super::catalog::tests::rows;
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
        Catalog::read([relations, inherits, views, attributes, generated, rows(&[&["lower"]])]).unwrap()
    }

    fn email() -> Vec<(ColumnName, String)> {
        let column =
            ColumnName { schema: "public".into(), table: "customers".into(), column: "email".into() };
        vec![(column, "pii.email".into())]
    }

    fn table() -> MaskTable {
        MaskTable::build(&catalog(), &email(), |_, _| Some(MaskStrategy::KeepLast(4)))
    }

    fn touching(names: &[(Option<&str>, &str)]) -> Exposure {
        let relations = names
            .iter()
            .map(|(schema, name)| RelationName {
                schema: schema.map(str::to_owned),
                name: (*name).to_owned(),
            })
            .collect();
        table().exposure(&catalog(), &Operation { relations, ..Operation::default() }, false)
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
            table().exposure(&catalog(), &operation, false).touches
        };
        assert!(calling("lower") && calling("public.lower"));
        assert!(!calling("pg_catalog.lower") && !calling("upper"));
    }

    #[test]
    fn a_cleared_principal_sees_everything() {
        let table = MaskTable::build(&catalog(), &email(), |_, _| None);
        assert!(table.is_empty());
        assert!(!table.exposure(&catalog(), &Operation::unknown(), true).touches);
    }

    #[test]
    fn a_classified_relation_that_is_not_there_yet_is_masked_when_it_comes() {
        let table = MaskTable::build(&Catalog::default(), &email(), |_, _| Some(MaskStrategy::Null));
        let relations = BTreeSet::from([RelationName { schema: None, name: "customers".into() }]);
        let operation = Operation { relations, ..Operation::default() };
        let exposure = table.exposure(&Catalog::default(), &operation, false);
        assert!(exposure.touches && exposure.unknown);
        assert!(!table.plan(&Catalog::default(), &[text(10, 1)], &exposure, &Outputs::Unknown).is_clear());
    }

    #[test]
    fn a_classified_column_missing_from_the_snapshot_masks_its_whole_relation() {
        let column = ColumnName { schema: "public".into(), table: "orders".into(), column: "gone".into() };
        let table = MaskTable::build(&catalog(), &[(column, "pii".into())], |_, _| Some(MaskStrategy::Null));
        assert!(table.whole.contains(&11));
    }
}
