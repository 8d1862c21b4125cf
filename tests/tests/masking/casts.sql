-- A cast that PostgreSQL does not have between two of its own types.
CREATE FUNCTION swap.of_number(integer) RETURNS text LANGUAGE sql AS 'SELECT national_id FROM public.customers WHERE id = 900';
CREATE CAST (integer AS text) WITH FUNCTION swap.of_number(integer) AS IMPLICIT;
