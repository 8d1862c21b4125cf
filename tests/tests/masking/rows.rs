//! The rows: attack, the worst it may come to, and what the agent sends. `\` starts a protocol message of its own.

use super::Row;
use super::Status::{Blocked, KnownOpen, Masked};

/// Families 1 to 8 and 14 of the catalogue.
pub(crate) const SHAPES: &[Row] = &[
    ("plain star", Masked, &["SELECT * FROM customers WHERE id >= 900"]),
    ("alias", Masked, &["SELECT email AS id, card AS name FROM customers"]),
    ("column aliases", Masked, &["SELECT c FROM customers AS x(a, b, c)"]),
    ("quoted and upper case", Masked, &["SELECT \"email\", EMAIL, U&\"em\\0061il\" FROM \"customers\""]),
    (
        "every type",
        Masked,
        &["SELECT s_num, s_day, s_uuid, s_doc, s_list, s_code FROM customers WHERE id = 900"],
    ),
    ("subquery", Masked, &["SELECT x.a FROM (SELECT national_id AS a FROM customers) x"]),
    ("cte", Masked, &["WITH q AS MATERIALIZED (SELECT national_id n FROM customers) SELECT n FROM q"]),
    ("cte upper", Masked, &["WITH q AS (SELECT upper(national_id) n FROM customers) SELECT n FROM q"]),
    (
        "cte named as another relation",
        Masked,
        &["WITH notes AS (SELECT upper(national_id) t FROM customers) SELECT t FROM notes"],
    ),
    (
        "recursive cte",
        Masked,
        &[
            "WITH RECURSIVE r(n, v) AS (SELECT 1, national_id FROM customers WHERE id = 900 UNION ALL SELECT n + 1, v FROM r WHERE n < 3) SELECT v, n FROM r",
        ],
    ),
    ("lateral", Masked, &["SELECT l.e FROM customers c, LATERAL (SELECT c.email || '' AS e) l"]),
    ("lateral function", Masked, &["SELECT l FROM customers c, LATERAL unnest(ARRAY[c.email]) l"]),
    ("tablesample", Masked, &["SELECT email FROM customers TABLESAMPLE SYSTEM (100)"]),
    ("distinct on", Masked, &["SELECT DISTINCT ON (email) email FROM customers"]),
    ("only and star", Masked, &["SELECT email FROM ONLY customers", "SELECT email FROM customers *"]),
    ("table", Masked, &["TABLE customers"]),
    (
        "set operations",
        Masked,
        &[
            "SELECT email FROM customers UNION SELECT 'x'",
            "SELECT t FROM notes UNION ALL SELECT national_id FROM customers",
            "SELECT 'x' UNION ALL TABLE vault1",
        ],
    ),
    ("intersect", Masked, &["SELECT email FROM customers INTERSECT SELECT email FROM customers"]),
    (
        "using",
        Masked,
        &[
            "SELECT email FROM customers a FULL JOIN customers_vip b USING (email)",
            "SELECT j.email FROM customers JOIN customers_vip USING (email) AS j",
        ],
    ),
    ("natural join", Masked, &["SELECT * FROM customers NATURAL JOIN customers_vip"]),
    (
        "grouping sets",
        Masked,
        &[
            "SELECT email, national_id, count(*) FROM customers GROUP BY GROUPING SETS ((email), (national_id))",
            "SELECT national_id FROM customers GROUP BY ROLLUP (national_id)",
        ],
    ),
    (
        "whole row",
        Masked,
        &["SELECT c FROM customers c", "SELECT customers FROM customers", "SELECT (c).* FROM customers c"],
    ),
    (
        "whole row text",
        Masked,
        &[
            "SELECT c::text FROM customers c",
            "SELECT ROW(c.*)::text FROM customers c",
            "SELECT ROW(c.*) FROM customers c",
        ],
    ),
    ("functional notation", Masked, &["SELECT email(c), (c).email, c.nid, nid(c) FROM customers c"]),
    (
        "field of subquery",
        Masked,
        &[
            "SELECT (x.c).email FROM (SELECT c FROM customers c) x",
            "SELECT (SELECT c FROM customers c WHERE id = 900).national_id",
        ],
    ),
    (
        "functions named like columns",
        Masked,
        &[
            "SELECT c.to_jsonb FROM customers c",
            "SELECT c.row_to_json FROM customers c",
            "SELECT c.json_agg FROM customers c",
        ],
    ),
    (
        "values",
        Masked,
        &[
            "VALUES ((SELECT national_id FROM customers WHERE id = 900))",
            "SELECT * FROM (VALUES ((SELECT national_id FROM customers WHERE id = 900))) v(x)",
        ],
    ),
    (
        "outputs against columns",
        Masked,
        &[
            "SELECT n.*, upper(c.email), 1 FROM notes n, customers c WHERE c.id = 900",
            "SELECT 1, n.*, upper(c.email) FROM notes n, customers c WHERE c.id = 900",
        ],
    ),
    (
        "name in two relations",
        Masked,
        &[
            "SELECT notes.t || '', upper(x.t) FROM notes, (SELECT national_id t FROM customers) x",
            "SELECT upper(notes.t) FROM (SELECT national_id t FROM customers) notes",
        ],
    ),
    ("alias of the same name", Masked, &["SELECT upper(n.t) FROM customers AS n(id, t1, t2, t)"]),
    (
        "system columns and ctid",
        Masked,
        &[
            "SELECT ctid, email || '' FROM customers WHERE ctid = '(0,1)'",
            "SELECT tableoid::regclass, xmin, upper(email) FROM customers",
        ],
    ),
    ("order by of an output", Masked, &["SELECT upper(email) u FROM customers ORDER BY u DESC LIMIT 3"]),
    ("multi-statement", Masked, &["SELECT 1; SELECT upper(email) FROM customers; SELECT 2"]),
    (
        "multi-statement with nothing between",
        Masked,
        &[";; SELECT 1;; -- x\n; SELECT upper(email) FROM customers"],
    ),
];

