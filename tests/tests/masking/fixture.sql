-- What the attacks look for. The service account may do everything: only Chaperone stands between.
ALTER ROLE svc_reporter SUPERUSER;
CREATE DOMAIN secret_code AS text CHECK (length(VALUE) > 3);
ALTER TABLE customers
    ADD COLUMN s_num numeric, ADD COLUMN s_day date, ADD COLUMN s_uuid uuid, ADD COLUMN s_doc jsonb,
    ADD COLUMN s_list text[], ADD COLUMN s_code secret_code,
    ADD COLUMN email_copy text GENERATED ALWAYS AS (lower(email)) STORED;
CREATE TABLE customers_vip () INHERITS (customers);
INSERT INTO customers VALUES
    (900, 'Probe', 'qzx7vkw3@jhd5-fyp.example', 'NX-83W1-77QK-PLV', '4917 6130 0821 7759', 'Cork', '1990-01-01', 1,
     73914.58623, '1931-07-29', 'b7c1e0d2-93fa-4e6b-8d15-6fa0c37e9b41', '{"pin": "HJW-55T-ZKR9"}', '{VBX-204-MDQ8,x}', 'GTR-661-PWC2');
INSERT INTO customers_vip SELECT 901, name, email, national_id, card, city, born, balance, s_num, s_day, s_uuid, s_doc, s_list, s_code
    FROM ONLY customers WHERE id = 900;
CREATE TABLE people (id integer, region text, email text) PARTITION BY LIST (region);
CREATE TABLE people_eu (email text, region text, id integer);
ALTER TABLE people ATTACH PARTITION people_eu FOR VALUES IN ('eu');
INSERT INTO people VALUES (1, 'eu', 'qzx7vkw3@jhd5-fyp.example');
CREATE TABLE branches (id integer, region text, email text) PARTITION BY LIST (region);
CREATE TABLE branches_eu PARTITION OF branches FOR VALUES IN ('eu');
INSERT INTO branches VALUES (1, 'eu', 'qzx7vkw3@jhd5-fyp.example');
CREATE VIEW v_branches AS SELECT email FROM branches;
CREATE VIEW v_plain AS SELECT id, email AS contact FROM customers;
CREATE VIEW v_nested AS SELECT id, upper(contact) AS loud FROM v_plain;
CREATE VIEW v_row AS SELECT c FROM customers c;
CREATE MATERIALIZED VIEW m_plain AS SELECT id, email AS contact FROM customers;
CREATE TABLE notes (id serial PRIMARY KEY, t text UNIQUE, n integer);
INSERT INTO notes (t, n) VALUES ('a note', 1);
CREATE VIEW v_notes AS SELECT t, n FROM notes;
CREATE FUNCTION lookup(k integer) RETURNS text LANGUAGE sql AS 'SELECT national_id FROM customers WHERE id = k';
CREATE FUNCTION everybody() RETURNS SETOF customers LANGUAGE sql AS 'SELECT * FROM customers';
CREATE FUNCTION lower(k integer) RETURNS text LANGUAGE sql AS 'SELECT national_id FROM customers WHERE id = k';
CREATE FUNCTION shout(k integer) RETURNS integer LANGUAGE plpgsql AS $$ DECLARE v text; BEGIN
    SELECT national_id INTO v FROM customers WHERE id = k;
    RAISE NOTICE 'it is %', v USING DETAIL = v, HINT = v; RAISE EXCEPTION 'still %', v; END $$;
CREATE FUNCTION opens(k refcursor) RETURNS refcursor LANGUAGE plpgsql AS $$ BEGIN
    OPEN k FOR SELECT upper(national_id) FROM customers WHERE id = 900; RETURN k; END $$;
CREATE FUNCTION nid(c customers) RETURNS text LANGUAGE sql AS 'SELECT c.national_id';
CREATE OPERATOR <+> (PROCEDURE = pg_catalog.textcat, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE NOTICE 'seen %', (SELECT national_id FROM customers WHERE id = 900); RETURN NEW; END $$;
CREATE FUNCTION whisper(k integer) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN
    RAISE DEBUG 'it is %', (SELECT national_id FROM customers WHERE id = k); RETURN 1; END $$;
CREATE FUNCTION fixed(k integer) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
    RETURN (SELECT national_id FROM customers WHERE id = k); END $$;
CREATE FUNCTION nobodys(k integer) RETURNS text LANGUAGE sql AS 'SELECT national_id FROM customers WHERE id = k';
CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TABLE hushed (t text);
CREATE TRIGGER hush BEFORE INSERT ON hushed FOR EACH ROW EXECUTE FUNCTION quiet();
CREATE TABLE later (n integer);
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION told();
CREATE VIEW v_named AS SELECT id FROM customers WHERE national_id = 'NX-83W1-77QK-PLV';
CREATE TYPE typed AS (secret text);
CREATE TABLE vault5 OF typed;
INSERT INTO vault5 VALUES ('NX-83W1-77QK-PLV');
CREATE TABLE loud (n integer);
CREATE TRIGGER tells BEFORE INSERT ON loud FOR EACH ROW EXECUTE FUNCTION told();
CREATE TABLE ruled (n integer);
CREATE RULE also AS ON INSERT TO ruled DO ALSO SELECT upper(national_id) FROM customers WHERE id = 900;
CREATE SCHEMA swap;
CREATE SCHEMA hid;
CREATE FUNCTION swap.abs(text) RETURNS text LANGUAGE sql AS 'SELECT national_id FROM public.customers WHERE id = 900';
CREATE TABLE swap.things AS SELECT 'harmless'::text AS label;
CREATE TABLE hid.things AS SELECT 'NX-83W1-77QK-PLV'::text AS label;
CREATE TABLE vault1 AS SELECT 'NX-83W1-77QK-PLV'::text AS secret;
CREATE TABLE vault2 AS SELECT * FROM vault1;
CREATE TABLE vault3 AS SELECT * FROM vault1;
CREATE TABLE vault4 AS SELECT * FROM vault1;
CREATE STATISTICS stats_ext (mcv) ON email, national_id FROM customers;
ALTER TABLE customers ALTER COLUMN email SET STATISTICS 1000;
INSERT INTO customers SELECT 1000 + n, 'Probe', n || 'x@y', 'NX-83W1-77QK-PLV', '4917 6130 0821 7759', 'Cork', '1990-01-01', 1 FROM generate_series(1, 50) n;
CREATE EXTENSION IF NOT EXISTS pageinspect;
ANALYZE;
