//! Values laundered through something else, and messages other than rows.

use crate::Row;
use crate::Status::{Blocked, KnownOpen, Masked};

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