/// Families 9 to 21.
pub(crate) const EXPRESSIONS: &[Row] = &[
    (
        "casts",
        Masked,
        &[
            "SELECT email::varchar, email::varchar(9), email::text, email::bytea, CAST(email AS name), s_num::text, s_day::text, s_uuid::text, s_doc::text FROM customers WHERE id = 900",
        ],
    ),
    (
        "concatenation and choice",
        Masked,
        &[
            "SELECT email || '', coalesce(email, 'x'), nullif(email, ''), CASE WHEN true THEN email END, greatest(email, ''), format('%s', email), concat(email, 'x'), concat_ws(',', 1, email) FROM customers WHERE id = 900",
        ],
    ),
    (
        "aggregates",
        Masked,
        &[
            "SELECT max(email), min(national_id), string_agg(card, ','), array_agg(email), mode() WITHIN GROUP (ORDER BY email), percentile_disc(0.9) WITHIN GROUP (ORDER BY national_id) FROM customers",
        ],
    ),
    (
        "windows",
        Masked,
        &[
            "SELECT lag(email, 0) OVER (ORDER BY id), first_value(email) OVER w, nth_value(national_id, 1) OVER w FROM customers WINDOW w AS (ORDER BY id DESC)",
            "SELECT array_agg(email) OVER (PARTITION BY city) FROM customers",
        ],
    ),
    (
        "json",
        Masked,
        &[
            "SELECT row_to_json(c), to_jsonb(c), jsonb_build_object('e', email), to_json(email), to_jsonb(c) ->> 'email', to_jsonb(c) #>> '{national_id}' FROM customers c WHERE id = 900",
            "SELECT json_agg(c) FROM customers c",
            "SELECT e.* FROM customers c, jsonb_each_text(to_jsonb(c)) e",
            "SELECT jsonb_path_query(to_jsonb(c), '$.*') FROM customers c",
            "SELECT s_doc ->> 'pin', s_doc -> 'pin', s_doc #>> '{pin}', s_doc['pin'] FROM customers",
        ],
    ),
    (
        "records",
        Masked,
        &[
            "SELECT (json_populate_record(NULL::notes, json_build_object('t', email))).t FROM customers",
            "SELECT x.* FROM customers c, json_to_record(to_json(c)) AS x(email text)",
            "SELECT (jsonb_populate_record(NULL::customers, to_jsonb(c))).email FROM customers c",
        ],
    ),
    (
        "arrays",
        Masked,
        &[
            "SELECT s_list[1], s_list[1:1], array_to_string(s_list, ','), unnest(s_list) FROM customers WHERE id = 900",
            "SELECT ARRAY(SELECT email FROM customers)",
            "SELECT (ARRAY[email])[1] FROM customers",
        ],
    ),
    (
        "encodings",
        Masked,
        &[
            "SELECT encode(email::bytea, 'hex'), encode(convert_to(email, 'UTF8'), 'base64'), reverse(email), translate(email, 'a', 'b'), md5(email), get_byte(email::bytea, 0), upper(email), decode(encode(email::bytea, 'hex'), 'hex') FROM customers WHERE id = 900",
        ],
    ),
    (
        "pieces",
        Masked,
        &[
            "SELECT substr(email, 1, 3), substr(email, 4, 3), left(email, 2), right(email, 9), ascii(email), split_part(email, '@', 1), regexp_replace(email, 'a', 'b'), (regexp_match(national_id, '.*'))[1] FROM customers WHERE id = 900",
        ],
    ),
    (
        "xml",
        Masked,
        &[
            "SELECT xmlelement(name a, email), xmlforest(email AS a), xmlagg(xmlelement(name b, email)) OVER () FROM customers",
        ],
    ),
    (
        "dynamic sql",
        Masked,
        &[
            "SELECT query_to_xml('SELECT * FROM customers WHERE id = 900', true, true, '')",
            "SELECT table_to_xml('customers', true, true, '')",
            "SELECT database_to_xml(true, true, '')",
            "SELECT ts_stat('SELECT to_tsvector(national_id) FROM customers')",
        ],
    ),
    (
        "scalar and existential subqueries",
        Masked,
        &[
            "SELECT (SELECT national_id FROM customers WHERE id = 900)",
            "SELECT ARRAY(SELECT card FROM customers)",
            "SELECT 'x' || (SELECT email FROM customers WHERE id = 900)",
        ],
    ),
    (
        "subquery beside harmless table",
        Masked,
        &[
            "SELECT t, (SELECT national_id FROM customers WHERE id = 900) FROM notes",
            "SELECT coalesce((SELECT national_id FROM customers WHERE id = 900), t) FROM notes",
        ],
    ),
    (
        "collation and operators",
        Masked,
        &["SELECT email COLLATE \"C\", email <+> 'x', email OPERATOR(public.<+>) 'x' FROM customers"],
    ),
    (
        "subscripted and nested calls",
        Masked,
        &[
            "SELECT (string_to_array(email, '@'))[1], string_to_table(email, '@') FROM customers WHERE id = 900",
        ],
    ),
    (
        "filter and within",
        Masked,
        &["SELECT string_agg(email, ',' ORDER BY id) FILTER (WHERE id = 900) FROM customers"],
    ),
    (
        "set returning",
        Masked,
        &[
            "SELECT regexp_split_to_table(email, '@') FROM customers WHERE id = 900",
            "SELECT generate_series(1, 2), email || '' FROM customers WHERE id = 900",
        ],
    ),
];

