-- name: find_queue
-- Say whether there is a legacy queue, and whether the schema is there to import it into.
SELECT EXISTS (
    SELECT 1 FROM pg_attribute AS a
    WHERE a.attrelid = to_regclass('processing_queue') AND a.attname = 'status' AND NOT a.attisdropped
) AS legacy, to_regproc('legacy_describe') IS NOT NULL AS upgraded;

-- name: count_waiting
-- Count the rows without a state by what decides on it; a column that is not there yet is read as NULL of the row beside it.
SELECT j.status, j.stage, j.may_retry, count(*) AS workflows
FROM (
    SELECT
        NULL::text AS status, NULL::text AS stage, NULL::text AS retry_count, NULL::text AS max_retries, NULL::text AS next_retry_at,
        NULL::text AS trail_sequence
) AS missing
CROSS JOIN LATERAL (
    SELECT
        status::text AS status, stage::text AS stage,
        coalesce(retry_count::numeric, 0) < coalesce(max_retries::numeric, 3)
        AND next_retry_at IS NOT NULL AND next_retry_at::text NOT LIKE '%infinity' AS may_retry
    FROM processing_queue
    WHERE coalesce(trail_sequence::text, '0') = '0'
) AS j
GROUP BY j.status, j.stage, j.may_retry
ORDER BY j.status, j.stage, j.may_retry;

-- name: lock_import
-- Let one import run at a time; freed with the transaction.
SELECT pg_advisory_xact_lock(21332, 0);

-- name: list_batch
-- Read and lock the next rows without a state, in key order.
SELECT
    q.queue_id, to_jsonb(q) ->> 'status' AS status, q.stage,
    coalesce(q.retry_count, 0) < coalesce(q.max_retries, 3) AND readable_time(q.next_retry_at) IS NOT NULL AS may_retry
FROM processing_queue AS q
WHERE q.workflow_state IS NULL AND q.queue_id > :after
ORDER BY q.queue_id
LIMIT :batch_size
FOR NO KEY UPDATE;

-- name: import_rows
-- Give legacy rows their first state, once, with one audit row each.
SELECT workflow_import(
    CAST(:workflow_ids AS uuid []), :state, :reason, jsonb_build_object('status', CAST(:status AS text), 'stage', CAST(:stage AS text)));

-- name: describe_rows
-- Keep what the old system knew about the products of these rows, as if the crawler had just sent it.
WITH known AS MATERIALIZED (
    SELECT d.workflow_id, d.crawler_data FROM legacy_describe(CAST(:workflow_ids AS uuid [])) AS d WHERE d.crawler_data <> '{"legacy": {}}'
),
stored AS (
    INSERT INTO workflow_payload (workflow_id, crawler_data)
    SELECT k.workflow_id, k.crawler_data FROM known AS k
    ON CONFLICT (workflow_id) DO NOTHING
)
UPDATE processing_queue AS q SET
    product_name = coalesce(q.product_name, left(k.crawler_data ->> 'name', 500)),
    source_url = coalesce(q.source_url, left(k.crawler_data ->> 'url', 2000)),
    brand_name = coalesce(q.brand_name, left(CASE jsonb_typeof(k.crawler_data -> 'brand')
        WHEN 'object' THEN k.crawler_data -> 'brand' ->> 'name' ELSE k.crawler_data ->> 'brand' END, 500))
FROM known AS k
WHERE q.queue_id = k.workflow_id;

-- name: list_added
-- List what an old crawler has put into the queue since: created by its insert, and nobody here knows of it.
SELECT q.queue_id
FROM processing_queue AS q
WHERE q.workflow_state = 'created' AND to_jsonb(q) ? 'status'
    AND NOT EXISTS (SELECT 1 FROM workflow_payload AS p WHERE p.workflow_id = q.queue_id)
ORDER BY q.queue_id
LIMIT :batch_size
FOR NO KEY UPDATE OF q;

-- name: finalize
-- Let go of the old status column.
SELECT legacy_finalize();
