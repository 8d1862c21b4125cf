//! Ways to hide a relation, a write or code from a parser.

use super::*;

/// One relation `customers`, in every place the grammar has for it; never a relation `nothing`.
const NAMING_CUSTOMERS: &[&str] = &[
    "SELECT ssn FROM customers",
    "SELECT ssn FROM ONLY customers",
    "SELECT ssn FROM ONLY (customers)",
    "SELECT ssn FROM customers *",
    "TABLE customers",
    "TABLE ONLY customers",
    "SELECT ssn FROM Customers",
    "SELECT ssn FROM \"customers\"",
    "SELECT ssn FROM U&\"c\\0075stomers\"",
    "SELECT ssn FROM U&\"c!0075stomers\" UESCAPE '!'",
    "SELECT x.b FROM customers AS x(a, b, c)",
    "SELECT ssn FROM customers TABLESAMPLE SYSTEM (100)",
    "SELECT ssn FROM (SELECT ssn FROM customers) s",
    "WITH w AS (SELECT ssn FROM customers) SELECT * FROM w",
    "WITH w AS MATERIALIZED (TABLE customers) TABLE w",
    "SELECT 1 UNION SELECT id FROM customers",
    "SELECT 1 UNION (TABLE customers)",
    "SELECT (SELECT ssn FROM customers LIMIT 1)",
    "SELECT ARRAY(SELECT ssn FROM customers)",
    "SELECT 1 WHERE EXISTS (SELECT FROM customers)",
    "SELECT 1 LIMIT (SELECT count(*) FROM customers)",
    "SELECT 1 OFFSET (SELECT count(*) FROM customers)",
    "SELECT 1 FETCH FIRST (SELECT count(*) FROM customers) ROWS ONLY",
    "SELECT 1 ORDER BY (SELECT max(ssn) FROM customers)",
    "SELECT 1 GROUP BY (SELECT max(ssn) FROM customers)",
    "SELECT 1 HAVING (SELECT true FROM customers)",
    "SELECT count(*) FILTER (WHERE (SELECT true FROM customers))",
    "SELECT sum(1) OVER (ORDER BY (SELECT ssn FROM customers))",
    "SELECT sum(1) OVER w WINDOW w AS (PARTITION BY (SELECT ssn FROM customers))",
    "SELECT mode() WITHIN GROUP (ORDER BY (SELECT ssn FROM customers))",
    "SELECT string_agg('a', 'b' ORDER BY (SELECT ssn FROM customers))",
    "SELECT DISTINCT ON ((SELECT ssn FROM customers)) 1",
    "VALUES ((SELECT ssn FROM customers LIMIT 1))",
    "SELECT * FROM (VALUES ((SELECT ssn FROM customers))) v",
    "SELECT CASE WHEN (SELECT true FROM customers) THEN 1 END",
    "SELECT xmlelement(name x, (SELECT ssn FROM customers))",
    "SELECT xmlforest((SELECT ssn FROM customers) AS x)",
    "SELECT * FROM generate_series(1, (SELECT 1 FROM customers))",
    "SELECT * FROM ROWS FROM (unnest(ARRAY(SELECT ssn FROM customers)))",
    "SELECT * FROM json_table((SELECT to_json(c) FROM customers c), '$' COLUMNS (a text PATH '$.ssn'))",
    "SELECT json_value((SELECT to_jsonb(c) FROM customers c), '$.ssn')",
    "SELECT json_arrayagg(a ORDER BY (SELECT 1 FROM customers)) FROM (VALUES (1)) v(a)",
    "SELECT JSON_ARRAY(SELECT ssn FROM customers)",
    "SELECT * FROM xmltable('/r' PASSING (SELECT xmlagg(xmlelement(name r, ssn)) FROM customers) COLUMNS a text)",
    "SELECT 1 /* /* */ FROM nothing */ FROM customers",
    "SELECT 1 -- FROM nothing\n FROM customers",
    "SELECT 1 -- FROM nothing\r FROM customers",
    "SELECT 1 @-- x\n ssn FROM customers",
    "SELECT E'\\'' FROM customers --'",
    "SELECT $a$ FROM nothing $a$ FROM customers",
    "SELECT $é$ ' $é$ FROM customers",
    "SELECT 'a'\n' FROM nothing ' FROM customers",
    "SELECT * FROM customers FOR UPDATE",
    "SELECT * FROM LATERAL (TABLE customers) x",
    "PREPARE p AS SELECT ssn FROM customers",
    "DECLARE c CURSOR FOR SELECT ssn FROM customers",
    "DECLARE c BINARY CURSOR WITH HOLD FOR TABLE customers",
    "EXPLAIN SELECT ssn FROM customers",
    "EXPLAIN (ANALYZE, FORMAT xml) SELECT ssn FROM customers",
    "COPY customers TO STDOUT",
    "COPY (SELECT ssn FROM customers) TO STDOUT (FORMAT csv)",
    "COPY customers (ssn) FROM STDIN",
    "LOCK TABLE customers",
    "TRUNCATE customers",
    "DROP TABLE customers",
    "DROP TABLE IF EXISTS customers CASCADE",
    "COMMENT ON COLUMN customers.ssn IS 'x'",
    "COMMENT ON TABLE customers IS 'x'",
    "DROP TRIGGER t ON customers",
    "DROP POLICY p ON customers",
    "DROP RULE r ON customers",
    "GRANT SELECT (ssn) ON customers TO PUBLIC",
    "REVOKE ALL ON TABLE customers FROM app",
    "ALTER TABLE customers ADD x int",
    "ALTER TABLE customers RENAME ssn TO a",
    "ALTER TABLE customers OWNER TO app",
    "ALTER TABLE customers SET SCHEMA s",
    "CREATE INDEX ON customers (ssn)",
    "CREATE TRIGGER t AFTER INSERT ON customers EXECUTE FUNCTION f()",
    "CREATE POLICY p ON customers USING (true)",
    "CREATE STATISTICS s ON ssn, name FROM customers",
    "VACUUM (FULL) customers",
    "ANALYZE customers (ssn)",
    "CLUSTER customers",
    "REINDEX TABLE customers",
    "ALTER SEQUENCE customers RESTART",
    "INSERT INTO customers VALUES (1)",
    "INSERT INTO customers DEFAULT VALUES",
    "UPDATE ONLY customers SET ssn = ''",
    "DELETE FROM ONLY customers",
    "MERGE INTO customers USING customers s ON true WHEN MATCHED THEN DELETE",
];

