//! What the server's catalog says about relations, read over a side connection with the resource's own credential.
//!
//! Pure: rows come in, a snapshot comes out. The driver loads it (`login::rows`) and refreshes it when a statement names a
//! relation it does not know, after any statement that changes objects, and when it is older than `driver::CATALOG_AGE_MAX`.
//! INVARIANT: what the snapshot does not know is treated as sensitive, never as harmless.
//! Known limit: another client's DDL is seen only at the next refresh.

use std::collections::{HashMap, HashSet};

use super::code::{self, Code, Sight};
use crate::sql::Statement;

/// A row of text columns, as the simple protocol returns it.
pub(crate) type Row = Vec<Option<String>>;

/// Relations read at most. A database with more is refused rather than half known.
pub(crate) const RELATIONS_MAX: usize = 200_000;

/// The queries, in the order [`Catalog::read`] takes their results.
pub(crate) const QUERIES: [&str; 9] = [
    "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
     WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r','v','m','f','p','S']::pg_catalog.\"char\"[])",
    "SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits",
    // A view depends on relations (their oid) and on functions and operators of the user's (0: it runs code we cannot see into).
    "SELECT DISTINCT r.ev_class, CASE WHEN d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
     THEN d.refobjid ELSE 0 END FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON d.objid OPERATOR(pg_catalog.=) r.oid \
     WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
     AND r.ev_class OPERATOR(pg_catalog.<>) d.refobjid AND (d.refclassid OPERATOR(pg_catalog.=) \
     'pg_catalog.pg_class'::pg_catalog.regclass OR d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass \
     OR d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass AND NOT EXISTS \
     (SELECT FROM pg_catalog.pg_depend e WHERE e.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass \
     AND e.objid OPERATOR(pg_catalog.=) d.refobjid AND e.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\"))",
    "SELECT a.attrelid, a.attnum, a.attname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c \
     ON c.oid OPERATOR(pg_catalog.=) a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
     WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped AND n.nspname OPERATOR(pg_catalog.<>) 'pg_catalog' \
     AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r','v','m','f','p']::pg_catalog.\"char\"[])",
    "SELECT ad.adrelid, ad.adnum, d.refobjsubid FROM pg_catalog.pg_attrdef ad JOIN pg_catalog.pg_depend d \
     ON d.objid OPERATOR(pg_catalog.=) ad.oid WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass \
     AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
     AND d.refobjid OPERATOR(pg_catalog.=) ad.adrelid AND d.refobjsubid OPERATOR(pg_catalog.>) 0",
    code::QUERIES[0],
    code::QUERIES[1],
    code::QUERIES[2],
    code::QUERIES[3],
];

/// Why a catalog could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CatalogError {
    /// A row that the queries cannot return.
    #[error("the server's catalog answered query {query} with a row of another form")]
    Row {
        /// Index of the query.
        query: usize,
    },
    /// Too many relations.
    #[error("the database has more than {RELATIONS_MAX} relations")]
    TooLarge,
}

/// A relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    /// Schema.
    pub(crate) schema: String,
    /// Name.
    pub(crate) name: String,
}

/// One snapshot of a database's catalog.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    relations: HashMap<u32, Relation>,
    by_name: HashMap<String, Vec<u32>>,
    children: HashMap<u32, Vec<u32>>,
    parents: HashMap<u32, Vec<u32>>,
    views: HashMap<u32, Vec<u32>>,
    attributes: HashMap<u32, Vec<(i16, String)>>,
    generated: HashMap<u32, Vec<(i16, i16)>>,
    code: Code,
    /// Relations that had another name in an earlier snapshot: that name, with its schema and their number.
    former: HashMap<String, Vec<(String, u32)>>,
}

/// Former names remembered at most. Past it only the first are kept.
const FORMER_MAX: usize = RELATIONS_MAX;

impl Catalog {
    /// A snapshot from the results of [`QUERIES`].
    ///
    /// # Errors
    /// When a row has another form than its query returns.
    pub(crate) fn read(results: [Vec<Row>; QUERIES.len()]) -> Result<Self, CatalogError> {
        let [relations, inherits, views, attributes, generated, functions, operators, casts, cast] = results;
        if relations.len() > RELATIONS_MAX {
            return Err(CatalogError::TooLarge);
        }
        let code = Code::read([functions, operators, casts, cast], 5)?;
        let mut catalog = Self { code, ..Self::default() };
        for row in relations {
            let (oid, schema, name) = triple(0, &row)?;
            let (oid, schema, name) = (number(0, oid)?, schema.to_owned(), name.to_owned());
            catalog.by_name.entry(name.clone()).or_default().push(oid);
            catalog.relations.insert(oid, Relation { schema, name });
        }
        for row in inherits {
            let (child, parent) = pair(1, &row)?;
            let (child, parent) = (number(1, child)?, number(1, parent)?);
            catalog.children.entry(parent).or_default().push(child);
            catalog.parents.entry(child).or_default().push(parent);
        }
        for row in views {
            let (view, source) = pair(2, &row)?;
            catalog.views.entry(number(2, view)?).or_default().push(number(2, source)?);
        }
        for row in attributes {
            let (oid, attribute, name) = triple(3, &row)?;
            let entry = (number(3, attribute)?, name.to_owned());
            catalog.attributes.entry(number(3, oid)?).or_default().push(entry);
        }
        for row in generated {
            let (oid, attribute, source) = triple(4, &row)?;
            catalog
                .generated
                .entry(number(4, oid)?)
                .or_default()
                .push((number(4, attribute)?, number(4, source)?));
        }
        Ok(catalog)
    }

