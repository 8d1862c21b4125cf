//! Relations and code of users', also under built-in names and behind casts.

use crate::Row;
use crate::Status::{KnownOpen, Masked};

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
