//! Code of users that the server may run where a statement looks built-in.
//!
//! A name decides nothing in PostgreSQL: a function, an operator or a cast that fits the argument types better, or comes
//! first in the search path, takes the place of the built-in one. So the snapshot has the names of all that users made.
//! Whatever may use one of them depends on more than its text says. Members of extensions are the operator's.
//! Known limits: a built-in function that a superuser replaced in place is not found; classes of operators, which order
//! and compare but give no value, are not looked at.

use std::collections::{HashMap, HashSet};

use super::catalog::{CatalogError, Row, number};
use crate::model::Effect;
use crate::sql::{Statement, StatementKind, is_plain_builtin};

/// The queries, in the order [`Code::read`] takes their results. Objects from number 16384 on are users'.
pub(super) const QUERIES: [&str; 4] = [
    // Functions: name, schema, and whether `c.f` may mean `f(c)`, a call with a whole row.
    "SELECT DISTINCT p.proname, n.nspname, CASE WHEN p.pronargs OPERATOR(pg_catalog.>) 0 \
     AND (p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults OPERATOR(pg_catalog.<) 2 \
     OR p.provariadic OPERATOR(pg_catalog.<>) '0'::pg_catalog.oid) \
     AND NOT (t.typtype OPERATOR(pg_catalog.=) 'b'::pg_catalog.\"char\" AND t.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid) \
     THEN 'row' ELSE '' END FROM pg_catalog.pg_proc p \
     JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
     LEFT JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) p.proargtypes[0] \
     WHERE p.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass \
     AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\")",
    // Operators: name, schema, and the function behind it if that is built in.
    "SELECT DISTINCT o.oprname, n.nspname, CASE WHEN p.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid THEN p.proname ELSE '' END \
     FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace \
     JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) o.oprcode::pg_catalog.oid \
     WHERE o.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass \
     AND d.objid OPERATOR(pg_catalog.=) o.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\")",
    // Casts that run a function: the function if it is built in, and both types if they are users'. Then types with an
    // input function of their own.
    "SELECT CASE WHEN p.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid THEN p.proname ELSE '' END, \
     CASE WHEN s.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid THEN s.typname ELSE '' END, \
     CASE WHEN t.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid THEN t.typname ELSE '' END \
     FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) c.castfunc \
     JOIN pg_catalog.pg_type s ON s.oid OPERATOR(pg_catalog.=) c.castsource \
     JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) c.casttarget \
     WHERE c.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_cast'::pg_catalog.regclass \
     AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\") \
     UNION ALL SELECT '', t.typname, t.typname FROM pg_catalog.pg_type t \
     WHERE t.typtype OPERATOR(pg_catalog.=) 'b'::pg_catalog.\"char\" AND t.typinput::pg_catalog.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass \
     AND d.objid OPERATOR(pg_catalog.=) t.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\")",
    // Relations with a column of a type, or with a row type, that such a cast converts.
    "WITH c AS (SELECT castsource, casttarget FROM pg_catalog.pg_cast c WHERE c.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid \
     AND c.castfunc OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_cast'::pg_catalog.regclass \
     AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\")), \
     x AS (SELECT castsource AS t FROM c UNION SELECT casttarget FROM c), \
     y AS (SELECT t.oid, t.typrelid FROM pg_catalog.pg_type t WHERE t.oid IN (SELECT t FROM x) \
     OR t.typelem IN (SELECT t FROM x) OR t.typbasetype IN (SELECT t FROM x)) \
     SELECT a.attrelid FROM pg_catalog.pg_attribute a WHERE a.atttypid IN (SELECT oid FROM y WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid) \
     AND a.attnum OPERATOR(pg_catalog.>) 0 \
     UNION SELECT typrelid FROM y WHERE typrelid OPERATOR(pg_catalog.<>) '0'::pg_catalog.oid",
];

