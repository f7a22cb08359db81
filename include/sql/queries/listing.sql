-- name: get_status
-- Read where one workflow stands.
SELECT
    v.workflow_id, v.workflow_state, v.stage, v.retry_count, v.max_retries, v.priority, v.product_id, v.product_name,
    v.locked_by, v.lock_duration, v.queued_at, v.processing_started_at, v.completed_at, v.next_retry_at, v.last_error,
    v.error_category, v.suspend_kind, v.source_url
FROM vw_workflow_status AS v
WHERE v.workflow_id = :workflow_id;

-- name: list_workflows
-- Read a page of workflows, newest first, by keyset.
SELECT
    q.queue_id AS workflow_id, q.workflow_state, q.stage, q.retry_count, q.max_retries, q.priority, q.product_id,
    q.product_name, q.locked_by, extract(epoch FROM (now() - q.locked_at)) AS lock_duration, q.queued_at,
    q.processing_started_at, q.completed_at, q.next_retry_at, q.last_error, q.error_category, q.suspend_kind, q.source_url
FROM processing_queue AS q
WHERE q.queue_id < :before
    AND (CAST(:states AS text []) IS NULL OR q.workflow_state = ANY(CAST(:states AS text [])))
    AND (CAST(:stage AS text) IS NULL OR q.stage = :stage)
    AND (CAST(:search AS text) IS NULL OR q.product_name ILIKE :search OR q.source_url ILIKE :search)
ORDER BY q.queue_id DESC
LIMIT :page_size;

-- name: count_states
-- Count workflows by state, for a person at a terminal.
SELECT q.workflow_state, count(*) AS workflows FROM processing_queue AS q GROUP BY q.workflow_state;

-- name: get_payload
-- Read what a workflow was made from, to make another.
SELECT p.crawler_data, q.source_url, q.product_name, q.brand_name, q.priority
FROM workflow_payload AS p INNER JOIN processing_queue AS q ON q.queue_id = p.workflow_id
WHERE p.workflow_id = :workflow_id;