    /// True if nothing was read: every relation is then unknown.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.relations.is_empty()
    }

    /// A relation by OID.
    #[must_use]
    pub(crate) fn relation(&self, oid: u32) -> Option<&Relation> {
        self.relations.get(&oid)
    }

    /// All relations, with their OIDs.
    pub(crate) fn relations(&self) -> impl Iterator<Item = (u32, &Relation)> {
        self.relations.iter().map(|(oid, relation)| (*oid, relation))
    }

    /// OIDs of every relation of that name, in any schema or in the one given.
    pub(crate) fn named<'a>(&'a self, schema: Option<&'a str>, name: &str) -> impl Iterator<Item = u32> + 'a {
        let all = self.by_name.get(name).map_or(&[] as &[u32], Vec::as_slice);
        all.iter().copied().filter(move |oid| {
            schema.is_none_or(|schema| {
                self.relations.get(oid).is_some_and(|relation| relation.schema == schema)
            })
        })
    }

    /// `oid` and everything that inherits from it or is a partition of it.
    #[must_use]
    pub(crate) fn family(&self, oid: u32) -> Vec<u32> {
        closure(oid, |member| self.children.get(&member).map_or(&[], Vec::as_slice))
    }

    /// `oid` and everything that it inherits from or is a partition of: its rows are seen there, too.
    #[must_use]
    pub(crate) fn ancestry(&self, oid: u32) -> Vec<u32> {
        closure(oid, |member| self.parents.get(&member).map_or(&[], Vec::as_slice))
    }

    /// Views with the relations they read; 0 stands for code of the user's.
    pub(crate) fn views(&self) -> impl Iterator<Item = (u32, &[u32])> {
        self.views.iter().map(|(view, sources)| (*view, sources.as_slice()))
    }

    /// Number of a column.
    #[must_use]
    pub(crate) fn attribute(&self, oid: u32, column: &str) -> Option<i16> {
        self.attributes.get(&oid)?.iter().find(|(_, name)| name == column).map(|(number, _)| *number)
    }

    /// Name of a column.
    #[must_use]
    pub(crate) fn attribute_name(&self, oid: u32, attribute: i16) -> Option<&str> {
        self.attributes
            .get(&oid)?
            .iter()
            .find(|(number, _)| *number == attribute)
            .map(|(_, name)| name.as_str())
    }

    /// What code of users' may have to do with a statement that names these relations.
    #[must_use]
    pub(super) fn code(&self, statement: &Statement, relations: &[u32]) -> Sight {
        self.code.sight(statement, relations, |relation, column| self.attribute(relation, column).is_some())
    }

    /// Takes over what an earlier snapshot of the same database knows: what a relation was called, and what it was a child
    /// or a partition of, stays with its number.
    pub(super) fn remember(&mut self, earlier: &Self) {
        let renamed =
            earlier.relations.iter().map(|(oid, relation)| (*oid, &relation.schema, &relation.name));
        let older = earlier
            .former
            .iter()
            .flat_map(|(name, bearers)| bearers.iter().map(move |(schema, oid)| (*oid, schema, name)));
        let mut left = FORMER_MAX;
        for (oid, schema, name) in older.chain(renamed) {
            let now = self.relations.get(&oid);
            if left > 0 && now.is_some_and(|now| (&now.schema, &now.name) != (schema, name)) {
                self.former.entry(name.clone()).or_default().push((schema.clone(), oid));
                left = left.saturating_sub(1);
            }
        }
        self.remember_parents(earlier);
    }

    fn remember_parents(&mut self, earlier: &Self) {
        let edges = earlier
            .children
            .iter()
            .flat_map(|(parent, children)| children.iter().map(move |child| (*parent, *child)));
        for (parent, child) in edges.take(FORMER_MAX) {
            let known = self.children.get(&parent).is_some_and(|children| children.contains(&child));
            if !known && self.relations.contains_key(&child) {
                self.children.entry(parent).or_default().push(child);
            }
        }
    }

    /// Every relation that has this name, or had it in an earlier snapshot.
    pub(super) fn bearers<'a>(&'a self, schema: &'a str, name: &str) -> impl Iterator<Item = u32> + 'a {
        let former = self.former.get(name).map_or(&[] as &[(String, u32)], Vec::as_slice);
        let former = former.iter().filter(move |(had, _)| had == schema).map(|(_, oid)| *oid);
        self.named(Some(schema), name).chain(former)
    }

    /// Generated and defaulted columns of a relation with the columns they are computed from.
    #[must_use]
    pub(crate) fn generated(&self, oid: u32) -> &[(i16, i16)] {
        self.generated.get(&oid).map_or(&[], Vec::as_slice)
    }
}