/// Families 22 to 26, 47 to 49, 63 and 64.
pub(crate) const RELATIONS: &[Row] = &[
    (
        "views",
        Masked,
        &[
            "SELECT * FROM v_plain",
            "SELECT contact FROM v_plain",
            "SELECT * FROM v_nested",
            "SELECT lower(loud) FROM v_nested",
            "SELECT * FROM v_row",
            "SELECT (c).email FROM v_row",
        ],
    ),
    ("materialized view", Masked, &["SELECT * FROM m_plain", "SELECT upper(contact) FROM m_plain"]),
    ("inherited child", Masked, &["SELECT * FROM customers_vip", "SELECT upper(email) FROM customers_vip"]),
    (
        "partition",
        Masked,
        &["SELECT * FROM people", "SELECT * FROM people_eu", "SELECT upper(email) FROM people_eu"],
    ),
    (
        "parent of a classified partition",
        Masked,
        &[
            "SELECT email FROM branches",
            "SELECT upper(email) FROM branches",
            "TABLE branches",
            "SELECT * FROM v_branches",
        ],
    ),
    ("generated column", Masked, &["SELECT email_copy, upper(email_copy) FROM customers"]),
    (
        "functions",
        Masked,
        &[
            "SELECT lookup(900)",
            "SELECT * FROM lookup(900)",
            "SELECT * FROM everybody()",
            "SELECT (everybody()).*",
            "SELECT t, lookup(900) FROM notes",
            "SELECT * FROM notes, lookup(900) l",
        ],
    ),
    (
        "function under a built-in name",
        Masked,
        &["SELECT lower(900)", "SELECT * FROM lower(900)", "SELECT lower(n + 899) FROM notes"],
    ),
    (
        "dynamic code",
        Masked,
        &["DO $$ BEGIN RAISE NOTICE '%', (SELECT national_id FROM customers WHERE id = 900); END $$"],
    ),
    (
        "statistics",
        Masked,
        &[
            "SELECT * FROM pg_stats",
            "SELECT most_common_vals FROM pg_stats WHERE tablename = 'customers'",
            "SELECT upper(most_common_vals::text) FROM pg_catalog.pg_stats",
            "SELECT * FROM pg_statistic",
            "SELECT * FROM pg_stats_ext",
            "SELECT stxdmcv::text FROM pg_statistic_ext_data",
            "SELECT pg_mcv_list_items(stxdmcv) FROM pg_statistic_ext_data",
        ],
    ),
    (
        "activity",
        Masked,
        &[
            "SELECT query FROM pg_stat_activity",
            "SELECT upper(query) FROM pg_catalog.pg_stat_activity",
            "SELECT * FROM pg_stat_get_activity(NULL)",
        ],
    ),
    (
        "toast and pages",
        Masked,
        &[
            "SELECT * FROM heap_page_items(get_raw_page('vault1', 0))",
            "SELECT get_raw_page('vault1', 0)",
            "SELECT encode(get_raw_page('customers', 0), 'hex')",
        ],
    ),
    (
        "files",
        Masked,
        &[
            "COPY vault1 TO PROGRAM 'cat > probe.txt'",
            "SELECT pg_read_file('probe.txt')",
            "CREATE TEMP TABLE probe (line text)",
            "COPY probe FROM PROGRAM 'cat probe.txt'",
            "SELECT line FROM probe",
        ],
    ),
    (
        "regclass",
        Masked,
        &[
            "SELECT 'customers'::regclass, (SELECT upper(email) FROM customers WHERE tableoid = 'customers'::regclass LIMIT 1)",
        ],
    ),
    (
        "temporary shadow",
        Masked,
        &[
            "CREATE TEMP TABLE customers AS SELECT 1 AS id, 'x'::text AS email",
            "SELECT email, upper(email) FROM public.customers",
        ],
    ),
    (
        "temporary view",
        Masked,
        &[
            "CREATE TEMP VIEW notes AS SELECT upper(national_id) AS t, 1 AS n FROM public.customers",
            "SELECT t || '' FROM notes",
            "SELECT t FROM notes",
        ],
    ),
    ("rule with a second result", Masked, &["INSERT INTO ruled VALUES (1)"]),
    (
        "predicates",
        KnownOpen,
        &[
            "SELECT id FROM customers WHERE national_id LIKE 'N%'",
            "SELECT id FROM customers ORDER BY national_id",
            "SELECT count(*) FROM customers WHERE s_num > 73914",
        ],
    ),
    (
        "dictionary join",
        KnownOpen,
        &["SELECT v.x FROM (VALUES ('NX-83W1-77QK-PLV')) v(x) JOIN customers c ON c.national_id = v.x"],
    ),
    (
        "row count",
        KnownOpen,
        &["SELECT generate_series(1, ascii(national_id)) > 0 FROM customers WHERE id = 900"],
    ),
    (
        "division",
        KnownOpen,
        &["SELECT id FROM customers WHERE id = 900 AND 1 / (ascii(national_id) - 78) = 1"],
    ),
];

