-- name: say
-- Tell the audit trail who makes the next changes of this transaction, and why.
SELECT workflow_say(:actor, :reason);

-- name: hush
-- Forget it again, so that a later change is not signed by mistake.
SELECT workflow_hush();

-- name: insert_items
-- Create workflows with their payloads; an item whose dedupe key a live workflow has is left out.
WITH item AS MATERIALIZED (
    SELECT uuid_v7() AS workflow_id, i.ordinal, i.url, i.name, i.brand, i.priority, i.max_retries, i.dedupe, i.crawler_data
    FROM jsonb_to_recordset(CAST(:items AS jsonb)) AS i (
        ordinal int, url text, name text, brand text, priority int, max_retries int, dedupe text, crawler_data jsonb
    )
),
inserted AS (
    INSERT INTO processing_queue (queue_id, source_url, product_name, brand_name, priority, max_retries, dedupe_key)
    SELECT workflow_id, url, name, brand, priority, max_retries, decode(dedupe, 'hex')
    FROM item
    ORDER BY dedupe, ordinal
    ON CONFLICT (dedupe_key) WHERE dedupe_key IS NOT NULL AND workflow_state <> 'cancelled' DO NOTHING
    RETURNING queue_id
),
stored AS (
    INSERT INTO workflow_payload (workflow_id, crawler_data)
    SELECT i.workflow_id, i.crawler_data FROM item AS i INNER JOIN inserted AS n ON n.queue_id = i.workflow_id
)
SELECT i.ordinal, i.workflow_id FROM item AS i INNER JOIN inserted AS n ON n.queue_id = i.workflow_id ORDER BY i.ordinal;

-- name: list_copies
-- Find the workflows that keep items with these dedupe keys out: one look into the index for each key.
SELECT k.ordinal - 1 AS place, c.workflow_id
FROM unnest(CAST(:dedupe_keys AS text [])) WITH ORDINALITY AS k (dedupe, ordinal)
CROSS JOIN LATERAL (
    SELECT q.queue_id AS workflow_id
    FROM processing_queue AS q
    WHERE q.dedupe_key = decode(k.dedupe, 'hex') AND q.dedupe_key IS NOT NULL AND q.workflow_state <> 'cancelled'
    -- There is but one. To say so keeps a batch from being joined to the whole queue.
    LIMIT 1
) AS c;

-- name: queue_created
-- Queue workflows that were just created, in the order given: a microsecond apart, so that claims keep it.
UPDATE processing_queue AS q
SET workflow_state = 'queued', queued_at = statement_timestamp() + i.ordinal * interval '1 microsecond'
FROM unnest(CAST(:workflow_ids AS uuid [])) WITH ORDINALITY AS i (workflow_id, ordinal)
WHERE q.queue_id = i.workflow_id AND q.workflow_state = 'created';

-- name: lock_item
-- Lock a workflow, so that whoever makes another of its page comes one after the other.
SELECT q.source_url FROM processing_queue AS q WHERE q.queue_id = :workflow_id FOR NO KEY UPDATE;

-- name: find_live_copy
-- Find a workflow that is under way for the page of this one, itself included.
SELECT q.queue_id, q.workflow_state
FROM processing_queue AS q
WHERE q.workflow_state IN ('created', 'queued', 'processing', 'waiting', 'retrying')
    AND (q.queue_id = :workflow_id OR q.source_url = :source_url)
ORDER BY q.queue_id
LIMIT 1;

-- name: claim_batch
-- Claim the next queued rows for a run, once per run: the winner of run_claim claims and numbers them, in one statement.
WITH winner AS (
    INSERT INTO run_claim (owner) VALUES (:owner) ON CONFLICT (owner) DO NOTHING RETURNING owner
),
picked AS MATERIALIZED (
    SELECT q.queue_id
    FROM processing_queue AS q
    WHERE q.workflow_state = 'queued' AND q.locked_by IS NULL AND q.priority >= :priority_at_least
        AND EXISTS (SELECT 1 FROM winner)
    ORDER BY q.priority DESC, q.queued_at, q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE processing_queue AS q SET locked_by = :owner, locked_at = clock_timestamp()
    FROM picked AS p WHERE q.queue_id = p.queue_id
    RETURNING q.queue_id, q.priority, q.queued_at, q.retry_count
)
INSERT INTO run_claim_item (owner, map_index, workflow_id)
-- Airflow's places go to a run's first products first.
SELECT :owner, row_number() OVER (ORDER BY c.retry_count > 0 DESC, c.priority DESC, c.queued_at, c.queue_id) - 1, c.queue_id FROM claimed AS c;

-- name: claim_tried
-- Claim the next queued rows that were tried before, once per run, as claim_batch does.
WITH winner AS (
    INSERT INTO run_claim (owner) VALUES (:owner) ON CONFLICT (owner) DO NOTHING RETURNING owner
),
picked AS MATERIALIZED (
    SELECT q.queue_id
    FROM processing_queue AS q
    WHERE q.workflow_state = 'queued' AND q.locked_by IS NULL AND q.retry_count > 0 AND q.priority >= :priority_at_least
        AND EXISTS (SELECT 1 FROM winner)
    ORDER BY q.priority DESC, q.queued_at, q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE processing_queue AS q SET locked_by = :owner, locked_at = clock_timestamp()
    FROM picked AS p WHERE q.queue_id = p.queue_id
    RETURNING q.queue_id, q.priority, q.queued_at
)
INSERT INTO run_claim_item (owner, map_index, workflow_id)
SELECT :owner, row_number() OVER (ORDER BY c.priority DESC, c.queued_at, c.queue_id) - 1, c.queue_id FROM claimed AS c;