/// The code of users' in one database.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Code {
    /// Functions by name; true if one of that name is in `pg_catalog`.
    functions: HashMap<String, bool>,
    /// Functions that may be called as if they were a column.
    of_rows: HashSet<String>,
    /// Operators, likewise.
    operators: HashMap<String, bool>,
    /// Users' types that a cast of users' code converts, or that are read by users' code.
    types: HashSet<String>,
    /// Such a cast is between built-in types, so that it may run anywhere.
    anywhere: bool,
    /// Relations whose columns or rows such a cast converts.
    relations: HashSet<u32>,
}

/// What users' code may have to do with a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sight {
    /// Nothing.
    Clear,
    /// Any value that it computes may come from such code.
    Computed,
    /// It calls such a function by name.
    Called,
}

impl Code {
    /// From the results of [`QUERIES`], which are the queries from number `first` on.
    pub(super) fn read(results: [Vec<Row>; 4], first: usize) -> Result<Self, CatalogError> {
        let [functions, operators, casts, relations] = results;
        let (at_operators, at_casts, at_relations) =
            (first.saturating_add(1), first.saturating_add(2), first.saturating_add(3));
        let mut code = Self::default();
        for row in functions {
            let [name, schema, of_rows] = texts(first, row)?;
            if of_rows == "row" {
                code.of_rows.insert(name.clone());
            }
            *code.functions.entry(name).or_default() |= schema == CATALOG;
        }
        for row in operators {
            let [name, schema, function] = texts(at_operators, row)?;
            if !is_plain_builtin(&function) {
                *code.operators.entry(name).or_default() |= schema == CATALOG;
            }
        }
        for row in casts {
            let [function, source, target] = texts(at_casts, row)?;
            if !is_plain_builtin(&function) {
                code.anywhere |= source.is_empty() && target.is_empty();
                code.types.extend([source, target].into_iter().filter(|name| !name.is_empty()));
            }
        }
        for row in relations {
            let [relation] = texts(at_relations, row)?;
            code.relations.insert(number(at_relations, &relation)?);
        }
        Ok(code)
    }

    /// What it may have to do with a statement that names these relations. `has` says whether a relation has a column.
    pub(super) fn sight(
        &self,
        statement: &Statement,
        relations: &[u32],
        has: impl Fn(u32, &str) -> bool,
    ) -> Sight {
        let operation = &statement.operation;
        let as_column = |name: &String| {
            let column = !relations.is_empty() && relations.iter().all(|relation| has(*relation, name));
            self.of_rows.contains(name) && !column
        };
        if operation.functions.iter().any(|written| may_be(&self.functions, written))
            || operation.columns.iter().any(as_column)
        {
            return Sight::Called;
        }
        let types = statement.uses.types.iter().any(|written| self.types.contains(last(written)));
        if self.anywhere && computes(statement)
            || types
            || statement.uses.operators.iter().any(|written| may_be(&self.operators, written))
            || relations.iter().any(|relation| self.relations.contains(relation))
        {
            return Sight::Computed;
        }
        Sight::Clear
    }
}

const CATALOG: &str = "pg_catalog";

/// Whether something written like this may be a user's. A schema that is written may be anybody's but `pg_catalog`.
fn may_be(known: &HashMap<String, bool>, written: &str) -> bool {
    known.get(last(written)).is_some_and(|in_catalog| *in_catalog || !written.starts_with("pg_catalog."))
}

fn last(written: &str) -> &str {
    written.rsplit('.').next().unwrap_or(written)
}

/// Whether a statement computes or stores values at all.
fn computes(statement: &Statement) -> bool {
    let settles = |effect: &Effect| matches!(effect, Effect::Transaction | Effect::Set);
    !matches!(statement.kind, StatementKind::Show { .. }) && !statement.operation.effects.iter().all(settles)
}

fn texts<const N: usize>(query: usize, row: Row) -> Result<[String; N], CatalogError> {
    let cells: Option<Vec<String>> = row.into_iter().collect();
    cells.and_then(|cells| cells.try_into().ok()).ok_or(CatalogError::Row { query })
}