#[test]
fn every_place_that_can_name_a_relation_is_seen() {
    for sql in NAMING_CUSTOMERS {
        let found = relations(sql);
        assert!(found.contains(&"customers".to_owned()), "{sql}: {found:?}");
        assert!(!found.contains(&"nothing".to_owned()), "{sql}: {found:?}");
        assert!(!found.contains(&"only".to_owned()), "{sql}: {found:?}");
    }
}

#[test]
fn relations_that_define_others_are_all_named() {
    for (sql, all) in [
        ("CREATE VIEW v AS TABLE customers", vec!["customers", "v"]),
        ("CREATE TABLE t AS SELECT ssn FROM customers", vec!["customers", "t"]),
        ("SELECT ssn INTO t FROM customers", vec!["customers", "t"]),
        ("CREATE TABLE t (LIKE customers)", vec!["customers", "t"]),
        ("CREATE TABLE t () INHERITS (customers)", vec!["customers", "t"]),
        ("CREATE TABLE t (a int REFERENCES s.customers)", vec!["t", "s.customers"]),
        ("ALTER TABLE t ATTACH PARTITION customers DEFAULT", vec!["customers", "t"]),
        ("CREATE RULE r AS ON INSERT TO t DO ALSO DELETE FROM customers", vec!["customers", "t"]),
        ("ALTER SEQUENCE q OWNED BY customers.id", vec!["customers", "q"]),
        ("DROP VIEW s.a, B", vec!["b", "s.a"]),
        (
            "CREATE FUNCTION f(x customers.ssn%TYPE) RETURNS int LANGUAGE sql RETURN (SELECT 1 FROM t)",
            vec!["customers", "t"],
        ),
        (
            "CREATE SCHEMA s CREATE TABLE t (a int) CREATE VIEW v AS TABLE customers",
            vec!["customers", "t", "v"],
        ),
    ] {
        assert_eq!(relations(sql), all, "{sql}");
    }
}

#[test]
fn a_cte_hides_only_unqualified_names_in_its_scope() {
    for (sql, all) in [
        ("WITH customers AS (SELECT 1) SELECT * FROM customers", vec![]),
        ("WITH customers AS (SELECT 1) SELECT * FROM public.customers", vec!["public.customers"]),
        ("WITH customers AS (SELECT * FROM customers) SELECT * FROM customers", vec!["customers"]),
        ("WITH RECURSIVE customers AS (SELECT 1 UNION SELECT * FROM customers) TABLE customers", vec![]),
        ("SELECT * FROM (WITH customers AS (SELECT 1) TABLE customers) s, customers", vec!["customers"]),
        ("WITH a AS (TABLE customers), customers AS (SELECT 1) TABLE customers", vec!["customers"]),
        ("WITH customers AS (SELECT 1) DELETE FROM customers", vec!["customers"]),
        ("WITH customers AS (SELECT 1) INSERT INTO t SELECT * FROM customers", vec!["t"]),
        ("SELECT (WITH customers AS (SELECT 1) TABLE customers) UNION TABLE customers", vec!["customers"]),
    ] {
        assert_eq!(relations(sql), all, "{sql}");
    }
}

