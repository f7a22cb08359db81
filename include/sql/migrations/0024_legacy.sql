-- The legacy import, and the old status column kept in step for whoever still reads it.

CREATE OR REPLACE FUNCTION workflow_import(p_workflow_ids uuid[], p_state text, p_reason text, p_metadata jsonb DEFAULT '{}') RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    v_ids uuid[];
    v_completed_at timestamptz[];
BEGIN
    SELECT array_agg(q.queue_id), array_agg(readable_time(q.completed_at)) INTO v_ids, v_completed_at
    FROM (
        SELECT p.queue_id, p.completed_at FROM processing_queue AS p
        WHERE p.queue_id = ANY(p_workflow_ids) AND p.workflow_state IS NULL FOR NO KEY UPDATE
    ) AS q;
    IF v_ids IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM set_config('squorflow.context', jsonb_build_object(
        'actor', 'migration', 'reason', p_reason, 'import', TRUE, 'metadata',
        CASE jsonb_typeof(p_metadata) WHEN 'object' THEN p_metadata ELSE '{}' END || '{"import": true}')::text, TRUE);
    -- Legacy values out of our ranges would make every later change of the row fail; nobody lives who holds a row.
    UPDATE processing_queue AS q SET
        workflow_state = p_state,
        stage = CASE q.stage WHEN 'ocr' THEN 'enrichment' ELSE
            coalesce((SELECT s.stage FROM workflow_stage AS s WHERE s.stage = q.stage::text), 'discovery') END,
        priority = least(greatest(coalesce(q.priority, 5), 1), 10),
        retry_count = greatest(coalesce(q.retry_count, 0), 0),
        max_retries = greatest(coalesce(q.max_retries, 3), 0),
        created_at = coalesce(readable_time(q.created_at), readable_time(q.queued_at)),
        queued_at = readable_time(q.queued_at),
        processing_started_at = readable_time(q.processing_started_at),
        completed_at = readable_time(q.completed_at),
        next_retry_at = readable_time(q.next_retry_at),
        waiting_until = readable_time(q.waiting_until),
        suspend_kind = CASE p_state WHEN 'suspended' THEN 'data' END,
        last_error = CASE p_state WHEN 'suspended' THEN coalesce(q.last_error, p_reason) ELSE q.last_error END,
        locked_by = NULL, locked_at = NULL, lease_expires_at = NULL
    WHERE q.queue_id = ANY(v_ids);
    PERFORM workflow_hush();
    -- The state machine stamps a completion with its own time. This one was long ago.
    IF p_state = 'completed' THEN
        UPDATE processing_queue AS q SET completed_at = c.completed_at
        FROM unnest(v_ids, v_completed_at) AS c (queue_id, completed_at)
        WHERE q.queue_id = c.queue_id;
    END IF;
    -- History is no news: nobody is told about it.
    UPDATE workflow_events AS e SET processed = TRUE WHERE e.workflow_id = ANY(v_ids) AND NOT e.processed;
    RETURN cardinality(v_ids);
END
$$;

CREATE FUNCTION legacy_describe(p_workflow_ids uuid[]) RETURNS TABLE (workflow_id uuid, crawler_data jsonb)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
-- What the old system knew about each workflow's product: what the crawler saw, where stage_details has it, else its
-- source page, else no name and address, which discovery suspends. Every legacy column is read through JSON: it may be
-- there or not.
DECLARE
    v_read text := 'SELECT NULL::uuid AS key, NULL::jsonb AS body WHERE FALSE';
    v_pages text := v_read;
    v_products text := v_read;
    v record;
