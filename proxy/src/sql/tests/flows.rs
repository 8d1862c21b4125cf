//! What outputs and writes can depend on, filters and limits.

use super::*;

#[test]
fn outputs_of_plain_selects_are_column_reads() {
    for (sql, all) in [
        ("SELECT id, c.ssn FROM customers c", vec![columns(&["id"]), columns(&["ssn"])]),
        ("SELECT 1, $1, 'x', NULL, count(*), now() FROM t", vec![ColumnReads::Nothing; 6]),
        (
            "SELECT upper(a) || b::text, coalesce(a, c) FROM t",
            vec![columns(&["a", "b"]), columns(&["a", "c"])],
        ),
        ("SELECT CASE WHEN a > 1 THEN b ELSE c END FROM t", vec![columns(&["a", "b", "c"])]),
        (
            "SELECT a.x, b.y FROM a JOIN b USING (id) LEFT JOIN c ON c.i = a.i",
            vec![columns(&["x"]), columns(&["y"])],
        ),
        ("SELECT public.t.a FROM public.t", vec![columns(&["a"])]),
        ("SELECT tags[1], ROW(a, b) FROM t", vec![columns(&["tags"]), columns(&["a", "b"])]),
        ("SELECT sum(a) FILTER (WHERE b) FROM t", vec![columns(&["a", "b"])]),
        ("SELECT row_number() OVER (ORDER BY ssn) FROM t", vec![columns(&["ssn"])]),
        ("SELECT row_number() OVER w FROM t WINDOW w AS (ORDER BY ssn)", vec![columns(&["ssn"])]),
        ("SELECT string_agg('x', ',' ORDER BY ssn) FROM t", vec![columns(&["ssn"])]),
        ("SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY ssn) FROM t", vec![columns(&["ssn"])]),
        ("VALUES (1, 2), (3, 4)", vec![ColumnReads::Nothing; 2]),
        ("SELECT FROM t", vec![]),
        ("SELECT xmlelement(name a, xmlattributes(ssn)) FROM t", vec![columns(&["ssn"])]),
        ("SELECT json_object('a' VALUE ssn) FROM t", vec![columns(&["ssn"])]),
        ("INSERT INTO t (a) VALUES (1) RETURNING id, a", vec![columns(&["id"]), columns(&["a"])]),
        ("UPDATE t SET a = 1 RETURNING old.b, new.c", vec![columns(&["b"]), columns(&["c"])]),
        ("DELETE FROM t USING u WHERE t.i = u.i RETURNING u.a", vec![columns(&["a"])]),
        ("COPY t (a, b) TO STDOUT", vec![columns(&["a"]), columns(&["b"])]),
        ("COPY (SELECT a FROM t) TO STDOUT", vec![columns(&["a"])]),
        ("PREPARE p AS SELECT a FROM t", vec![columns(&["a"])]),
        ("DECLARE c CURSOR FOR SELECT a FROM t", vec![columns(&["a"])]),
    ] {
        assert_eq!(outputs(sql), Outputs::Columns(all), "{sql}");
    }
}

#[test]
fn outputs_that_cannot_be_proven_are_unknown() {
    for sql in [
        "SELECT * FROM t",
        "SELECT c.* FROM t c",
        "SELECT (c).* FROM t c",
        "TABLE t",
        "SELECT a FROM t UNION SELECT b FROM u",
        "WITH w AS (SELECT 1) SELECT a FROM t",
        "SELECT a FROM (SELECT a FROM t) s",
        "SELECT b FROM customers AS x(a, b)",
        "SELECT a FROM (t JOIN u USING (i)) AS j",
        "SELECT a FROM t JOIN u USING (i) AS j",
        "SELECT a FROM t, LATERAL f(t.b) g(a)",
        "SELECT a FROM unnest(ARRAY[1]) a",
        "SELECT a FROM t TABLESAMPLE system (1)",
        "COPY t TO STDOUT",
        "FETCH c",
        "EXECUTE p",
        "INSERT INTO t VALUES (1) RETURNING *",
        "EXPLAIN ANALYZE SELECT a FROM t",
    ] {
        assert_eq!(outputs(sql), Outputs::Unknown, "{sql}");
    }
}

