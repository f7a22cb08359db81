-- name: list_parked
-- Read a page of parked workflows, newest first, by keyset.
SELECT
    d.workflow_id, d.product_name, d.brand_name, d.source_url, d.stage, d.retry_count, d.max_retries, d.priority,
    d.error_category, d.last_error, d.error_details, d.queued_at, d.failed_at, d.tries, d.trail, d.crawler_data
FROM workflow_deadletter AS d
WHERE d.workflow_id < :before
ORDER BY d.workflow_id DESC
LIMIT :page_size;
