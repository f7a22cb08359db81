-- Written so, the body is bound when it is made and needs no search_path; without one, Postgres puts it into the query that
-- calls it, which a million measurements notice.
CREATE OR REPLACE FUNCTION metric_bucket(p_value numeric) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN floor(ln(least(greatest(p_value, 1e-6), 1e9)::float8) / ln(1.1::float8))::int;