/// Everything reachable from `start`, with it.
fn closure<'a>(start: u32, next: impl Fn(u32) -> &'a [u32]) -> Vec<u32> {
    let mut seen = HashSet::from([start]);
    let mut open = vec![start];
    while let Some(member) = open.pop() {
        open.extend(next(member).iter().copied().filter(|found| seen.insert(*found)));
    }
    seen.into_iter().collect()
}

pub(super) fn number<N: std::str::FromStr>(query: usize, text: &str) -> Result<N, CatalogError> {
    text.parse().ok().ok_or(CatalogError::Row { query })
}

fn pair(query: usize, row: &Row) -> Result<(&str, &str), CatalogError> {
    match row.as_slice() {
        [Some(first), Some(second)] => Ok((first, second)),
        _ => Err(CatalogError::Row { query }),
    }
}

fn triple(query: usize, row: &Row) -> Result<(&str, &str, &str), CatalogError> {
    match row.as_slice() {
        [Some(first), Some(second), Some(third)] => Ok((first, second, third)),
        _ => Err(CatalogError::Row { query }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn rows(rows: &[&[&str]]) -> Vec<Row> {
        rows.iter().map(|row| row.iter().map(|cell| Some((*cell).to_owned())).collect()).collect()
    }

    /// A snapshot from the first results; the others are empty.
    pub(crate) fn catalog(first: impl IntoIterator<Item = Vec<Row>>) -> Result<Catalog, CatalogError> {
        let mut results: [Vec<Row>; QUERIES.len()] = Default::default();
        for (place, result) in results.iter_mut().zip(first) {
            *place = result;
        }
        Catalog::read(results)
    }

    #[test]
    fn a_row_of_another_form_refuses_the_snapshot() {
        let broken = catalog([rows(&[&["x", "public", "t"]])]);
        assert_eq!(broken, Err(CatalogError::Row { query: 0 }));
        let short = catalog([rows(&[&["1", "public"]])]);
        assert_eq!(short, Err(CatalogError::Row { query: 0 }));
    }

    #[test]
    fn a_family_follows_inheritance_even_in_a_circle() {
        let catalog = catalog([vec![], rows(&[&["2", "1"], &["3", "2"], &["1", "3"]])]);
        let mut family = catalog.unwrap().family(1);
        family.sort_unstable();
        assert_eq!(family, [1, 2, 3]);
    }

    #[test]
    fn an_ancestry_goes_up_and_not_down() {
        let catalog = catalog([vec![], rows(&[&["2", "1"], &["3", "2"], &["4", "2"]])]).unwrap();
        let mut ancestry = catalog.ancestry(3);
        ancestry.sort_unstable();
        assert_eq!(ancestry, [1, 2, 3]);
    }

    #[test]
    fn a_relation_is_known_by_every_name_it_had() {
        let named = |name: &str, schema: &str| catalog([rows(&[&["7", schema, name]])]).unwrap();
        let first = named("a", "public");
        let mut second = named("b", "public");
        second.remember(&first);
        let mut third = named("b", "moved");
        third.remember(&second);
        for (schema, name) in [("public", "a"), ("public", "b"), ("moved", "b")] {
            assert_eq!(third.bearers(schema, name).collect::<Vec<_>>(), [7], "{schema}.{name}");
        }
        assert_eq!(third.bearers("moved", "a").count(), 0);
        let mut gone = catalog([]).unwrap();
        gone.remember(&third);
        assert_eq!(gone.bearers("public", "a").count(), 0);
    }

    #[test]
    fn a_child_that_was_taken_from_its_parent_stays_in_the_family() {
        let relations = || rows(&[&["1", "public", "parent"], &["2", "public", "child"]]);
        let first = catalog([relations(), rows(&[&["2", "1"], &["3", "1"]])]).unwrap();
        let mut second = catalog([relations()]).unwrap();
        second.remember(&first);
        let mut third = catalog([relations()]).unwrap();
        third.remember(&second);
        let mut family = third.family(1);
        family.sort_unstable();
        assert_eq!(family, [1, 2], "what is gone is forgotten");
        assert_eq!(third.ancestry(2), [2], "its rows are not seen in the parent any more");
    }
}