#[cfg(test)]
mod tests {
    use super::super::catalog::tests::rows;
    use super::*;
    use crate::sql::analyse_text;

    fn code() -> Code {
        let functions =
            rows(&[&["lower", "public", ""], &["peek", "swap", "row"], &["upper", "pg_catalog", ""]]);
        let operators =
            rows(&[&["+", "public", ""], &["<+>", "public", "textcat"], &["-", "pg_catalog", ""]]);
        let casts = rows(&[&["", "mood", ""], &["textcat", "", ""]]);
        Code::read([functions, operators, casts, rows(&[&["7"]])], 5).unwrap()
    }

    fn sight(code: &Code, sql: &str) -> Sight {
        let analysis = analyse_text(sql);
        let relations: Vec<u32> = if sql.contains("moods") { vec![7] } else { vec![1] };
        code.sight(&analysis.statements[0], &relations, |_, column| column == "known")
    }

    #[test]
    fn whatever_may_run_users_code_is_seen_wherever_it_stands() {
        let code = code();
        for (sql, expected) in [
            ("SELECT lower(known) FROM t", Sight::Called),
            ("SELECT t.peek FROM t", Sight::Called),
            ("SELECT pg_catalog.upper(known) FROM t", Sight::Called),
            ("SELECT 1 + known FROM t", Sight::Computed),
            ("SELECT known FROM t ORDER BY known USING +", Sight::Computed),
            ("SELECT 1 OPERATOR(pg_catalog.-) 1", Sight::Computed),
            ("SELECT known::mood FROM t", Sight::Computed),
            ("SELECT mood '1'", Sight::Computed),
            ("SELECT known || '' FROM moods", Sight::Computed),
            ("SELECT pg_catalog.lower(known), 1 OPERATOR(pg_catalog.+) 2 FROM t", Sight::Clear),
            ("SELECT known <+> 'x', known::text FROM t", Sight::Clear),
            ("SELECT t.known FROM t", Sight::Clear),
        ] {
            assert_eq!(sight(&code, sql), expected, "{sql}");
        }
    }

    #[test]
    fn implied_operators_count() {
        let code = Code { operators: HashMap::from([("=".to_owned(), false)]), ..Code::default() };
        for sql in [
            "SELECT 1 IN (1)",
            "SELECT 1 IN (SELECT 1)",
            "SELECT 1 = ANY (ARRAY[1])",
            "SELECT nullif(1, 2)",
            "SELECT 1 IS DISTINCT FROM 2",
            "SELECT CASE 1 WHEN 2 THEN 3 END",
            "SELECT 1 FROM a JOIN b USING (c)",
            "SELECT 1 FROM a NATURAL JOIN b",
        ] {
            assert_eq!(sight(&code, sql), Sight::Computed, "{sql}");
        }
        let code = Code { operators: HashMap::from([("<=".to_owned(), false)]), ..Code::default() };
        assert_eq!(sight(&code, "SELECT 1 BETWEEN 2 AND 3"), Sight::Computed);
    }

    #[test]
    fn a_cast_between_built_in_types_may_run_anywhere_but_where_nothing_is_computed() {
        let code = Code { anywhere: true, ..Code::default() };
        for sql in ["SELECT 1", "INSERT INTO t VALUES (1)", "SELECT known FROM t"] {
            assert_eq!(sight(&code, sql), Sight::Computed, "{sql}");
        }
        for sql in ["COMMIT", "SET search_path = a", "SHOW datestyle"] {
            assert_eq!(sight(&code, sql), Sight::Clear, "{sql}");
        }
    }

    #[test]
    fn a_row_of_another_form_refuses_the_snapshot() {
        let results = [vec![], rows(&[&["+", "public"]]), vec![], vec![]];
        assert_eq!(Code::read(results, 5), Err(CatalogError::Row { query: 6 }));
        let results = [vec![], vec![], vec![], rows(&[&["x"]])];
        assert_eq!(Code::read(results, 5), Err(CatalogError::Row { query: 8 }));
    }
}