/// Families 29 to 31.
pub(crate) const LAUNDERING: &[Row] = &[
    (
        "update the same table",
        Masked,
        &[
            "UPDATE customers SET name = national_id WHERE id = 900",
            "SELECT name FROM customers WHERE id = 900",
        ],
    ),
    (
        "update from",
        Masked,
        &["UPDATE notes SET t = c.national_id FROM customers c WHERE c.id = 900", "SELECT t FROM notes"],
    ),
    (
        "update with a subquery",
        Masked,
        &["UPDATE notes SET (t) = (SELECT national_id FROM customers WHERE id = 900)", "SELECT t FROM notes"],
    ),
    (
        "insert select",
        Masked,
        &[
            "INSERT INTO notes (t) SELECT national_id FROM customers WHERE id = 900",
            "INSERT INTO notes (t) VALUES ((SELECT national_id FROM customers WHERE id = 900))",
            "SELECT t FROM notes",
        ],
    ),
    (
        "insert through a cte",
        Masked,
        &[
            "WITH q AS (SELECT national_id n FROM customers WHERE id = 900) INSERT INTO notes (t) SELECT n FROM q",
            "WITH w AS (INSERT INTO notes (t) SELECT card FROM customers WHERE id = 900 RETURNING t) SELECT t FROM w",
            "SELECT t FROM notes",
        ],
    ),
    (
        "on conflict",
        Masked,
        &[
            "INSERT INTO notes (t) VALUES ('a note') ON CONFLICT (t) DO UPDATE SET t = (SELECT national_id FROM customers WHERE id = 900) RETURNING t",
            "SELECT t FROM notes",
        ],
    ),
    (
        "merge",
        Masked,
        &[
            "MERGE INTO notes USING customers c ON notes.id = 1 AND c.id = 900 WHEN MATCHED THEN UPDATE SET t = c.national_id",
            "SELECT t FROM notes",
        ],
    ),
    (
        "returning",
        Masked,
        &[
            "UPDATE customers SET balance = 2 WHERE id = 900 RETURNING *",
            "UPDATE customers SET balance = 2 WHERE id = 900 RETURNING upper(email), customers",
            "DELETE FROM customers WHERE id = 1001 RETURNING national_id || ''",
        ],
    ),
    (
        "create table as",
        Masked,
        &[
            "CREATE TABLE l1 AS SELECT national_id AS x FROM customers",
            "SELECT x FROM l1",
            "CREATE TEMP TABLE l2 AS TABLE customers",
            "SELECT * FROM l2",
        ],
    ),
    ("select into", Masked, &["SELECT national_id AS x INTO l3 FROM customers", "SELECT x FROM l3"]),
    (
        "create view",
        Masked,
        &["CREATE VIEW l4 AS SELECT national_id AS x FROM customers", "SELECT x, upper(x) FROM l4"],
    ),
    (
        "create materialized view",
        Masked,
        &["CREATE MATERIALIZED VIEW l5 AS SELECT national_id AS x FROM customers", "SELECT x FROM l5"],
    ),
    (
        "create function",
        Masked,
        &[
            "CREATE FUNCTION l6() RETURNS text LANGUAGE sql AS 'SELECT national_id FROM customers WHERE id = 900'",
            "SELECT l6()",
        ],
    ),
    (
        "create function under a built-in name",
        Masked,
        &[
            "CREATE FUNCTION public.length(integer) RETURNS text LANGUAGE sql AS 'SELECT national_id FROM customers WHERE id = 900'",
            "SELECT length(1)",
        ],
    ),
    (
        "create a trigger",
        Masked,
        &[
            "CREATE TRIGGER spy BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION told()",
            "INSERT INTO notes (t) VALUES ('q')",
        ],
    ),
    (
        "create a cast",
        Masked,
        &[
            "CREATE CAST (integer AS text) WITH FUNCTION public.lower(integer) AS IMPLICIT",
            "SELECT 900::text",
            "SELECT upper(n + 899) FROM notes",
        ],
    ),
    (
        "change code that runs elsewhere",
        Masked,
        &[
            "CREATE OR REPLACE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.t := (SELECT national_id FROM customers WHERE id = 900); RETURN NEW; END $$",
            "INSERT INTO hushed VALUES ('q')",
            "SELECT t FROM hushed",
        ],
    ),
    (
        "code by another name",
        Masked,
        &["ALTER FUNCTION nobodys(integer) RENAME TO reverse", "SELECT reverse(900)"],
    ),
    (
        "code in another schema",
        Masked,
        &["ALTER FUNCTION swap.abs(text) SET SCHEMA public", "SELECT abs('x'::text)"],
    ),
    (
        "code owned by an extension",
        Masked,
        &["ALTER EXTENSION pageinspect ADD FUNCTION lower(integer)", "SELECT lower(900)"],
    ),
    (
        "rename an attribute of the type of a table",
        Masked,
        &["ALTER TYPE typed RENAME ATTRIBUTE secret TO open CASCADE", "SELECT open FROM vault5"],
    ),
    (
        "create like",
        Masked,
        &["CREATE TABLE l7 (LIKE customers)", "INSERT INTO l7 SELECT * FROM customers", "SELECT * FROM l7"],
    ),
    (
        "rename table",
        Masked,
        &[
            "ALTER TABLE vault1 RENAME TO cellar1",
            "SELECT secret FROM cellar1",
            "SELECT upper(secret) FROM cellar1",
        ],
    ),
    (
        "rename column",
        Masked,
        &["ALTER TABLE vault2 RENAME COLUMN secret TO open", "SELECT open, upper(open) FROM vault2"],
    ),
    (
        "move to another schema",
        Masked,
        &["ALTER TABLE vault3 SET SCHEMA swap", "SELECT secret FROM swap.vault3"],
    ),
    (
        "new parent",
        Masked,
        &[
            "CREATE TABLE above (secret text)",
            "ALTER TABLE vault4 INHERIT above",
            "SELECT secret, upper(secret) FROM above",
        ],
    ),
    (
        "new child",
        Masked,
        &[
            "ALTER TABLE vault4 ADD COLUMN IF NOT EXISTS twin text GENERATED ALWAYS AS (upper(secret)) STORED",
            "SELECT twin FROM vault4",
        ],
    ),
    (
        "large objects",
        Masked,
        &[
            "SELECT lo_from_bytea(77001, national_id::bytea) FROM customers WHERE id = 900",
            "SELECT lo_get(77001)",
            "SELECT * FROM pg_largeobject",
        ],
    ),
    (
        "settings",
        Masked,
        &[
            "SELECT set_config('application_name', national_id, false) FROM customers WHERE id = 900",
            "SHOW application_name",
            "SELECT current_setting('application_name')",
            "SELECT set_config('x.y', (SELECT national_id FROM customers WHERE id = 900), false)",
            "SELECT current_setting('x.y')",
        ],
    ),
    (
        "copy out",
        Masked,
        &[
            "COPY customers TO STDOUT",
            "COPY (SELECT upper(email) FROM customers) TO STDOUT",
            "COPY customers (email) TO STDOUT (FORMAT csv)",
            "COPY vault1 TO STDOUT (FORMAT binary)",
            "COPY (SELECT * FROM v_plain) TO STDOUT",
        ],
    ),
    (
        "rename the schema",
        Masked,
        &[
            "ALTER SCHEMA hid RENAME TO seen",
            "SELECT label FROM seen.things",
            "ALTER SCHEMA seen RENAME TO hid",
        ],
    ),
];