BEGIN
    FOR v IN
        SELECT DISTINCT ON (w.kind) w.kind, w.name, a.attname AS key
        FROM (VALUES
            ('page', 1, to_regclass('legacy.source_page')), ('page', 2, to_regclass('legacy.source_pages')), ('page', 3, to_regclass('source_pages')),
            ('product', 1, to_regclass('legacy.product')), ('product', 2, to_regclass('legacy.products')), ('product', 3, to_regclass('products'))
        ) AS w (kind, place, name)
        INNER JOIN pg_attribute AS a ON a.attrelid = w.name AND NOT a.attisdropped AND a.atttypid = 'uuid'::regtype
            AND a.attname IN ('source_page_id', 'page_id', 'product_id', 'id')
            AND (a.attname <> 'product_id' OR w.kind = 'product')
        ORDER BY w.kind, w.place, a.attname = 'id', a.attnum
    LOOP
        -- Only what belongs to these rows becomes JSON.
        v_read := format(
            'SELECT t.%1$I AS key, to_jsonb(t) AS body FROM %2$s AS t
             WHERE t.%1$I = ANY(ARRAY(SELECT w.%3$I FROM processing_queue AS w WHERE w.queue_id = ANY($1)))',
            v.key, v.name, CASE v.kind WHEN 'page' THEN 'source_page_id' ELSE 'product_id' END);
        IF v.kind = 'page' THEN v_pages := v_read; ELSE v_products := v_read; END IF;
    END LOOP;
    RETURN QUERY EXECUTE format($query$
        SELECT q.queue_id, jsonb_strip_nulls(jsonb_build_object('legacy', jsonb_build_object(
            'product_id', q.product_id, 'source_page_id', q.source_page_id))) || CASE
            WHEN jsonb_typeof(d.details -> 'crawler_data') = 'object' THEN d.details -> 'crawler_data'
            WHEN d.details ? 'name' AND d.details ? 'url' THEN d.details
            WHEN s.body -> 'crawler_data' ? 'name' AND s.body -> 'crawler_data' ? 'url' THEN s.body -> 'crawler_data'
            WHEN s.body -> 'raw_data' ? 'name' AND s.body -> 'raw_data' ? 'url' THEN s.body -> 'raw_data'
            ELSE jsonb_strip_nulls(jsonb_build_object(
                'url', coalesce(s.body ->> 'url', s.body ->> 'page_url', s.body ->> 'source_url'),
                'name', coalesce(s.body ->> 'name', s.body ->> 'title', s.body ->> 'product_name', p.body ->> 'name', p.body ->> 'product_name'),
                'brand', coalesce(s.body ->> 'brand', p.body ->> 'brand'),
                'extracted_data', CASE jsonb_typeof(s.body -> 'extracted_data') WHEN 'object' THEN s.body -> 'extracted_data' END))
        END
        FROM processing_queue AS q
        CROSS JOIN LATERAL (
            SELECT CASE jsonb_typeof(to_jsonb(q) -> 'stage_details') WHEN 'object' THEN to_jsonb(q) -> 'stage_details' ELSE '{}' END AS details
        ) AS d
        LEFT JOIN (%s) AS s ON s.key = q.source_page_id
        LEFT JOIN (%s) AS p ON p.key = q.product_id
        WHERE q.queue_id = ANY($1)
    $query$, v_pages, v_products) USING p_workflow_ids;
END
$$;

CREATE FUNCTION legacy_status(p_state text, p_status text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
    -- What an old reader should think: only 'pending' may be taken. A status nobody knew stays readable until a person
    -- has decided.
    SELECT CASE
        WHEN p_state IN ('created', 'queued') THEN 'pending'
        WHEN p_state IN ('processing', 'waiting') THEN 'processing'
        WHEN p_state = 'completed' THEN 'completed'
        WHEN p_state = 'cancelled' THEN 'skipped'
        WHEN p_state = 'suspended' AND (p_status IN ('pending', 'processing', 'completed', 'failed', 'skipped')) IS NOT TRUE THEN p_status
        ELSE 'failed'
    END
$$;

CREATE FUNCTION queue_follow_status() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Sorts after zz_guard, so it sees the state that comes to stand, and touches nothing the trail is made of.
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.workflow_state IS NULL OR NEW.status IS DISTINCT FROM OLD.status AND NEW.status IS DISTINCT FROM legacy_status(NEW.workflow_state, OLD.status) THEN
            RAISE EXCEPTION 'workflow %: the old status may be read, but no longer written; it follows workflow_state, which is %',
                OLD.queue_id, coalesce(NEW.workflow_state, 'not there until the import') USING ERRCODE = 'SQ004';
        END IF;
        NEW.status := legacy_status(NEW.workflow_state, OLD.status);
    ELSE
        NEW.status := legacy_status(NEW.workflow_state, NULL);
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION legacy_finalize() RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Lets go of the old status: it stays as it is from now on, and no row needs one. Returns FALSE when there is none.
DECLARE
    v_name text;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_attribute AS a WHERE a.attrelid = 'processing_queue'::regclass AND a.attname = 'status' AND NOT a.attisdropped) THEN
        RETURN FALSE;
    END IF;
    DROP TRIGGER IF EXISTS zzz_follow_status ON processing_queue;
    IF EXISTS (SELECT 1 FROM pg_attribute AS a WHERE a.attrelid = 'processing_queue'::regclass AND a.attname = 'status' AND a.attnotnull) THEN
        INSERT INTO legacy_change (undo) VALUES ('ALTER TABLE processing_queue ALTER COLUMN status SET NOT NULL');
        ALTER TABLE processing_queue ALTER COLUMN status DROP NOT NULL;
    END IF;
    FOR v_name IN
        SELECT c.conname FROM pg_constraint AS c
        WHERE c.conrelid = 'processing_queue'::regclass AND NOT c.convalidated AND c.conname LIKE 'queue\_%'
    LOOP
        EXECUTE format('ALTER TABLE processing_queue VALIDATE CONSTRAINT %I', v_name);
    END LOOP;
    RETURN TRUE;
END
$$;

REVOKE EXECUTE ON FUNCTION legacy_finalize FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_attribute AS a WHERE a.attrelid = 'processing_queue'::regclass AND a.attname = 'status' AND NOT a.attisdropped) THEN
        CREATE TRIGGER zzz_follow_status BEFORE INSERT OR UPDATE ON processing_queue FOR EACH ROW EXECUTE FUNCTION queue_follow_status();
        ALTER TABLE processing_queue ENABLE ALWAYS TRIGGER zzz_follow_status;
    END IF;
END
$$;
