-- The old system's pages and products may have columns of type json, which may hold the escaped character 0.

CREATE FUNCTION readable_json(p_json text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT SET search_path FROM CURRENT AS $$
    -- jsonb and text can hold every character but that one.
    SELECT regexp_replace(p_json, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g')::jsonb
$$;

CREATE OR REPLACE FUNCTION legacy_describe(p_workflow_ids uuid[]) RETURNS TABLE (workflow_id uuid, crawler_data jsonb)
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
            'SELECT t.%1$I AS key, readable_json(row_to_json(t)::text) AS body FROM %2$s AS t
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
