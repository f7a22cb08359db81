-- Makes a legacy queue fit for the migrations, before the first of them; upgrade runs it once, in its transaction.
-- Settings: squorflow.legacy_zone (of its times without one), squorflow.tables (the names we need, with commas).
-- Each step writes down how it is undone; after.sql does that, the newest first.

CREATE TABLE legacy_change (
    change_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    undo text NOT NULL
);

COMMENT ON TABLE legacy_change IS 'What was changed on the legacy queue itself, and how to undo it. Nothing was dropped but checks, keys and defaults.';

CREATE FUNCTION pg_temp.change(p_do text, p_undo text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO legacy_change (undo) VALUES (p_undo);
    EXECUTE p_do;
END
$$;

DO $$
DECLARE
    v_queue regclass := 'processing_queue';
    v_zone text := current_setting('squorflow.legacy_zone');
    v record;
    v_to text;
    v_back text;
    -- json may hold the escaped character 0, and jsonb and text may not.
    v_json text := $json$regexp_replace(%I::text, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g')::jsonb$json$;
BEGIN
    -- Tables of the old system that have the names of ours keep their rows, keys and grants, in the schema legacy.
    FOR v IN
        SELECT c.relname AS name, n.nspname AS schema FROM pg_class AS c INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid <> v_queue
            AND c.relname = ANY(string_to_array(current_setting('squorflow.tables'), ','))
        ORDER BY c.relname
    LOOP
        IF to_regnamespace('legacy') IS NULL THEN
            PERFORM pg_temp.change('CREATE SCHEMA legacy', 'DROP SCHEMA legacy');
        END IF;
        PERFORM pg_temp.change(
            format('ALTER TABLE %I SET SCHEMA legacy', v.name), format('ALTER TABLE legacy.%I SET SCHEMA %I', v.name, v.schema));
    END LOOP;

    -- Columns that mean something else than ours.
    FOR v IN
        SELECT a.attname AS name FROM pg_attribute AS a
        WHERE a.attrelid = v_queue AND NOT a.attisdropped AND a.attname IN (
            'workflow_id', 'workflow_state', 'lease_token', 'trail_sequence', 'trail_hash', 'state_since', 'suspend_kind', 'dedupe_key')
    LOOP
        PERFORM pg_temp.change(
            format('ALTER TABLE processing_queue RENAME COLUMN %I TO %I', v.name, 'legacy_' || v.name),
            format('ALTER TABLE processing_queue RENAME COLUMN %I TO %I', 'legacy_' || v.name, v.name));
    END LOOP;

    -- Checks name other stages and states than ours. Keys to the old products, and one row per product, cannot hold for
    -- ours.
    FOR v IN
        SELECT c.conname AS name, pg_get_constraintdef(c.oid) AS definition, c.contype AS kind FROM pg_constraint AS c
        WHERE c.conrelid = v_queue AND (
            c.contype = 'c' AND pg_get_constraintdef(c.oid) ~ '\m(stage|status)\M'
            OR c.contype IN ('f', 'u', 'x') AND EXISTS (
                SELECT 1 FROM pg_attribute AS a
                WHERE a.attrelid = v_queue AND a.attnum = ANY(c.conkey) AND a.attname IN ('product_id', 'source_page_id', 'stage', 'status')))
    LOOP
        PERFORM pg_temp.change(
            format('ALTER TABLE processing_queue DROP CONSTRAINT %I', v.name),
            format('ALTER TABLE processing_queue ADD CONSTRAINT %I %s%s', v.name, v.definition,
                CASE WHEN v.kind IN ('c', 'f') AND v.definition NOT LIKE '%NOT VALID' THEN ' NOT VALID' ELSE '' END));
    END LOOP;
    FOR v IN
        SELECT i.indexrelid::regclass AS name, pg_get_indexdef(i.indexrelid) AS definition FROM pg_index AS i
        WHERE i.indrelid = v_queue AND i.indisunique AND NOT i.indisprimary
            AND pg_get_indexdef(i.indexrelid) ~ '\m(product_id|source_page_id|status)\M'
            AND NOT EXISTS (SELECT 1 FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)
    LOOP
        PERFORM pg_temp.change(format('DROP INDEX %s', v.name), v.definition);
    END LOOP;

    -- Defaults: ours replace them, and a row of ours has no status until the trigger gives it one.
    FOR v IN
        SELECT a.attname AS name, pg_get_expr(d.adbin, d.adrelid) AS expression
        FROM pg_attribute AS a INNER JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = v_queue AND NOT a.attisdropped AND a.attgenerated = '' AND a.attname IN (
            'queue_id', 'stage', 'status', 'priority', 'retry_count', 'max_retries', 'created_at', 'queued_at', 'completed_at',
            'processing_started_at', 'next_retry_at', 'waiting_until', 'locked_by', 'locked_at', 'lease_expires_at', 'last_error',
            'error_category', 'error_details')
    LOOP
        PERFORM pg_temp.change(
            format('ALTER TABLE processing_queue ALTER COLUMN %I DROP DEFAULT', v.name),
            format('ALTER TABLE processing_queue ALTER COLUMN %I SET DEFAULT %s', v.name, v.expression));
    END LOOP;

    -- Types: ours, without losing a value.
    FOR v IN
        SELECT a.attname AS name, a.atttypid::regtype::text AS has, format_type(a.atttypid, a.atttypmod) AS had, a.atttypmod - 4 AS length, w.type AS wanted
        FROM (VALUES
            ('queue_id', 'uuid'), ('product_id', 'uuid'), ('source_page_id', 'uuid'), ('stage', 'character varying'), ('status', 'text'),
            ('priority', 'integer'), ('retry_count', 'integer'), ('max_retries', 'integer'), ('created_at', 'timestamp with time zone'),
            ('queued_at', 'timestamp with time zone'), ('processing_started_at', 'timestamp with time zone'),
            ('completed_at', 'timestamp with time zone'), ('next_retry_at', 'timestamp with time zone'),
            ('waiting_until', 'timestamp with time zone'), ('waiting_since', 'timestamp with time zone'),
            ('locked_at', 'timestamp with time zone'), ('lease_expires_at', 'timestamp with time zone'), ('locked_by', 'text'),
            ('product_name', 'text'), ('brand_name', 'text'), ('source_url', 'text'),
            ('last_error', 'text'), ('error_category', 'character varying'), ('error_details', 'jsonb')
            UNION
            SELECT j.attname, 'jsonb' FROM pg_attribute AS j
            WHERE j.attrelid = v_queue AND j.atttypid = 'json'::regtype AND NOT j.attisdropped AND j.attgenerated = ''
        ) AS w (name, type)
        INNER JOIN pg_attribute AS a ON a.attrelid = v_queue AND a.attname = w.name AND NOT a.attisdropped
    LOOP
        CONTINUE WHEN v.has = v.wanted AND (v.has <> 'character varying' OR v.length < 0 OR v.length >= 20);
        CONTINUE WHEN v.name = 'status' AND v.has = 'character varying' AND (v.length < 0 OR v.length >= 10);
        v_back := format('%I', v.name);
        v_to := CASE
            WHEN v.wanted = 'timestamp with time zone' AND v.has IN ('timestamp without time zone', 'date')
                THEN format('%I::timestamp AT TIME ZONE %L', v.name, v_zone)
            WHEN v.wanted IN ('text', 'character varying') THEN format('%I::text', v.name)
            WHEN v.wanted = 'integer' AND v.has IN ('smallint', 'bigint', 'numeric') THEN format('least(greatest(%I, -1), 1000000)::int', v.name)
            WHEN v.wanted = 'jsonb' AND v.has = 'json' THEN format(v_json, v.name)
            WHEN v.wanted = 'jsonb' AND v.has IN ('text', 'character varying') THEN format('to_jsonb(%I::text)', v.name)
        END;
        IF v_to IS NULL THEN
            RAISE EXCEPTION 'the legacy column processing_queue.% is of type %, and squorflow needs %; change it first', v.name, v.had, v.wanted
                USING ERRCODE = 'datatype_mismatch';
        END IF;
        v_back := CASE
            WHEN v.wanted = 'timestamp with time zone' THEN format('(%I AT TIME ZONE %L)', v.name, v_zone)
            WHEN v.wanted = 'jsonb' AND v.has <> 'json' THEN format('(%I #>> ''{}'')', v.name)
            ELSE format('%I', v.name)
        END;
        PERFORM pg_temp.change(
            format('ALTER TABLE processing_queue ALTER COLUMN %I TYPE %s USING %s', v.name, v.wanted, v_to),
            format('ALTER TABLE processing_queue ALTER COLUMN %I TYPE %s USING %s::%s', v.name, v.had, v_back, v.had));
    END LOOP;

    -- What we do not fill may be empty; the old status is filled by a trigger.
    FOR v IN
        SELECT a.attname AS name FROM pg_attribute AS a
        WHERE a.attrelid = v_queue AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND a.attidentity = '' AND a.attgenerated = ''
            AND a.attname NOT IN ('queue_id', 'status', 'stage', 'priority', 'retry_count', 'max_retries', 'created_at')
            AND NOT EXISTS (
                SELECT 1 FROM pg_index AS i WHERE i.indrelid = v_queue AND i.indisprimary AND a.attnum = ANY(i.indkey))
    LOOP
        PERFORM pg_temp.change(
            format('ALTER TABLE processing_queue ALTER COLUMN %I DROP NOT NULL', v.name),
            format('ALTER TABLE processing_queue ALTER COLUMN %I SET NOT NULL', v.name));
    END LOOP;

    IF NOT EXISTS (
        SELECT 1 FROM pg_index AS i INNER JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = v_queue AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attname = 'queue_id')
    THEN
        RAISE EXCEPTION 'the legacy table processing_queue has no unique uuid column queue_id; give it one first' USING ERRCODE = 'datatype_mismatch';
    END IF;

    -- What it had, so that what comes after can be told apart. Written last, so it is undone first.
    INSERT INTO legacy_change (undo)
    SELECT format($undo$
        DO $inner$
        DECLARE v record;
        BEGIN
            FOR v IN SELECT c.conname AS name FROM pg_constraint AS c
                WHERE c.conrelid = 'processing_queue'::regclass AND c.contype <> 'n' AND c.conname <> ALL(%1$L::text[]) LOOP
                EXECUTE format('ALTER TABLE processing_queue DROP CONSTRAINT %%I CASCADE', v.name);
            END LOOP;
            FOR v IN SELECT i.indexrelid::regclass AS name FROM pg_index AS i INNER JOIN pg_class AS c ON c.oid = i.indexrelid
                WHERE i.indrelid = 'processing_queue'::regclass AND c.relname <> ALL(%2$L::text[]) LOOP
                EXECUTE format('DROP INDEX %%s', v.name);
            END LOOP;
            FOR v IN SELECT a.attname AS name FROM pg_attribute AS a
                WHERE a.attrelid = 'processing_queue'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL(%3$L::text[]) LOOP
                EXECUTE format('ALTER TABLE processing_queue DROP COLUMN IF EXISTS %%I CASCADE', v.name);
            END LOOP;
            FOR v IN SELECT a.attname AS name FROM pg_attribute AS a
                WHERE a.attrelid = 'processing_queue'::regclass AND a.attname IN ('stage', 'priority', 'retry_count', 'max_retries', 'created_at') LOOP
                EXECUTE format('ALTER TABLE processing_queue ALTER COLUMN %%I DROP DEFAULT', v.name);
            END LOOP;
            ALTER TABLE processing_queue RESET (
                fillfactor, autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor, autovacuum_vacuum_cost_delay);
        END
        $inner$
    $undo$,
        (SELECT coalesce(array_agg(c.conname), '{}')::text[] FROM pg_constraint AS c WHERE c.conrelid = v_queue),
        (SELECT coalesce(array_agg(c.relname), '{}')::text[] FROM pg_index AS i INNER JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = v_queue),
        (SELECT array_agg(a.attname)::text[] FROM pg_attribute AS a WHERE a.attrelid = v_queue AND a.attnum > 0 AND NOT a.attisdropped));
END
$$;

DROP FUNCTION pg_temp.change(text, text);