#[test]
fn writes_are_seen_wherever_they_hide() {
    for (sql, all) in [
        ("WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d", vec!["select", "delete"]),
        ("WITH d AS (SELECT 1) DELETE FROM t WHERE a = 1", vec!["select", "delete"]),
        ("SELECT 1; DROP TABLE t", vec!["select", "drop"]),
        ("SELECT E'\\''; DELETE FROM t WHERE a = 1 --'", vec!["select", "delete"]),
        ("SELECT '\\'; DELETE FROM t WHERE a = 1 --'", vec!["select", "delete"]),
        ("EXPLAIN ANALYZE DELETE FROM t", vec!["delete"]),
        ("EXPLAIN (ANALYZE false) DELETE FROM t", vec!["select"]),
        ("EXPLAIN (ANALYZE off, ANALYZE) DELETE FROM t", vec!["delete"]),
        ("EXPLAIN DELETE FROM t", vec!["select"]),
        ("COPY (DELETE FROM t RETURNING *) TO STDOUT", vec!["select", "delete", "copy-out"]),
        ("PREPARE p AS INSERT INTO t VALUES ($1)", vec!["insert"]),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1", vec!["insert", "update"]),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", vec!["insert"]),
        ("INSERT INTO t VALUES (1) RETURNING a", vec!["select", "insert"]),
        ("INSERT INTO t SELECT * FROM s", vec!["select", "insert"]),
        ("SELECT * INTO t FROM s", vec!["select", "create"]),
        ("SELECT * FROM t FOR SHARE", vec!["select", "update"]),
        (
            "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN UPDATE SET b = 1 WHEN NOT MATCHED THEN INSERT VALUES (1)",
            vec!["select", "insert", "update"],
        ),
        ("SELECT nextval('s')", vec!["select", "update"]),
        ("LOCK TABLE t IN ACCESS SHARE MODE", vec!["select"]),
        ("LOCK TABLE t IN EXCLUSIVE MODE", vec!["update"]),
        ("CREATE OR REPLACE VIEW v AS SELECT 1", vec!["select", "create", "alter"]),
        ("NOTIFY c, 'x'", vec!["update"]),
        ("CREATE ROLE r LOGIN", vec!["grant"]),
    ] {
        assert_eq!(effects(sql), all, "{sql}");
    }
}

#[test]
fn code_that_cannot_be_seen_is_execute_and_opaque() {
    for sql in [
        "SELECT my_function(1)",
        "SELECT public.lower('x')",
        "SELECT * FROM my_rows()",
        "SELECT ssn(c) FROM customers c",
        "SELECT ('x'::text).run_it",
        "SELECT (c).ssn FROM customers c",
        "SELECT 1 OPERATOR(public.+) 2",
        "SELECT a <=> b FROM t",
        "SELECT a FROM t ORDER BY a USING <<<",
        "SELECT * FROM t TABLESAMPLE my_method (1)",
        "SELECT 1 WHERE 1 <<< ANY (SELECT 2)",
        "CREATE TABLE t (a int DEFAULT my_function())",
        "EXECUTE p",
        "CALL p()",
        "CREATE EXTENSION dblink",
        "EXPLAIN SELECT my_function(1)",
        "DECLARE c CURSOR FOR SELECT my_function(1)",
    ] {
        let analysis = known(sql);
        assert!(analysis.operation.effects.contains(&Effect::Execute), "{sql}");
        assert!(is_opaque(sql), "{sql}");
    }
    assert!(known("SELECT public.lower('x')").operation.functions.contains("public.lower"));
    assert!(column_facts("SELECT ssn(c) FROM customers c").contains("ssn"));
    assert!(column_facts("SELECT (c).ssn FROM customers c").contains("ssn"));
    assert!(column_facts("SELECT name(c.*) FROM customers c").contains("name"));
}