/// Families 41 to 46 and 66.
pub(crate) const MESSAGES: &[Row] = &[
    (
        "cast errors",
        Blocked,
        &[
            "SELECT national_id::integer FROM customers WHERE id = 900",
            "SELECT id FROM customers WHERE id = 900 AND email::date IS NULL",
            "SELECT id FROM customers WHERE id = 900 AND national_id::regclass IS NULL",
        ],
    ),
    ("cast error in a function", Masked, &["SELECT lookup(900)::integer", "SELECT lower(900)::integer"]),
    (
        "unique violation",
        Masked,
        &[
            "INSERT INTO customers (id, name, email, national_id, card, city, born) SELECT 2000, name, email, national_id, card, city, born FROM customers WHERE id = 900",
            "UPDATE customers SET email = (SELECT email FROM customers WHERE id = 900) WHERE id = 1",
            "UPDATE customers SET email = 'qzx7vkw3@jhd5-fyp.example' WHERE id = 1",
        ],
    ),
    ("check violation", Masked, &["UPDATE customers SET name = NULL WHERE id = 900"]),
    ("index on an expression", Masked, &["CREATE UNIQUE INDEX bad ON customers ((left(national_id, 16)))"]),
    ("raise", Masked, &["SELECT shout(900)", "SELECT n FROM notes WHERE shout(900) = 1"]),
    ("trigger notice", Masked, &["INSERT INTO loud VALUES (1)"]),
    ("debug output", Masked, &["SET client_min_messages = debug1", "SELECT whisper(900)"]),
    (
        "debug output by a function",
        Masked,
        &["SELECT set_config('client_min_messages', 'debug5', false)", "SELECT whisper(900)"],
    ),
    (
        "explain",
        Masked,
        &[
            "EXPLAIN (VERBOSE) SELECT fixed(900)",
            "EXPLAIN SELECT 1 FROM notes WHERE t = fixed(900)",
            "EXPLAIN ANALYZE VERBOSE SELECT n FROM notes WHERE fixed(900) = t",
        ],
    ),
    (
        "notification",
        Masked,
        &[
            "LISTEN ch",
            "SELECT pg_notify('ch', national_id) FROM customers WHERE id = 900",
            "SELECT 1",
            "WITH x AS (SELECT pg_notify('ch', card) FROM customers WHERE id = 900) SELECT 1 FROM x",
        ],
    ),
    (
        "notification by a subquery",
        Masked,
        &[
            "LISTEN ch",
            "SELECT pg_notify('ch', (SELECT national_id FROM customers WHERE id = 900))",
            "SELECT n FROM notes WHERE pg_notify('ch', (SELECT card FROM customers WHERE id = 900)) IS NULL",
            "SELECT 1",
        ],
    ),
    (
        "parameter status",
        Masked,
        &[
            "SELECT set_config('application_name', (SELECT national_id FROM customers WHERE id = 900), false)",
            "SELECT 1",
        ],
    ),
    (
        "parameter status in a predicate",
        Masked,
        &[
            "SELECT n FROM notes WHERE set_config('application_name', (SELECT national_id FROM customers WHERE id = 900), false) = ''",
            "SELECT 1",
        ],
    ),
    (
        "strings read in another way",
        Masked,
        &[
            "SET standard_conforming_strings = off",
            "SELECT 'x\\'', upper(national_id), '' FROM customers WHERE id = 900 --'",
        ],
    ),
    ("deferred trigger at commit", Masked, &["BEGIN; INSERT INTO later VALUES (2)", "COMMIT"]),
    (
        "definitions that quote a value",
        KnownOpen,
        &["SELECT pg_get_viewdef('v_named')", "SELECT view_definition FROM information_schema.views"],
    ),
];

