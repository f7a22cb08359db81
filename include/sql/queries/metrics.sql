-- name: get_window
-- Read where a window begins, and which of its whole hours are summed up; NULL where none is.
SELECT w.since, w.whole_from, CASE WHEN f.folded_until > w.whole_from THEN f.folded_until END AS whole_until
FROM (
    SELECT n.since, date_trunc('hour', n.since + interval '1 hour' - interval '1 microsecond', 'UTC') AS whole_from
    FROM (SELECT statement_timestamp() - CAST(:time_range AS interval) AS since) AS n
) AS w
CROSS JOIN workflow_metrics_folded AS f;

-- name: summarize
-- Sum up what was measured in a window, by type and name; the bound on the key only chooses the partitions.
SELECT
    m.metric_type, m.metric_name, count(*) AS measured,
    coalesce(sum(m.metric_value) FILTER (WHERE abs(m.metric_value) < 1e9), 0) AS total,
    percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY least(m.metric_value, 1e9)) AS percentiles
FROM workflow_metrics AS m
WHERE m.metric_type = ANY(CAST(:metric_types AS text []))
    AND m.created_at >= statement_timestamp() - CAST(:time_range AS interval)
    AND m.metric_id >= uuid_v7_floor(statement_timestamp() - CAST(:time_range AS interval) - interval '5 minutes')
GROUP BY m.metric_type, m.metric_name
ORDER BY m.metric_type, m.metric_name;

-- name: list_buckets
-- Sum up a window of which whole hours are summed up, by type, name and bucket; only what is not is read row by row.
SELECT c.metric_type, c.metric_name, c.bucket, sum(c.measured) AS measured, sum(c.total) AS total
FROM (
    SELECT h.metric_type, h.metric_name, h.bucket, h.measured, h.total
    FROM workflow_metrics_hourly AS h
    WHERE h.metric_type = ANY(CAST(:metric_types AS text [])) AND h.hour >= :whole_from AND h.hour < :whole_until
    UNION ALL
    SELECT m.metric_type, m.metric_name, metric_bucket(m.metric_value), 1, CASE WHEN abs(m.metric_value) < 1e9 THEN m.metric_value ELSE 0 END
    FROM workflow_metrics AS m
    WHERE m.metric_type = ANY(CAST(:metric_types AS text []))
        AND m.created_at >= :since AND m.created_at < :whole_from
        AND m.metric_id >= uuid_v7_floor(:since - interval '5 minutes') AND m.metric_id < uuid_v7_floor(:whole_from + interval '5 minutes')
    UNION ALL
    SELECT m.metric_type, m.metric_name, metric_bucket(m.metric_value), 1, CASE WHEN abs(m.metric_value) < 1e9 THEN m.metric_value ELSE 0 END
    FROM workflow_metrics AS m
    WHERE m.metric_type = ANY(CAST(:metric_types AS text []))
        AND m.created_at >= :whole_until AND m.metric_id >= uuid_v7_floor(:whole_until - interval '5 minutes')
) AS c
GROUP BY c.metric_type, c.metric_name, c.bucket
ORDER BY c.metric_type, c.metric_name, c.bucket;

-- name: list_retried
-- Find the workflows retried most often in a window.
SELECT m.workflow_id, count(*) AS retries
FROM workflow_metrics AS m
WHERE m.metric_type = 'retry'
    AND m.created_at >= statement_timestamp() - CAST(:time_range AS interval)
    AND m.metric_id >= uuid_v7_floor(statement_timestamp() - CAST(:time_range AS interval) - interval '5 minutes')
GROUP BY m.workflow_id
ORDER BY retries DESC, m.workflow_id
LIMIT :most;

-- name: get_pace
-- Read how many workflows were completed in a window and how long they took from their first stage on.
SELECT count(*) AS completed, extract(epoch FROM avg(q.completed_at - q.processing_started_at)) AS average
FROM processing_queue AS q
WHERE q.workflow_state = 'completed' AND q.completed_at >= statement_timestamp() - CAST(:time_range AS interval);

-- name: read_counters
-- Read all counters, what upkeep has not folded in yet included.
SELECT c.name, sum(c.value) AS value
FROM (
    SELECT f.name, f.value FROM workflow_counter AS f
    UNION ALL
    SELECT d.name, d.delta FROM workflow_counter_delta AS d
) AS c
GROUP BY c.name;

-- name: find_oldest_queued
-- Read how long the oldest claimable workflow has waited: one probe for each priority.
SELECT extract(epoch FROM clock_timestamp() - min(oldest.queued_at)) AS seconds
FROM generate_series(1, 10) AS p (priority)
CROSS JOIN LATERAL (
    SELECT q.queued_at FROM processing_queue AS q
    WHERE q.workflow_state = 'queued' AND q.locked_by IS NULL AND q.priority = p.priority
    ORDER BY q.queued_at, q.queue_id
    LIMIT 1
) AS oldest;

-- name: count_stuck
-- Count workflows whose stage began longer ago than any stage may take; reads only those in processing.
SELECT count(*)
FROM processing_queue AS q
WHERE q.workflow_state = 'processing' AND q.locked_at < statement_timestamp() - CAST(:stuck_after AS interval);

-- name: count_partitions_ahead
-- Count the months after this one for which every history table has its partition.
SELECT min(ahead.months) FROM (
    SELECT count(p.relname) AS months
    FROM unnest(ARRAY['workflow_transitions', 'workflow_events', 'workflow_metrics']) AS t (name)
    LEFT JOIN pg_inherits AS i ON i.inhparent = to_regclass(t.name)
    LEFT JOIN pg_class AS p ON p.oid = i.inhrelid
        AND p.relname ~ '_[0-9]{4}_[0-9]{2}$' AND right(p.relname, 7) > to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')
    GROUP BY t.name
) AS ahead;