#[test]
fn what_reaches_further_than_its_text_is_unknown() {
    for sql in [
        "SELECT query_to_xml('select 1', true, true, '')",
        "SELECT pg_catalog.database_to_xml(true, true, '')",
        "SELECT * FROM dblink('x', 'y') AS t(a int)",
        "SELECT ('/etc/passwd'::text).pg_read_file",
        "SELECT lo_import('/etc/passwd')",
        "SELECT pg_terminate_backend(1)",
        "SELECT * FROM ts_stat('select 1')",
        "SELECT setval('s', 1)",
        "SELECT set_config('role', 'admin', false)",
        "SELECT set_config(name, 'x', false) FROM pg_settings",
        "SELECT set_config(a || b, 'x', false) FROM t",
        "SELECT set_config('search_path', a, false) FROM t",
        "SELECT set_config(name, 'x', false) FROM pg_settings WHERE name = 'role'",
        "SELECT set_config(name, 'x', false) FROM pg_settings WHERE name = 'search_path' OR true",
        "COPY t TO PROGRAM 'sh'",
        "COPY t TO '/tmp/x'",
        "COPY t FROM '/etc/passwd'",
        "DO $$ BEGIN END $$",
        "LOAD 'x'",
        "ALTER SYSTEM SET a = 1",
        "ALTER ROLE app SET search_path = x",
        "SET ROLE admin",
        "SET SESSION AUTHORIZATION admin",
        "RESET ROLE",
        "SET standard_conforming_strings = off",
        "SET client_encoding = 'SJIS'",
        "SET NAMES 'LATIN1'",
        "SET client_min_messages = debug5",
        "SET LOCAL debug_print_plan = on",
        "SET auto_explain.log_min_duration = 0",
        "PREPARE TRANSACTION 'x'",
        "COMMIT PREPARED 'x'",
        "TRUNCATE t CASCADE",
        "DROP SCHEMA s CASCADE",
        "DROP OWNED BY app",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO app",
        "CREATE SERVER s FOREIGN DATA WRAPPER w",
        "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
        "CREATE PUBLICATION p FOR ALL TABLES",
        "SECURITY LABEL ON TABLE t IS 'x'",
        "CHECKPOINT",
        "SELECT FROM WHERE",
        "SELECT 'unterminated",
        "START_REPLICATION SLOT s LOGICAL 0/0",
    ] {
        assert_unknown(sql);
    }
}

#[test]
fn oversized_deep_and_odd_texts_are_unknown_and_harm_nobody() {
    assert_unknown("SELECT 1\0");
    assert_unknown("SELECT '\u{1}'");
    assert_unknown("SELECT\u{b}1");
    assert_unknown(&format!("SELECT '{}'", "x".repeat(1 << 20)));
    let nearly = format!("SELECT '{}'", "x".repeat((1 << 20) - 9));
    assert!(!analyse_text(&nearly).is_unknown());
    assert_unknown(&format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)));
    assert_unknown(&format!("SELECT {}1", "- ".repeat(10_000)));
    assert_unknown(&format!("SELECT 1{}", "+1".repeat(10_000)));
    assert_unknown(&format!("SELECT 1{}", "+1".repeat(500_000)));
    assert_unknown(&format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(10_000)));
    assert_unknown(&format!("{}SELECT 1{}", "SELECT (".repeat(10_000), ")".repeat(10_000)));
    // Width is not depth.
    let wide = format!(
        "SELECT a FROM t WHERE a IN ({}1) AND b = 1{}",
        "1,".repeat(50_000),
        " AND c = 2".repeat(500)
    );
    assert!(!analyse_text(&wide).is_unknown());
    let rows = format!("INSERT INTO t VALUES (1){}", ",(1)".repeat(50_000));
    assert_eq!(effects(&rows), ["insert"]);
}

#[test]
fn the_second_parser_only_adds_suspicion() {
    use super::super::{second, tree};
    let sql = "SELECT a FROM t WHERE b IN (SELECT c FROM u)";
    let result = pg_query::parse(sql, 0).unwrap();
    let tree = tree::grow(&result.protobuf.stmts[0].stmt).unwrap();
    let found = known(sql).operation;
    assert_eq!(second::objection(sql, &tree, &found), None);
    let mut less = (*found).clone();
    less.relations.pop_last();
    assert!(second::objection(sql, &tree, &less).is_some());
    // It is told of a write that the facts lack.
    assert!(second::objection("DELETE FROM t WHERE b IN (SELECT c FROM u)", &tree, &found).is_some());
    assert!(second::objection("SELECT 1; SELECT 2", &tree, &found).is_some());
    assert_eq!(second::objection("this is not SQL", &tree, &found), None);
}
