-- name: count_completions
-- Count completed workflows by slice of time in a window, from their own index.
SELECT CAST(floor(extract(epoch FROM q.completed_at) / CAST(:slice_seconds AS numeric)) AS bigint) AS slice, count(*) AS happened
FROM processing_queue AS q
WHERE q.workflow_state = 'completed' AND q.completed_at >= statement_timestamp() - CAST(:time_range AS interval)
GROUP BY slice;

-- name: count_errors
-- Count failed tries by slice of time in a window, and those after which the workflow did not go on by itself.
SELECT
    CAST(floor(extract(epoch FROM m.created_at) / CAST(:slice_seconds AS numeric)) AS bigint) AS slice, count(*) AS happened,
    count(*) FILTER (WHERE m.workflow_state IN ('failed', 'suspended')) AS ended
FROM workflow_metrics AS m
WHERE m.metric_type = 'error'
    AND m.created_at >= statement_timestamp() - CAST(:time_range AS interval)
    AND m.metric_id >= uuid_v7_floor(statement_timestamp() - CAST(:time_range AS interval) - interval '5 minutes')
GROUP BY slice;

-- name: get_present
-- Read the time by Postgres' clock.
SELECT extract(epoch FROM statement_timestamp()) AS present;
