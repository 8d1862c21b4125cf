-- A small shop. Every value follows from its row's number.
CREATE TABLE customers (
    id          integer PRIMARY KEY,
    name        text NOT NULL,
    email       text NOT NULL UNIQUE,
    national_id text NOT NULL,
    card        text NOT NULL,
    city        text NOT NULL,
    born        date NOT NULL,
    balance     numeric(10, 2) NOT NULL DEFAULT 0
);
COMMENT ON COLUMN customers.national_id IS 'nine digits in three groups';

CREATE TABLE orders (
    id          integer PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers (id),
    item        text NOT NULL,
    amount      numeric(10, 2) NOT NULL,
    status      text NOT NULL CHECK (status IN ('new', 'paid', 'sent', 'returned')),
    placed_at   timestamptz NOT NULL
);
CREATE INDEX orders_by_customer ON orders (customer_id);

INSERT INTO customers
SELECT n,
       (ARRAY['Ada', 'Bela', 'Chandra', 'Dilek', 'Emeka', 'Freya', 'Goran', 'Hana', 'Ines', 'Jun'])[1 + n % 10]
           || ' '
           || (ARRAY['Aydin', 'Bianchi', 'Castro', 'Dubois', 'Eze', 'Fischer', 'Garcia', 'Horvat', 'Ito', 'Jansen'])[1 + (n / 10) % 10],
       'customer' || n || '@mail.example',
       lpad((100 + n % 900)::text, 3, '0') || '-' || lpad((n * 7 % 100)::text, 2, '0') || '-' || lpad((n * 31 % 10000)::text, 4, '0'),
       '4000 0000 ' || lpad((n * 13 % 10000)::text, 4, '0') || ' ' || lpad((n * 97 % 10000)::text, 4, '0'),
       (ARRAY['Ankara', 'Bogota', 'Cork', 'Dakar', 'Essen'])[1 + n % 5],
       DATE '1950-01-01' + (n * 97 % 20000),
       (n * 1117 % 100000) / 100.0
FROM generate_series(1, 200) AS n;

INSERT INTO orders
SELECT n,
       1 + n * 17 % 200,
       (ARRAY['kettle', 'lamp', 'desk', 'chair', 'shelf', 'clock', 'rug', 'mirror'])[1 + n % 8],
       5 + (n * 733 % 50000) / 100.0,
       (ARRAY['new', 'paid', 'sent', 'returned'])[1 + n % 4],
       TIMESTAMPTZ '2026-01-01 00:00:00+00' + n * INTERVAL '53 minutes'
FROM generate_series(1, 1000) AS n;

CREATE VIEW open_orders AS
SELECT o.id, o.item, o.amount, c.name, c.email
FROM orders AS o JOIN customers AS c ON c.id = o.customer_id
WHERE o.status IN ('new', 'paid');

CREATE VIEW revenue_by_city AS
SELECT c.city, count(*) AS orders, sum(o.amount) AS revenue
FROM orders AS o JOIN customers AS c ON c.id = o.customer_id
GROUP BY c.city;

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO svc_reporter;
-- The service account could do the worst; that it does not is for policy to ensure.
ALTER TABLE orders OWNER TO svc_reporter;
ANALYZE;