#[test]
fn whole_rows_and_unlisted_code_are_unknown_columns() {
    for value in [
        "c",
        "customers",
        "c::text",
        "row_to_json(c)",
        "to_jsonb(c.*)",
        "ssn(c)",
        "(c).ssn",
        "c.to_jsonb",
        "c.row_to_json",
        "(SELECT 1)",
        "ARRAY(SELECT 1)",
        "my_function(1)",
        "id <<< 1",
        "count(c)",
        "c IS NULL",
        "query_to_xml('select 1', true, true, '')",
        "jsonb_build_object('a', c)",
        "(c).name",
        "ROW(c.*)",
    ] {
        let sql = format!("SELECT id, {value} FROM public.customers c, customers");
        assert_eq!(outputs(&sql), Outputs::Columns(vec![columns(&["id"]), ColumnReads::Unknown]), "{sql}");
    }
    assert_eq!(
        outputs("UPDATE t SET a = 1 RETURNING old, new"),
        Outputs::Columns(vec![ColumnReads::Unknown; 2])
    );
}

#[test]
fn statements_without_rows_have_no_outputs() {
    for sql in [
        "INSERT INTO t VALUES (1)",
        "BEGIN",
        "SET jit = off",
        "SELECT a INTO x FROM t",
        "CREATE TABLE t ()",
        "MOVE c",
    ] {
        assert_eq!(outputs(sql), Outputs::None, "{sql}");
    }
}

#[test]
fn what_is_copied_into_relations_is_named() {
    for (sql, reads) in [
        ("INSERT INTO t VALUES (1, $1)", ColumnReads::Nothing),
        ("INSERT INTO t SELECT ssn FROM customers", columns(&["ssn"])),
        ("INSERT INTO t SELECT * FROM customers", ColumnReads::Unknown),
        ("INSERT INTO t VALUES ((SELECT ssn FROM customers))", ColumnReads::Unknown),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET name = excluded.ssn", columns(&["ssn"])),
        ("INSERT INTO t VALUES (1) RETURNING ssn", ColumnReads::Nothing),
        ("UPDATE customers SET name = ssn", columns(&["ssn"])),
        ("UPDATE customers SET name = 'x' WHERE ssn = '1'", ColumnReads::Nothing),
        ("UPDATE t SET a = s.ssn FROM customers s", columns(&["ssn"])),
        ("UPDATE t SET a = s.x FROM (TABLE customers) s", ColumnReads::Unknown),
        ("UPDATE t SET (a, b) = (SELECT ssn, 1 FROM customers)", ColumnReads::Unknown),
        ("DELETE FROM t WHERE a = 1", ColumnReads::Nothing),
        ("CREATE TABLE x AS SELECT ssn FROM customers", columns(&["ssn"])),
        ("CREATE MATERIALIZED VIEW x AS SELECT ssn FROM customers", columns(&["ssn"])),
        ("CREATE VIEW x AS SELECT ssn AS id FROM customers", columns(&["ssn"])),
        ("CREATE VIEW x AS TABLE customers", ColumnReads::Unknown),
        ("SELECT ssn INTO x FROM customers", columns(&["ssn"])),
        ("SELECT ssn INTO x FROM customers UNION SELECT 1", ColumnReads::Unknown),
        ("CREATE TABLE x AS EXECUTE p", ColumnReads::Unknown),
        (
            "MERGE INTO t USING customers s ON t.a = s.a WHEN MATCHED THEN UPDATE SET a = s.ssn",
            columns(&["ssn"]),
        ),
        (
            "MERGE INTO t USING s ON t.a = s.a WHEN NOT MATCHED THEN INSERT (a) VALUES (s.ssn)",
            columns(&["ssn"]),
        ),
        ("WITH w AS (SELECT ssn FROM customers) INSERT INTO t SELECT * FROM w", ColumnReads::Unknown),
        ("WITH w AS (INSERT INTO t SELECT ssn FROM customers RETURNING 1) SELECT 1", ColumnReads::Unknown),
        ("EXPLAIN ANALYZE INSERT INTO t SELECT ssn FROM customers", columns(&["ssn"])),
        ("PREPARE p AS INSERT INTO t SELECT ssn FROM customers", columns(&["ssn"])),
        ("REFRESH MATERIALIZED VIEW m", ColumnReads::Unknown),
        ("ALTER TABLE t ALTER a TYPE text USING ssn", columns(&["ssn"])),
        ("ALTER TABLE t ADD b text GENERATED ALWAYS AS (ssn) STORED", columns(&["ssn"])),
        ("CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO u SELECT 1", ColumnReads::Unknown),
        ("CREATE TABLE t (a int DEFAULT 1)", ColumnReads::Nothing),
        ("SELECT a FROM t", ColumnReads::Nothing),
        ("SELECT a FROM t FOR UPDATE", ColumnReads::Nothing),
        ("COPY t FROM STDIN", ColumnReads::Nothing),
    ] {
        assert_eq!(writes_from(sql), reads, "{sql}");
    }
}

