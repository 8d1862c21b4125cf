-- Statements of the kind that drivers, frameworks and tools send by themselves: type introspection, catalog browsing,
-- session set-up. They must stay readable: none unknown, none opaque. Entries are separated by lines of `-- ##`.
-- ##
SET extra_float_digits = 3
-- ##
SET application_name = 'PostgreSQL JDBC Driver'
-- ##
BEGIN READ WRITE ISOLATION LEVEL SERIALIZABLE
-- ##
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED
-- ##
SHOW TRANSACTION ISOLATION LEVEL
-- ##
show standard_conforming_strings
-- ##
SET client_encoding TO 'UTF8'
-- ##
SET NAMES 'utf8'
-- ##
SET TIME ZONE 'UTC'
-- ##
SET datestyle TO 'ISO'
-- ##
SET client_min_messages TO warning
-- ##
SET standard_conforming_strings = on
-- ##
select set_config('TimeZone', 'UTC', false)
-- ##
RESET ALL
-- ##
SELECT pg_advisory_unlock_all()
-- ##
CLOSE ALL
-- ##
UNLISTEN *
-- ##
DISCARD ALL
-- ##
select pg_catalog.version()
-- ##
select current_schema()
-- ##
SELECT current_setting('server_version_num'), current_setting('is_superuser', true)
-- ##
SELECT 1
-- ##
;
-- ##
-- ping
-- ##
SELECT CAST('test plain returns' AS VARCHAR(60)) AS anon_1
-- ##
SELECT t.oid, t.typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid WHERE typname = 'hstore'
-- ##
SELECT typname AS name, oid, typarray AS array_oid, oid::regtype::text AS regtype, typdelim AS delimiter FROM pg_type t WHERE t.oid = to_regtype($1) ORDER BY t.oid
-- ##
SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace WHERE pg_catalog.pg_class.relname = $1::VARCHAR AND pg_catalog.pg_class.relkind = ANY (ARRAY[$2::VARCHAR, $3::VARCHAR]) AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid) AND pg_catalog.pg_namespace.nspname != $4::VARCHAR
-- ##
SELECT pg_catalog.pg_attribute.attname AS name, pg_catalog.format_type(pg_catalog.pg_attribute.atttypid, pg_catalog.pg_attribute.atttypmod) AS format_type, (SELECT pg_catalog.pg_get_expr(pg_catalog.pg_attrdef.adbin, pg_catalog.pg_attrdef.adrelid) AS pg_get_expr_1 FROM pg_catalog.pg_attrdef WHERE pg_catalog.pg_attrdef.adrelid = pg_catalog.pg_attribute.attrelid AND pg_catalog.pg_attribute.atthasdef) AS "default", pg_catalog.pg_attribute.attnotnull AS not_null, pg_catalog.pg_description.description AS comment, (SELECT json_build_object('always', pg_catalog.pg_attribute.attidentity = 'a', 'start', pg_catalog.pg_sequence.seqstart) AS json_build_object_1 FROM pg_catalog.pg_sequence WHERE pg_catalog.pg_attribute.attidentity != '' AND pg_catalog.pg_sequence.seqrelid = CAST(CAST(pg_catalog.pg_get_serial_sequence(CAST(CAST(pg_catalog.pg_attribute.attrelid AS REGCLASS) AS TEXT), pg_catalog.pg_attribute.attname) AS REGCLASS) AS OID)) AS identity_options FROM pg_catalog.pg_class LEFT OUTER JOIN pg_catalog.pg_attribute ON pg_catalog.pg_class.oid = pg_catalog.pg_attribute.attrelid AND pg_catalog.pg_attribute.attnum > $1::SMALLINT AND NOT pg_catalog.pg_attribute.attisdropped LEFT OUTER JOIN pg_catalog.pg_description ON pg_catalog.pg_description.objoid = pg_catalog.pg_attribute.attrelid WHERE pg_catalog.pg_class.relkind = ANY (ARRAY['r', 'p', 'f', 'v', 'm']) ORDER BY pg_catalog.pg_class.relname, pg_catalog.pg_attribute.attnum
-- ##
SELECT attr.conrelid, array_agg(CAST(attr.attname AS TEXT) ORDER BY attr.ord) AS cols, attr.conname, min(attr.description) AS description, bool_and(coalesce(x.indisclustered, false)) FROM (SELECT con.conrelid, con.conname, con.conindid, con.description, con.ord, a.attname FROM pg_catalog.pg_attribute a JOIN (SELECT conrelid, conname, conindid, unnest(conkey) AS attnum, generate_subscripts(conkey, 1) AS ord, d.description FROM pg_catalog.pg_constraint LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid = pg_constraint.oid WHERE contype = $1) AS con ON a.attnum = con.attnum AND a.attrelid = con.conrelid) AS attr LEFT JOIN pg_index x ON x.indexrelid = attr.conindid GROUP BY attr.conrelid, attr.conname ORDER BY attr.conrelid, attr.conname
-- ##
SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, c.relname AS TABLE_NAME, CASE n.nspname ~ '^pg_' OR n.nspname = 'information_schema' WHEN true THEN CASE WHEN n.nspname = 'pg_catalog' THEN CASE c.relkind WHEN 'r' THEN 'SYSTEM TABLE' ELSE NULL END ELSE NULL END WHEN false THEN CASE c.relkind WHEN 'r' THEN 'TABLE' WHEN 'v' THEN 'VIEW' ELSE NULL END ELSE NULL END AS TABLE_TYPE, d.description AS REMARKS FROM pg_catalog.pg_namespace n, pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_description d ON (c.oid = d.objoid AND d.objsubid = 0 and d.classoid = 'pg_class'::regclass) WHERE c.relnamespace = n.oid AND c.relname LIKE E'%\\_x' AND (false OR (c.relkind = 'r' AND n.nspname !~ '^pg_')) ORDER BY TABLE_TYPE, TABLE_SCHEM, TABLE_NAME
-- ##
SELECT result.TABLE_CAT, result.TABLE_SCHEM, result.TABLE_NAME, result.COLUMN_NAME, result.KEY_SEQ, result.PK_NAME FROM (SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, ct.relname AS TABLE_NAME, a.attname AS COLUMN_NAME, (information_schema._pg_expandarray(i.indkey)).n AS KEY_SEQ, ci.relname AS PK_NAME, information_schema._pg_expandarray(i.indkey) AS KEYS, a.attnum AS A_ATTNUM FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_attribute a ON (ct.oid = a.attrelid) JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid) JOIN pg_catalog.pg_index i ON (a.attrelid = i.indrelid) JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid) WHERE true AND n.nspname = 'public' AND i.indisprimary) result where result.A_ATTNUM = result.KEY_SEQ ORDER BY result.table_name, result.pk_name, result.key_seq
-- ##
SELECT * FROM (SELECT n.nspname, c.relname, a.attname, a.atttypid, a.attnotnull OR (t.typtype = 'd' AND t.typnotnull) AS attnotnull, a.atttypmod, a.attlen, t.typtypmod, row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) AS attnum, nullif(a.attidentity, '') as attidentity, nullif(a.attgenerated, '') as attgenerated, pg_catalog.pg_get_expr(def.adbin, def.adrelid) AS adsrc, dsc.description, t.typbasetype, t.typtype FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON (c.relnamespace = n.oid) JOIN pg_catalog.pg_attribute a ON (a.attrelid = c.oid) JOIN pg_catalog.pg_type t ON (a.atttypid = t.oid) LEFT JOIN pg_catalog.pg_attrdef def ON (a.attrelid = def.adrelid AND a.attnum = def.adnum) LEFT JOIN pg_catalog.pg_description dsc ON (c.oid = dsc.objoid AND a.attnum = dsc.objsubid) WHERE c.relkind in ('r', 'p', 'v', 'f', 'm') and a.attnum > 0 AND NOT a.attisdropped) c WHERE true ORDER BY nspname, c.relname, attnum
-- ##
WITH RECURSIVE typeinfo_tree(oid, ns, name, kind, basetype, elemtype, elemdelim, range_subtype, attrtypoids, attrnames, depth) AS (SELECT ti.oid, ti.ns, ti.name, ti.kind, ti.basetype, ti.elemtype, ti.elemdelim, ti.range_subtype, ti.attrtypoids, ti.attrnames, 0 FROM (SELECT t.oid AS oid, ns.nspname AS ns, t.typname AS name, t.typtype AS kind, (CASE WHEN t.typtype = 'd' THEN (WITH RECURSIVE typebases(oid, depth) AS (SELECT t2.typbasetype AS oid, 0 AS depth FROM pg_type t2 WHERE t2.oid = t.oid UNION ALL SELECT t2.typbasetype AS oid, tb.depth + 1 AS depth FROM pg_type t2, typebases tb WHERE tb.oid = t2.oid AND t2.typbasetype != 0) SELECT oid FROM typebases ORDER BY depth DESC LIMIT 1) ELSE NULL END) AS basetype, t.typelem AS elemtype, elem_t.typdelim AS elemdelim, range_t.rngsubtype AS range_subtype, (CASE WHEN t.typtype = 'c' THEN (SELECT array_agg(ia.atttypid ORDER BY ia.attnum) FROM pg_attribute ia INNER JOIN pg_class c ON (ia.attrelid = c.oid) WHERE ia.attnum > 0 AND NOT ia.attisdropped AND c.reltype = t.oid) ELSE NULL END) AS attrtypoids, NULL::text[] AS attrnames FROM pg_catalog.pg_type AS t INNER JOIN pg_catalog.pg_namespace ns ON (ns.oid = t.typnamespace) LEFT JOIN pg_type elem_t ON (t.typlen = -1 AND t.typelem != 0 AND t.typelem = elem_t.oid) LEFT JOIN pg_range range_t ON (t.oid = range_t.rngtypid)) AS ti WHERE ti.oid = any($1::oid[]) UNION ALL SELECT ti.oid, ti.ns, ti.name, ti.kind, ti.basetype, ti.elemtype, ti.elemdelim, ti.range_subtype, ti.attrtypoids, ti.attrnames, tt.depth + 1 FROM pg_type ti, typeinfo_tree tt WHERE (tt.elemtype IS NOT NULL AND ti.oid = tt.elemtype)) SELECT DISTINCT *, basetype::regtype::text AS basetype_name, elemtype::regtype::text AS elemtype_name FROM typeinfo_tree ORDER BY depth DESC
-- ##
SELECT c.relname, CASE WHEN c.relispartition THEN 'p' WHEN c.relkind IN ('m', 'v') THEN 'v' ELSE 't' END, obj_description(c.oid, 'pg_class') FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('f', 'm', 'p', 'r', 'v') AND n.nspname NOT IN ('pg_catalog', 'pg_toast') AND pg_catalog.pg_table_is_visible(c.oid)
-- ##
SELECT c.conname, array(SELECT attname FROM unnest(c.conkey) WITH ORDINALITY cols(colid, arridx) JOIN pg_attribute AS ca ON cols.colid = ca.attnum WHERE ca.attrelid = c.conrelid ORDER BY cols.arridx), c.contype, (SELECT fkc.relname || '.' || fka.attname FROM pg_attribute AS fka JOIN pg_class AS fkc ON fka.attrelid = fkc.oid WHERE fka.attrelid = c.confrelid AND fka.attnum = c.confkey[1]), cl.reloptions FROM pg_constraint AS c JOIN pg_class AS cl ON c.conrelid = cl.oid WHERE cl.relname = $1 AND pg_catalog.pg_table_is_visible(cl.oid)
-- ##
SELECT indexname, array_agg(attname ORDER BY arridx), indisunique, indisprimary, array_agg(ordering ORDER BY arridx), amname, exprdef, s2.attoptions FROM (SELECT c2.relname as indexname, idx.*, attr.attname, am.amname, CASE WHEN idx.indexprs IS NOT NULL THEN pg_get_indexdef(idx.indexrelid) END AS exprdef, CASE am.amname WHEN 'btree' THEN CASE (option & 1) WHEN 1 THEN 'DESC' ELSE 'ASC' END END as ordering, c2.reloptions as attoptions FROM (SELECT * FROM pg_index i, unnest(i.indkey, i.indoption) WITH ORDINALITY koi(key, option, arridx)) idx LEFT JOIN pg_class c ON idx.indrelid = c.oid LEFT JOIN pg_class c2 ON idx.indexrelid = c2.oid LEFT JOIN pg_am am ON c2.relam = am.oid LEFT JOIN pg_attribute attr ON attr.attrelid = c.oid AND attr.attnum = idx.key WHERE c.relname = $1) s2 GROUP BY indexname, indisunique, indisprimary, amname, exprdef, attoptions
-- ##
SELECT column_name, data_type, character_maximum_length, is_nullable, column_default FROM information_schema.columns WHERE table_schema = ANY (current_schemas(false)) AND table_name = $1 ORDER BY ordinal_position
-- ##
SELECT tc.constraint_name, kcu.column_name, ccu.table_name AS foreign_table_name FROM information_schema.table_constraints AS tc JOIN information_schema.key_column_usage AS kcu USING (constraint_name, table_schema) JOIN information_schema.constraint_column_usage AS ccu ON ccu.constraint_name = tc.constraint_name WHERE tc.constraint_type = 'FOREIGN KEY'
-- ##
SELECT pg_size_pretty(pg_total_relation_size('public.orders'::regclass)), pg_relation_size(c.oid), has_table_privilege(c.oid, 'select') FROM pg_class c
-- ##
SELECT datname, pg_encoding_to_char(encoding), datcollate, age(datfrozenxid) FROM pg_database WHERE has_database_privilege(datname, 'connect')
-- ##
SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user OR pg_has_role(oid, 'member')
-- ##
SELECT gen_random_uuid(), now() AT TIME ZONE 'utc', EXTRACT(epoch FROM clock_timestamp()), random()
-- ##
SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_.*' AND nspname NOT IN ('information_schema') ORDER by nspname
-- ##
INSERT INTO "app_user" ("name", "created") VALUES ($1, $2), ($3, DEFAULT) ON CONFLICT ("name") DO UPDATE SET "created" = EXCLUDED."created" RETURNING "app_user"."id"
-- ##
UPDATE app_user SET (name, email) = ROW($1, $2), tags[1] = 'x' WHERE id = $3
-- ##
DELETE FROM app_user USING app_group WHERE app_user.group_id = app_group.id AND app_group.name = ANY($1::text[])
-- ##
SELECT "u0"."id", COUNT(*) FILTER (WHERE "u0"."active"), string_agg(DISTINCT "u0"."name", ', '), (SELECT max("x"."at") FROM "events" AS "x" WHERE "x"."user" = "u0"."id") FROM "users" AS "u0" LEFT OUTER JOIN "teams" AS "t1" ON "t1"."id" = "u0"."team_id" WHERE ("u0"."deleted_at" IS NULL) AND ("u0"."email" ILIKE '%x' ESCAPE '!') GROUP BY "u0"."id" HAVING count(*) > 1 ORDER BY 1 NULLS LAST LIMIT 20 OFFSET 40
-- ##
SELECT * FROM jobs WHERE state = 'ready' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
-- ##
SELECT date_trunc('day', created), percentile_cont(0.5) WITHIN GROUP (ORDER BY total), lag(total) OVER w FROM orders GROUP BY ROLLUP (1), total, customer, created WINDOW w AS (PARTITION BY customer ORDER BY created ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
-- ##
SELECT data->'a'->>'b', data #>> '{c,d}', data @> '{"x": 1}', jsonb_path_query_first(data, '$.e') FROM docs, LATERAL jsonb_array_elements(data->'items') AS item(value) WHERE data ? 'k'
-- ##
EXPLAIN (FORMAT JSON, COSTS true) SELECT * FROM orders WHERE id = 1
-- ##
PREPARE q (int) AS SELECT name FROM customers WHERE id = $1
-- ##
DECLARE c NO SCROLL CURSOR WITHOUT HOLD FOR SELECT id FROM orders
-- ##
FETCH FORWARD 100 FROM c
-- ##
SAVEPOINT sa_savepoint_1
-- ##
ROLLBACK TO SAVEPOINT sa_savepoint_1
-- ##
RELEASE SAVEPOINT sa_savepoint_1
