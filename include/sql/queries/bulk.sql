-- name: count_matching
-- Count what an operation would cover. Words: as an array, or the OR beside it keeps their ids from the key.
SELECT count(*)
FROM processing_queue AS q
WHERE q.workflow_state = ANY(CAST(:states AS text []))
    AND (CAST(:stage AS text) IS NULL OR q.stage = :stage)
    AND (CAST(:brand AS text) IS NULL OR lower(q.brand_name) = lower(:brand))
    AND (CAST(:error_category AS text) IS NULL OR q.error_category = :error_category)
    AND (CAST(:last_error AS text) IS NULL OR q.last_error = :last_error)
    AND (
        CAST(:words AS text) IS NULL
        OR q.queue_id = ANY(ARRAY(
            SELECT p.workflow_id FROM workflow_payload AS p WHERE workflow_words(p.crawler_data) @@ to_tsquery('simple', :words)
        ))
    );

-- name: insert_operation
-- Create an operation and fix which workflows it covers: those that match now.
WITH made AS (
    INSERT INTO bulk_operation (action, filter, reason, actor)
    VALUES (:action, CAST(:filter AS jsonb), :reason, :actor)
    RETURNING operation_id
),
item AS (
    INSERT INTO bulk_operation_item (operation_id, workflow_id)
    SELECT m.operation_id, q.queue_id
    FROM made AS m CROSS JOIN processing_queue AS q
    WHERE q.workflow_state = ANY(CAST(:states AS text []))
        AND (CAST(:stage AS text) IS NULL OR q.stage = :stage)
        AND (CAST(:brand AS text) IS NULL OR lower(q.brand_name) = lower(:brand))
        AND (CAST(:error_category AS text) IS NULL OR q.error_category = :error_category)
        AND (CAST(:last_error AS text) IS NULL OR q.last_error = :last_error)
        AND (
            CAST(:words AS text) IS NULL
            OR q.queue_id = ANY(ARRAY(
                SELECT p.workflow_id FROM workflow_payload AS p
                WHERE workflow_words(p.crawler_data) @@ to_tsquery('simple', :words)
            ))
        )
    RETURNING workflow_id
)
SELECT m.operation_id, (SELECT count(*) FROM item) AS total FROM made AS m;

-- name: set_total
-- Write down how many workflows an operation covers; one that covers none is done.
UPDATE bulk_operation SET
    total = :total,
    status = CASE WHEN CAST(:total AS int) = 0 THEN 'done' ELSE status END,
    finished_at = CASE WHEN CAST(:total AS int) = 0 THEN clock_timestamp() END
WHERE operation_id = :operation_id;

-- name: be_patient
-- Let the statements of this transaction take longer than others of this connection: fixing a million items takes seconds.
SELECT set_config('statement_timeout', CAST(:milliseconds AS text), TRUE);

-- name: get_operation
-- Read how far an operation is.
SELECT
    o.operation_id, o.action, o.filter, o.reason, o.actor, o.status, o.total, o.succeeded, o.refused, o.created_at, o.finished_at
FROM bulk_operation AS o
WHERE o.operation_id = :operation_id;

-- name: list_operations
-- Read a page of operations, newest first.
SELECT
    o.operation_id, o.action, o.filter, o.reason, o.actor, o.status, o.total, o.succeeded, o.refused, o.created_at, o.finished_at
FROM bulk_operation AS o
WHERE o.operation_id < :before
ORDER BY o.operation_id DESC
LIMIT :page_size;

-- name: list_unfinished
-- Find the operations that are still to be carried out and have rested so long, oldest first.
SELECT o.operation_id FROM bulk_operation AS o
WHERE o.status IN ('pending', 'running')
    AND coalesce(o.worked_at, o.created_at) <= clock_timestamp() - CAST(:rested AS interval)
ORDER BY o.operation_id;

-- name: list_refused
-- Read a page of the workflows that an operation could not be done to, and why.
SELECT i.workflow_id, i.message
FROM bulk_operation_item AS i
WHERE i.operation_id = :operation_id AND i.outcome = 'refused' AND i.workflow_id > :after
ORDER BY i.workflow_id
LIMIT :page_size;

-- name: begin_batch
-- Let nobody stop the operation while a batch of it is at work; no row where it has ended.
UPDATE bulk_operation AS o SET status = 'running', worked_at = clock_timestamp()
WHERE o.operation_id = :operation_id AND o.status IN ('pending', 'running')
RETURNING o.action, o.filter, o.reason, o.actor;

-- name: take_batch
-- Take the next workflows of an operation.
SELECT i.workflow_id
FROM bulk_operation_item AS i
WHERE i.operation_id = :operation_id AND i.outcome = 'pending' AND i.workflow_id > :after
ORDER BY i.workflow_id
LIMIT :batch_size
FOR NO KEY UPDATE;

-- name: settle_batch
-- Write down what became of each workflow of a batch, and count it.
WITH settled AS (
    UPDATE bulk_operation_item AS i SET outcome = r.outcome, message = nullif(r.message, '')
    FROM unnest(CAST(:workflow_ids AS uuid []), CAST(:outcomes AS text []), CAST(:messages AS text []))
        AS r (workflow_id, outcome, message)
    WHERE i.operation_id = :operation_id AND i.workflow_id = r.workflow_id
    RETURNING i.outcome
)
UPDATE bulk_operation AS o SET
    succeeded = o.succeeded + (SELECT count(*) FROM settled AS s WHERE s.outcome = 'done'),
    refused = o.refused + (SELECT count(*) FROM settled AS s WHERE s.outcome = 'refused')
WHERE o.operation_id = :operation_id;

-- name: end_operation
-- End an operation that has not ended: done where nothing of it is left, or stopped.
UPDATE bulk_operation AS o SET status = :status, finished_at = clock_timestamp()
WHERE o.operation_id = :operation_id AND o.status IN ('pending', 'running');