#[test]
fn a_filter_looks_at_a_column_and_every_part_needs_one() {
    for (sql, has) in [
        ("SELECT a FROM t WHERE b = 1", true),
        ("SELECT 1", true),
        ("SELECT a FROM t", false),
        ("SELECT a FROM t WHERE true", false),
        ("SELECT a FROM t WHERE 1 = 1", false),
        ("DELETE FROM t", false),
        ("DELETE FROM t WHERE a = 1", true),
        ("UPDATE t SET a = 1", false),
        ("UPDATE t SET a = 1 WHERE CURRENT OF c", true),
        ("SELECT a FROM t WHERE b = 1 UNION SELECT a FROM u", false),
        ("WITH d AS (DELETE FROM t RETURNING a) SELECT a FROM d WHERE a = 1", false),
        ("DELETE FROM t WHERE a = 1; DELETE FROM u", false),
        ("TRUNCATE t", false),
        ("COPY t TO STDOUT", false),
        ("INSERT INTO t VALUES (1)", true),
    ] {
        assert_eq!(known(sql).operation.has_filter, has, "{sql}");
    }
}

#[test]
fn only_a_constant_limit_of_the_whole_is_a_row_limit() {
    for (sql, limit) in [
        ("SELECT a FROM t LIMIT 10", Some(10)),
        ("SELECT a FROM t LIMIT 10 OFFSET 5", Some(10)),
        ("SELECT a FROM t FETCH FIRST 3 ROWS ONLY", Some(3)),
        ("SELECT a FROM t FETCH FIRST ROW ONLY", Some(1)),
        ("(SELECT a FROM t) LIMIT 4", Some(4)),
        ("SELECT 1 UNION SELECT 2 LIMIT 1", Some(1)),
        ("SELECT a FROM t LIMIT 1; SELECT b FROM u LIMIT 2", Some(3)),
        ("BEGIN; SELECT a FROM t LIMIT 1", Some(1)),
        ("SELECT a FROM t LIMIT 1; SELECT b FROM u", None),
        ("SELECT a FROM t ORDER BY a FETCH FIRST 3 ROWS WITH TIES", None),
        ("SELECT a FROM t LIMIT ALL", None),
        ("SELECT a FROM t LIMIT $1", None),
        ("SELECT a FROM t LIMIT 5 + 5", None),
        ("SELECT a FROM (SELECT a FROM t LIMIT 1) s", None),
        ("SELECT 1 UNION (SELECT a FROM t LIMIT 1)", None),
        ("SELECT a FROM t LIMIT 99999999999", None),
    ] {
        assert_eq!(known(sql).operation.row_limit, limit, "{sql}");
    }
}

#[test]
fn columns_are_those_read_and_those_assigned() {
    let all = |sql: &str| column_facts(sql).into_iter().collect::<Vec<_>>();
    assert_eq!(all("SELECT a AS x FROM t WHERE c.b = 1"), ["a", "b"]);
    assert_eq!(all("INSERT INTO t (a, \"B\") VALUES (1, 2) RETURNING c"), ["B", "a", "c"]);
    assert_eq!(all("UPDATE t SET a = b WHERE c = 1"), ["a", "b", "c"]);
    assert_eq!(all("SELECT U&\"s\\0073n\" FROM t"), ["ssn"]);
    assert_eq!(all("COPY t (a) TO STDOUT"), ["a"]);
    assert_eq!(all("GRANT SELECT (a) ON t TO x"), ["a"]);
    assert_eq!(all("ALTER TABLE t DROP COLUMN a"), ["a"]);
    assert_eq!(all("ALTER TABLE t RENAME a TO b"), ["a", "b"]);
}