/// Families 32 to 36, 40, and tricks with names.
pub(crate) const PROTOCOL: &[Row] = &[
    (
        "prepare and execute",
        Masked,
        &[
            "PREPARE q AS SELECT upper(national_id) FROM customers WHERE id = 900",
            "EXECUTE q",
            "EXPLAIN ANALYZE EXECUTE q",
            "CREATE TEMP TABLE px AS EXECUTE q",
            "SELECT * FROM px",
        ],
    ),
    (
        "prepared statement with a computed argument",
        Masked,
        &["PREPARE q (text) AS SELECT $1", "EXECUTE q (lookup(900))", "EXECUTE q (lower(900))"],
    ),
    (
        "declare and fetch",
        Masked,
        &[
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT upper(national_id) FROM customers WHERE id = 900",
            "FETCH ALL FROM c",
            "DECLARE d BINARY CURSOR FOR SELECT national_id FROM customers WHERE id = 900",
            "FETCH ALL FROM d",
        ],
    ),
    (
        "search path swap",
        Masked,
        &[
            "SET search_path = swap",
            "\\P s1|SELECT upper(label), label FROM things",
            "\\D Ss1",
            "\\S",
            "SET search_path = hid",
            "\\B |s1",
            "\\E ",
            "\\S",
        ],
    ),
    (
        "name of a prepared statement in both protocols",
        Masked,
        &[
            "PREPARE q AS SELECT 'x'::text",
            "\\C Sq",
            "\\P q|SELECT upper(national_id) FROM customers WHERE id = 900",
            "\\S",
            "EXECUTE q",
            "\\B |q",
            "\\E ",
            "\\S",
        ],
    ),
    (
        "prepare by the extended protocol over an old name",
        Masked,
        &[
            "PREPARE q AS SELECT 'x'::text",
            "\\X DEALLOCATE q",
            "\\X PREPARE q AS SELECT upper(national_id) FROM customers WHERE id = 900",
            "EXECUTE q",
            "\\B |q",
            "\\E ",
            "\\S",
        ],
    ),
    (
        "parsed name deallocated by the extended protocol",
        Masked,
        &[
            "\\P q|SELECT 'x'::text",
            "\\S",
            "\\X DEALLOCATE q",
            "\\X PREPARE q AS SELECT upper(national_id) FROM customers WHERE id = 900",
            "\\B |q",
            "\\E ",
            "\\S",
        ],
    ),
    (
        "deallocate all by the extended protocol",
        Masked,
        &[
            "\\P q|SELECT 'x'::text",
            "\\S",
            "\\X DEALLOCATE ALL",
            "\\X PREPARE q AS SELECT upper(national_id) FROM customers WHERE id = 900",
            "\\B |q",
            "\\E ",
            "\\S",
            "EXECUTE q",
        ],
    ),
    (
        "old cursor name declared by the extended protocol",
        Masked,
        &[
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT 'x'::text",
            "COMMIT",
            "BEGIN",
            "\\X DECLARE c CURSOR FOR SELECT upper(national_id) FROM customers WHERE id = 900",
            "FETCH ALL FROM c",
        ],
    ),
    (
        "old cursor name bound as a portal",
        Masked,
        &[
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT 'x'::text",
            "COMMIT",
            "BEGIN",
            "\\P s|SELECT upper(national_id) FROM customers WHERE id = 900",
            "\\B c|s",
            "\\S",
            "FETCH ALL FROM c",
        ],
    ),
    (
        "cursor lost by a savepoint",
        Masked,
        &[
            "BEGIN",
            "SAVEPOINT s",
            "DECLARE c CURSOR FOR SELECT 'x'::text",
            "ROLLBACK TO s",
            "\\P s|SELECT upper(national_id) FROM customers WHERE id = 900",
            "\\B c|s",
            "\\S",
            "FETCH ALL FROM c",
        ],
    ),
    (
        "cursor opened by code",
        Masked,
        &[
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT 'x'::text",
            "CLOSE c",
            "SELECT opens('c')",
            "FETCH ALL FROM c",
        ],
    ),
    (
        "old cursor name opened by code",
        Masked,
        &[
            "BEGIN",
            "SAVEPOINT s",
            "DECLARE c CURSOR FOR SELECT 'x'::text",
            "ROLLBACK TO s",
            "SELECT opens('c')",
            "FETCH ALL FROM c",
        ],
    ),
    (
        "fetch from a protocol portal",
        Masked,
        &[
            "BEGIN",
            "\\P s|SELECT upper(national_id) FROM customers WHERE id = 900",
            "\\B p|s",
            "\\S",
            "FETCH ALL FROM p",
        ],
    ),
    (
        "portal over a cursor name",
        Masked,
        &[
            "BEGIN",
            "DECLARE p CURSOR FOR SELECT 'x'::text",
            "\\P s|SELECT upper(national_id) FROM customers WHERE id = 900",
            "\\C Pp",
            "\\B p|s",
            "\\S",
            "FETCH ALL FROM p",
            "ROLLBACK",
        ],
    ),
    (
        "parse of a name that exists, then bind",
        Masked,
        &[
            "\\P s|SELECT upper(national_id) FROM customers WHERE id = 900",
            "\\S",
            "\\P s|SELECT 'x'::text",
            "\\B |s",
            "\\E ",
            "\\S",
            "\\B |s",
            "\\E ",
            "\\S",
        ],
    ),
    (
        "pipelined error before a parse",
        Masked,
        &[
            "\\P s|SELECT upper(national_id) FROM customers WHERE id = 900",
            "\\S",
            "\\P |SELECT 1/0",
            "\\B |",
            "\\E ",
            "\\C Ss",
            "\\P s|SELECT 'x'::text",
            "\\S",
            "\\B |s",
            "\\E ",
            "\\S",
        ],
    ),
    (
        "pipelined deallocate that does not run",
        Masked,
        &[
            "\\P s|SELECT upper(national_id) FROM customers WHERE id = 900",
            "\\P d|DEALLOCATE s",
            "\\S",
            "\\P |SELECT 1/0",
            "\\B |",
            "\\E ",
            "\\B |d",
            "\\E ",
            "\\P s|SELECT 'x'::text",
            "\\S",
            "\\B |s",
            "\\E ",
            "\\S",
        ],
    ),
    (
        "failed multi-statement prepare",
        Masked,
        &[
            "PREPARE q AS SELECT upper(national_id) FROM customers WHERE id = 900",
            "SELECT 1/0; DEALLOCATE q; PREPARE q AS SELECT 'x'::text",
            "EXECUTE q",
        ],
    ),
    (
        "describe of the statement only, then binary",
        Masked,
        &[
            "\\P s|SELECT national_id, s_num, s_uuid, s_doc FROM customers WHERE id = 900",
            "\\D Ss",
            "\\S",
            "\\b |s",
            "\\E ",
            "\\S",
        ],
    ),
    (
        "no describe at all",
        Masked,
        &["\\P |SELECT national_id, upper(email) FROM customers", "\\B |", "\\E ", "\\S"],
    ),
    (
        "swapped table between describe and execute",
        Masked,
        &[
            "\\P s|SELECT upper(label), label FROM swap.things",
            "\\D Ss",
            "\\S",
            "BEGIN",
            "ALTER TABLE swap.things RENAME TO old_things",
            "ALTER TABLE hid.things SET SCHEMA swap",
            "\\B |s",
            "\\E ",
            "\\S",
            "ROLLBACK",
        ],
    ),
    ("function call by number", Masked, &["\\F 2924|SELECT * FROM customers WHERE id = 900|t|t|"]),
    (
        "temporary shadow between parse and bind",
        Masked,
        &[
            "\\P s|SELECT upper(t) FROM notes",
            "\\S",
            "CREATE TEMP VIEW notes AS SELECT national_id AS t FROM customers",
            "\\B |s",
            "\\E ",
            "\\S",
            "SELECT upper(t) FROM notes",
        ],
    ),
    (
        "uncommitted swap of tables",
        Masked,
        &[
            "BEGIN",
            "ALTER TABLE notes RENAME TO n2",
            "ALTER TABLE vault1 RENAME TO notes",
            "SELECT upper(secret) FROM notes",
            "ROLLBACK",
        ],
    ),
    (
        "uncommitted function under a built-in name",
        Masked,
        &[
            "BEGIN",
            "CREATE FUNCTION public.abs(text) RETURNS text LANGUAGE sql AS 'SELECT national_id FROM customers WHERE id = 900'",
            "SELECT abs('x'::text)",
            "ROLLBACK",
        ],
    ),
    (
        "swap and read in one string",
        Masked,
        &[
            "SELECT 1",
            "BEGIN; ALTER TABLE notes RENAME TO n2; ALTER TABLE vault1 RENAME TO notes; SELECT upper(secret) FROM notes; ROLLBACK",
        ],
    ),
    (
        "swap and read in one pipeline",
        Masked,
        &[
            "\\P a|ALTER TABLE notes RENAME TO n2",
            "\\P b|ALTER TABLE vault1 RENAME TO notes",
            "\\S",
            "\\B |a",
            "\\E ",
            "\\B |b",
            "\\E ",
            "\\P c|SELECT upper(secret) FROM notes",
            "\\B |c",
            "\\E ",
            "\\P |SELECT 1/0",
            "\\B |",
            "\\E ",
            "\\S",
        ],
    ),
    (
        "statement prepared before an uncommitted swap",
        Masked,
        &[
            "\\P s|SELECT upper(t) FROM notes",
            "\\S",
            "BEGIN",
            "ALTER TABLE notes RENAME TO n2",
            "ALTER TABLE vault1 RENAME COLUMN secret TO t",
            "ALTER TABLE vault1 RENAME TO notes",
            "\\B |s",
            "\\E ",
            "\\S",
            "ROLLBACK",
        ],
    ),
    (
        "operator made under a built-in name",
        Masked,
        &[
            "BEGIN",
            "CREATE FUNCTION swap.peek(integer, text) RETURNS text LANGUAGE sql AS 'SELECT national_id FROM customers WHERE id = 900'",
            "CREATE OPERATOR public.+ (PROCEDURE = swap.peek, LEFTARG = integer, RIGHTARG = text)",
            "COMMIT",
            "SELECT 1 + 'x'::text",
            "DROP FUNCTION swap.peek(integer, text) CASCADE",
        ],
    ),
    (
        "cursor replaced within one string",
        Masked,
        &[
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT 'x'::text",
            "CLOSE c; DECLARE c CURSOR FOR SELECT upper(national_id) FROM customers WHERE id = 900; FETCH ALL FROM c",
        ],
    ),
    (
        "statement replaced within one string",
        Masked,
        &[
            "PREPARE q AS SELECT 'x'::text",
            "DEALLOCATE q; PREPARE q AS SELECT upper(national_id) FROM customers WHERE id = 900; EXECUTE q",
        ],
    ),
];

