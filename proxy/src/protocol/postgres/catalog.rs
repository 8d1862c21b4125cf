//! What the server's catalog says about relations, read over a side connection with the resource's own credential.
//!
//! Pure: rows come in, a snapshot comes out. The driver loads it (`login::rows`) and refreshes it when a statement names a
//! relation it does not know, after any statement that changes objects, and when it is older than `driver::CATALOG_AGE_MAX`.
//! INVARIANT: what the snapshot does not know is treated as sensitive, never as harmless.
//! Known limit: another client's DDL is seen only at the next refresh.

use std::collections::{HashMap, HashSet};

/// A row of text columns, as the simple protocol returns it.
pub(crate) type Row = Vec<Option<String>>;

/// Relations read at most. A database with more is refused rather than half known.
pub(crate) const RELATIONS_MAX: usize = 200_000;

/// The queries, in the order [`Catalog::read`] takes their results.
pub(crate) const QUERIES: [&str; 6] = [
    "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
     WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r','v','m','f','p','S']::pg_catalog.\"char\"[])",
    "SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits",
    // A view depends on relations (their oid) and on functions of the user's (0: it runs code we cannot see into).
    "SELECT DISTINCT r.ev_class, CASE WHEN d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
     THEN d.refobjid ELSE 0 END FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON d.objid OPERATOR(pg_catalog.=) r.oid \
     WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
     AND r.ev_class OPERATOR(pg_catalog.<>) d.refobjid AND (d.refclassid OPERATOR(pg_catalog.=) \
     'pg_catalog.pg_class'::pg_catalog.regclass OR d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass)",
    "SELECT a.attrelid, a.attnum, a.attname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c \
     ON c.oid OPERATOR(pg_catalog.=) a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
     WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped AND n.nspname OPERATOR(pg_catalog.<>) 'pg_catalog' \
     AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r','v','m','f','p']::pg_catalog.\"char\"[])",
    "SELECT ad.adrelid, ad.adnum, d.refobjsubid FROM pg_catalog.pg_attrdef ad JOIN pg_catalog.pg_depend d \
     ON d.objid OPERATOR(pg_catalog.=) ad.oid WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass \
     AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
     AND d.refobjid OPERATOR(pg_catalog.=) ad.adrelid AND d.refobjsubid OPERATOR(pg_catalog.>) 0",
    // Functions of users, for they may hide behind a built-in name with other argument types. Extensions are the operator's.
    "SELECT DISTINCT p.proname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
     WHERE n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_catalog','information_schema']::pg_catalog.name[]) \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass \
     AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\")",
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
    views: HashMap<u32, Vec<u32>>,
    attributes: HashMap<u32, Vec<(i16, String)>>,
    generated: HashMap<u32, Vec<(i16, i16)>>,
    functions: HashSet<String>,
}

impl Catalog {
    /// A snapshot from the results of [`QUERIES`].
    ///
    /// # Errors
    /// When a row has another form than its query returns.
    pub(crate) fn read(results: [Vec<Row>; 6]) -> Result<Self, CatalogError> {
        let [relations, inherits, views, attributes, generated, functions] = results;
        if relations.len() > RELATIONS_MAX {
            return Err(CatalogError::TooLarge);
        }
        let mut catalog = Self::default();
        for row in relations {
            let (oid, schema, name) = triple(0, &row)?;
            let (oid, schema, name) = (number(0, oid)?, schema.to_owned(), name.to_owned());
            catalog.by_name.entry(name.clone()).or_default().push(oid);
            catalog.relations.insert(oid, Relation { schema, name });
        }
        for row in inherits {
            let (child, parent) = pair(1, &row)?;
            catalog.children.entry(number(1, parent)?).or_default().push(number(1, child)?);
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
        for row in functions {
            match row.as_slice() {
                [Some(name)] => catalog.functions.insert(name.clone()),
                _ => return Err(CatalogError::Row { query: 5 }),
            };
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

    /// Whether a call written like this may run a function of a user's, whatever built-in function has the same name.
    #[must_use]
    pub(crate) fn may_be_users(&self, written: &str) -> bool {
        let name = written.rsplit('.').next().unwrap_or(written);
        !written.starts_with("pg_catalog.") && self.functions.contains(name)
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

fn number<N: std::str::FromStr>(query: usize, text: &str) -> Result<N, CatalogError> {
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

    #[test]
    fn a_row_of_another_form_refuses_the_snapshot() {
        let broken = [rows(&[&["x", "public", "t"]]), vec![], vec![], vec![], vec![], vec![]];
        assert_eq!(Catalog::read(broken), Err(CatalogError::Row { query: 0 }));
        let short = [rows(&[&["1", "public"]]), vec![], vec![], vec![], vec![], vec![]];
        assert_eq!(Catalog::read(short), Err(CatalogError::Row { query: 0 }));
    }

    #[test]
    fn a_family_follows_inheritance_even_in_a_circle() {
        let catalog = Catalog::read([
            vec![],
            rows(&[&["2", "1"], &["3", "2"], &["1", "3"]]),
            vec![],
            vec![],
            vec![],
            vec![],
        ]);
        let mut family = catalog.unwrap().family(1);
        family.sort_unstable();
        assert_eq!(family, [1, 2, 3]);
    }
}