-- name: claim_named
-- Claim the named rows that are claimable, once per run, as claim_batch does.
WITH winner AS (
    INSERT INTO run_claim (owner) VALUES (:owner) ON CONFLICT (owner) DO NOTHING RETURNING owner
),
picked AS MATERIALIZED (
    SELECT q.queue_id
    FROM processing_queue AS q
    WHERE q.queue_id = ANY(CAST(:workflow_ids AS uuid [])) AND q.workflow_state = 'queued' AND q.locked_by IS NULL
        AND q.priority >= :priority_at_least AND EXISTS (SELECT 1 FROM winner)
    ORDER BY q.priority DESC, q.queued_at, q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE processing_queue AS q SET locked_by = :owner, locked_at = clock_timestamp()
    FROM picked AS p WHERE q.queue_id = p.queue_id
    RETURNING q.queue_id, q.priority, q.queued_at
)
INSERT INTO run_claim_item (owner, map_index, workflow_id)
SELECT :owner, row_number() OVER (ORDER BY c.priority DESC, c.queued_at, c.queue_id) - 1, c.queue_id FROM claimed AS c;

-- name: claim_run_singly
-- Claim for a run row by row, once per run, where the claim of all at once failed; returns the rows that refused.
WITH winner AS (
    INSERT INTO run_claim (owner) VALUES (:owner) ON CONFLICT (owner) DO NOTHING RETURNING owner
),
picked AS MATERIALIZED (
    SELECT q.queue_id, q.priority, q.queued_at, q.retry_count
    FROM processing_queue AS q
    WHERE q.workflow_state = 'queued' AND q.locked_by IS NULL AND q.priority >= :priority_at_least
        AND (CAST(:workflow_ids AS uuid []) IS NULL OR q.queue_id = ANY(CAST(:workflow_ids AS uuid [])))
        AND (NOT :only_tried OR q.retry_count > 0)
        AND EXISTS (SELECT 1 FROM winner)
    ORDER BY q.priority DESC, q.queued_at, q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE SKIP LOCKED
),
tried AS MATERIALIZED (
    SELECT p.queue_id, p.priority, p.queued_at, p.retry_count, workflow_try_claim(p.queue_id, :owner, NULL) AS refusal FROM picked AS p
),
numbered AS (
    INSERT INTO run_claim_item (owner, map_index, workflow_id)
    SELECT :owner, row_number() OVER (ORDER BY t.retry_count > 0 DESC, t.priority DESC, t.queued_at, t.queue_id) - 1, t.queue_id
    FROM tried AS t WHERE t.refusal IS NULL
)
SELECT t.queue_id, t.refusal FROM tried AS t WHERE t.refusal IS NOT NULL;

-- name: list_claimed
-- Read a run's items in map order, finished ones included.
SELECT i.map_index, i.workflow_id, q.product_name, q.workflow_state, q.stage, q.retry_count, q.error_category, q.last_error, q.locked_by
FROM run_claim_item AS i
LEFT JOIN processing_queue AS q ON q.queue_id = i.workflow_id
WHERE i.owner = :owner
ORDER BY i.map_index;

-- name: claim_for_worker
-- Claim the next queued rows for a worker process, which keeps them by its lease.
WITH picked AS MATERIALIZED (
    SELECT q.queue_id
    FROM processing_queue AS q
    WHERE q.workflow_state = 'queued' AND q.locked_by IS NULL
        AND q.queue_id <> ALL(CAST(:passed_over AS uuid []))
    ORDER BY q.priority DESC, q.queued_at, q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE processing_queue AS q
    SET locked_by = :owner, locked_at = clock_timestamp(), lease_expires_at = clock_timestamp() + :lease
    FROM picked AS p WHERE q.queue_id = p.queue_id
    RETURNING q.queue_id, q.priority, q.queued_at
)
SELECT c.queue_id FROM claimed AS c ORDER BY c.priority DESC, c.queued_at, c.queue_id;

-- name: claim_singly
-- Claim rows for a worker one by one, where one of them refuses; it is told from the others by its refusal.
SELECT p.queue_id, workflow_try_claim(p.queue_id, :owner, :lease) AS refusal
FROM (
    SELECT q.queue_id
    FROM processing_queue AS q
    WHERE q.workflow_state = 'queued' AND q.locked_by IS NULL
        AND q.queue_id <> ALL(CAST(:passed_over AS uuid []))
    ORDER BY q.priority DESC, q.queued_at, q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE SKIP LOCKED
) AS p;

-- name: extend_owned
-- Extend the lease of all rows a worker process holds, also of those it has not begun, in the order in which it lets go.
WITH held AS MATERIALIZED (
    SELECT q.queue_id
    FROM processing_queue AS q
    WHERE q.locked_by = :owner AND q.workflow_state IN ('queued', 'processing')
    ORDER BY q.queue_id
    FOR NO KEY UPDATE
)
UPDATE processing_queue AS q SET lease_expires_at = clock_timestamp() + :lease
FROM held AS h WHERE q.queue_id = h.queue_id;

-- name: give_back
-- Release what an owner claimed and did not begin, or left to be retried.
UPDATE processing_queue SET locked_by = NULL, locked_at = NULL, lease_expires_at = NULL
WHERE locked_by = :owner AND workflow_state IN ('queued', 'retrying');

-- name: count_claimable
-- Count the rows a run could claim now, as far as it matters.
SELECT count(*) FROM (
    SELECT 1 FROM processing_queue AS q
    WHERE q.workflow_state = 'queued' AND q.locked_by IS NULL AND q.queue_id <> ALL(CAST(:passed_over AS uuid []))
    -- Ordered as the index is, or one row in a large table is looked for in all of it.
    ORDER BY q.priority DESC, q.queued_at, q.queue_id
    LIMIT :most
) AS claimable;