/// Family 64: code of users' under built-in names, made before the agent came.
pub(crate) const CODE: &[Row] = &[
    (
        "operator under a built-in name",
        Masked,
        &["SELECT 1 + 'x'::text", "SELECT n + 'x'::text FROM notes", "SELECT upper(1 + t) FROM notes"],
    ),
    (
        "operator in a predicate, a sort and a list",
        Masked,
        &[
            "SELECT max(1 + t) FROM notes",
            "SELECT (ARRAY[1 + 'x'::text])[1]",
            "VALUES (1 + 'x'::text)",
            "SELECT x FROM (SELECT 1 + 'x'::text AS x) y",
        ],
    ),
    (
        "operator that writes",
        Masked,
        &[
            "INSERT INTO notes (t) VALUES (1 + 'x'::text)",
            "UPDATE notes SET t = 2 + 'x'::text WHERE id = 1",
            "SELECT t FROM notes",
        ],
    ),
    (
        "operator in the built-in schema",
        Masked,
        &["SELECT 1 - 'x'::text", "SELECT 1 OPERATOR(pg_catalog.-) 'x'::text"],
    ),
    (
        "function in the built-in schema",
        Masked,
        &["SELECT upper(900)", "SELECT pg_catalog.upper(900)", "SELECT pg_catalog.upper(n + 899) FROM notes"],
    ),
    (
        "function of a row in column notation",
        Masked,
        &["SELECT x.gist FROM notes x", "SELECT (x).gist FROM notes x", "SELECT notes.gist || '' FROM notes"],
    ),
    (
        "function of anything in column notation",
        Masked,
        &["SELECT notes.whatever FROM notes", "SELECT (json_each('{\"a\": 1}')).whatever"],
    ),
    ("aggregate under a built-in name", Masked, &["SELECT max(n, 'x') FROM notes", "SELECT max(1, 'x')"]),
    (
        "view over an operator",
        Masked,
        &["SELECT t FROM v_operator", "SELECT upper(t) FROM v_operator", "SELECT * FROM v_over_view"],
    ),
    (
        "cast of a type of users'",
        Masked,
        &["SELECT 'a'::mood::text", "SELECT m::text FROM moods", "SELECT upper(m) FROM moods"],
    ),
    (
        "cast of a row",
        Masked,
        &["SELECT r::text FROM rowed r", "SELECT upper(r) FROM rowed r", "SELECT upper(rowed) FROM rowed"],
    ),
];

/// A cast between built-in types that runs code of users'.
pub(crate) const CASTS: &[Row] = &[
    ("explicit cast", Masked, &["SELECT 900::text", "SELECT CAST(n AS text) FROM notes"]),
    ("implicit cast of an argument", Masked, &["SELECT upper(900)", "SELECT upper(n) FROM notes"]),
    (
        "assignment",
        Masked,
        &[
            "INSERT INTO notes (t) VALUES (900)",
            "UPDATE notes SET t = 901 WHERE id = 1",
            "SELECT t FROM notes",
        ],
    ),
];
