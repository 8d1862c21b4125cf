//! Names and shapes, and expressions.

use crate::Row;
use crate::Status::Masked;

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
