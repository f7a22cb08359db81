-- name: get_status
-- Read where one workflow stands.
SELECT
    v.workflow_id, v.workflow_state, v.stage, v.retry_count, v.max_retries, v.priority, v.product_id, v.product_name,
    v.locked_by, v.lock_duration, v.queued_at, v.processing_started_at, v.completed_at, v.next_retry_at, v.last_error,
    v.error_category, v.suspend_kind, v.source_url
FROM vw_workflow_status AS v
WHERE v.workflow_id = :workflow_id;

-- name: list_workflows
-- Read a page of workflows, newest first, by keyset: a page of each wanted state by its index, and the newest of these.
SELECT
    w.workflow_id, w.workflow_state, w.stage, w.retry_count, w.max_retries, w.priority, w.product_id, w.product_name,
    w.locked_by, w.lock_duration, w.queued_at, w.processing_started_at, w.completed_at, w.next_retry_at, w.last_error,
    w.error_category, w.suspend_kind, w.source_url
FROM unnest(CAST(:states AS text [])) AS s (workflow_state)
CROSS JOIN LATERAL (
    SELECT
        q.queue_id AS workflow_id, q.workflow_state, q.stage, q.retry_count, q.max_retries, q.priority, q.product_id,
        q.product_name, q.locked_by, extract(epoch FROM (now() - q.locked_at)) AS lock_duration, q.queued_at,
        q.processing_started_at, q.completed_at, q.next_retry_at, q.last_error, q.error_category, q.suspend_kind, q.source_url
    FROM processing_queue AS q
    WHERE q.workflow_state = ANY(ARRAY[s.workflow_state]) AND q.queue_id < :before
        AND (CAST(:stage AS text) IS NULL OR q.stage = :stage)
        AND (CAST(:brand AS text) IS NULL OR lower(q.brand_name) = lower(:brand))
        AND (CAST(:error_category AS text) IS NULL OR q.error_category = :error_category)
        AND (CAST(:last_error AS text) IS NULL OR q.last_error = :last_error)
    -- By state first, though there is but one: or all rows are walked by their key for a state that few have.
    ORDER BY q.workflow_state, q.queue_id DESC
    LIMIT :page_size
) AS w
ORDER BY w.workflow_id DESC
LIMIT :page_size;

-- name: list_workflows_by_words
-- Read a page of the workflows that have these words, newest first: by the index of words, or where most have them by id.
SELECT
    q.queue_id AS workflow_id, q.workflow_state, q.stage, q.retry_count, q.max_retries, q.priority, q.product_id,
    q.product_name, q.locked_by, extract(epoch FROM (now() - q.locked_at)) AS lock_duration, q.queued_at,
    q.processing_started_at, q.completed_at, q.next_retry_at, q.last_error, q.error_category, q.suspend_kind, q.source_url
FROM processing_queue AS q
WHERE q.queue_id IN (
    SELECT p.workflow_id FROM workflow_payload AS p WHERE workflow_words(p.crawler_data) @@ to_tsquery('simple', :words)
)
AND q.workflow_state = ANY(CAST(:states AS text [])) AND q.queue_id < :before
AND (CAST(:stage AS text) IS NULL OR q.stage = :stage)
AND (CAST(:brand AS text) IS NULL OR lower(q.brand_name) = lower(:brand))
AND (CAST(:error_category AS text) IS NULL OR q.error_category = :error_category)
AND (CAST(:last_error AS text) IS NULL OR q.last_error = :last_error)
ORDER BY q.queue_id DESC
LIMIT :page_size;

-- name: count_workflows
-- Count the workflows a list is of, as far as a person reads.
SELECT count(*) FROM (
    SELECT 1
    FROM processing_queue AS q
    WHERE q.workflow_state = ANY(CAST(:states AS text []))
        AND (CAST(:stage AS text) IS NULL OR q.stage = :stage)
        AND (CAST(:brand AS text) IS NULL OR lower(q.brand_name) = lower(:brand))
        AND (CAST(:error_category AS text) IS NULL OR q.error_category = :error_category)
        AND (CAST(:last_error AS text) IS NULL OR q.last_error = :last_error)
    LIMIT :most
) AS counted;

-- name: count_workflows_by_words
-- Count the workflows that have these words, as far as a person reads.
SELECT count(*) FROM (
    SELECT 1
    FROM processing_queue AS q
    WHERE q.queue_id IN (
        SELECT p.workflow_id FROM workflow_payload AS p WHERE workflow_words(p.crawler_data) @@ to_tsquery('simple', :words)
    )
        AND q.workflow_state = ANY(CAST(:states AS text []))
        AND (CAST(:stage AS text) IS NULL OR q.stage = :stage)
        AND (CAST(:brand AS text) IS NULL OR lower(q.brand_name) = lower(:brand))
        AND (CAST(:error_category AS text) IS NULL OR q.error_category = :error_category)
        AND (CAST(:last_error AS text) IS NULL OR q.last_error = :last_error)
    LIMIT :most
) AS counted;

-- name: list_failure_groups
-- Group what failed, waits or is retried by its error, as far as the newest go; the most frequent errors first.
SELECT
    g.error_category, g.last_error, count(*) AS workflows, max(g.state_since) AS latest,
    array_agg(DISTINCT g.workflow_state ORDER BY g.workflow_state) AS states
FROM (
    SELECT q.error_category, q.last_error, q.workflow_state, q.state_since
    FROM processing_queue AS q
    WHERE q.workflow_state = ANY(CAST(:states AS text []))
        AND q.workflow_state = ANY(CAST(:troubled AS text []))
        AND q.last_error IS NOT NULL
        AND (CAST(:stage AS text) IS NULL OR q.stage = :stage)
        AND (CAST(:brand AS text) IS NULL OR lower(q.brand_name) = lower(:brand))
        AND (CAST(:error_category AS text) IS NULL OR q.error_category = :error_category)
        AND (CAST(:last_error AS text) IS NULL OR q.last_error = :last_error)
        AND (
            CAST(:words AS text) IS NULL
            OR q.queue_id IN (
                SELECT p.workflow_id FROM workflow_payload AS p WHERE workflow_words(p.crawler_data) @@ to_tsquery('simple', :words)
            )
        )
    ORDER BY q.queue_id DESC
    LIMIT :most
) AS g
GROUP BY g.error_category, g.last_error
ORDER BY workflows DESC, g.last_error
LIMIT :most_groups;

-- name: count_states
-- Count workflows by state, for a person at a terminal.
SELECT q.workflow_state, count(*) AS workflows FROM processing_queue AS q GROUP BY q.workflow_state;

-- name: get_payload
-- Read what a workflow was made from, to make another.
SELECT p.crawler_data, q.source_url, q.product_name, q.brand_name, q.priority
FROM workflow_payload AS p INNER JOIN processing_queue AS q ON q.queue_id = p.workflow_id
WHERE p.workflow_id = :workflow_id;
