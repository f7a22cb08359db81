-- name: list_due
-- List the attached months that are older than their retention, and those detached but not dropped yet; oldest first.
SELECT m.history, m.partition, m.low, m.high, a.stored_at, a.sha256, a.detached_at
FROM history_list_months() AS m
INNER JOIN jsonb_each_text(CAST(:retention_days AS jsonb)) AS r ON r.key = m.history
LEFT JOIN history_archive AS a ON a.partition = m.partition
WHERE m.ends_at <= now() - make_interval(days => r.value::int) AND m.ends_at <= now() - interval '1 day'
UNION ALL
SELECT a.history, a.partition, a.low, a.high, a.stored_at, a.sha256, a.detached_at
FROM history_archive AS a WHERE a.detached_at IS NOT NULL AND a.dropped_at IS NULL
ORDER BY low, history;

-- name: find_hindrance
-- Say why a month cannot go yet: rows of the trail before it, or events that somebody has not got.
SELECT CASE
    WHEN NOT history_is_archived_in_order(:history, :high) THEN 'older rows of the trail are still attached'
    WHEN CAST(:history AS text) = 'workflow_events' AND (
        EXISTS (SELECT 1 FROM workflow_events AS e WHERE NOT e.processed AND e.event_id >= :low AND e.event_id < :high)
        OR EXISTS (
            SELECT 1 FROM event_delivery AS d
            WHERE d.status IN ('pending', 'waiting') AND d.event_id >= :low AND d.event_id < :high
        )
    ) THEN 'some of its events are not delivered'
END;

-- name: export_workflow_transitions
-- Read the next rows of a month of the trail, workflow by workflow.
SELECT CAST(to_jsonb(t) AS text) AS line, t.workflow_id AS last_id, t.sequence AS last_sequence
FROM workflow_transitions AS t
WHERE t.transition_id >= :low AND t.transition_id < :high
    AND (t.workflow_id, t.sequence) > (CAST(:after AS uuid), CAST(:after_sequence AS bigint))
ORDER BY t.workflow_id, t.sequence
LIMIT :batch_size;

-- name: export_workflow_events
-- Read the next rows of a month of events.
SELECT CAST(to_jsonb(t) AS text) AS line, t.event_id AS last_id, NULL AS last_sequence
FROM workflow_events AS t
WHERE t.event_id >= :low AND t.event_id < :high
    AND t.event_id > :after
ORDER BY t.event_id
LIMIT :batch_size;

-- name: export_workflow_metrics
-- Read the next rows of a month of measurements.
SELECT CAST(to_jsonb(t) AS text) AS line, t.metric_id AS last_id, NULL AS last_sequence
FROM workflow_metrics AS t
WHERE t.metric_id >= :low AND t.metric_id < :high
    AND t.metric_id > :after
ORDER BY t.metric_id
LIMIT :batch_size;

-- name: count_same_workflow_transitions
-- Count the archived rows that are as in the trail and whose hash follows from the row before, or from the anchor.
WITH line AS (
    SELECT
        e.line, t.transition_id, t.workflow_id, t.sequence, t.hash,
        t.from_state, t.to_state, t.stage, t.reason, t.metadata, t.actor, t.db_user, t.created_at
    FROM jsonb_array_elements(CAST(:lines AS jsonb)) AS e (line)
    CROSS JOIN LATERAL jsonb_populate_record(CAST(NULL AS workflow_transitions), e.line) AS t
),
chained AS (
    SELECT l.line, l.transition_id, l.sequence, l.hash, workflow_trail_hash(
        coalesce(
            lag(l.hash) OVER trail,
            CASE WHEN l.workflow_id = CAST(:previous_id AS uuid) THEN CAST(CAST(:previous_hash AS text) AS bytea) END, a.hash
        ), l.workflow_id, l.sequence, l.from_state, l.to_state, l.stage, l.reason, l.metadata, l.actor, l.db_user, l.created_at
    ) AS expected_hash,
    coalesce(
        lag(l.sequence) OVER trail,
        CASE WHEN l.workflow_id = CAST(:previous_id AS uuid) THEN CAST(:previous_sequence AS bigint) END, a.sequence, 0
    ) + 1 AS expected_sequence
    FROM line AS l
    LEFT JOIN workflow_anchor AS a ON a.workflow_id = l.workflow_id
    WINDOW trail AS (PARTITION BY l.workflow_id ORDER BY l.sequence)
)
SELECT count(*)
FROM chained AS c
INNER JOIN workflow_transitions AS t ON t.transition_id = c.transition_id AND to_jsonb(t) = c.line
WHERE c.hash = c.expected_hash AND c.sequence = c.expected_sequence;

-- name: count_same_workflow_events
-- Count the archived events that are as in the table.
SELECT count(*)
FROM jsonb_array_elements(CAST(:lines AS jsonb)) AS e (line)
INNER JOIN workflow_events AS t ON t.event_id = CAST(e.line ->> 'event_id' AS uuid) AND to_jsonb(t) = e.line;

-- name: count_same_workflow_metrics
-- Count the archived measurements that are as in the table.
SELECT count(*)
FROM jsonb_array_elements(CAST(:lines AS jsonb)) AS e (line)
INNER JOIN workflow_metrics AS t ON t.metric_id = CAST(e.line ->> 'metric_id' AS uuid) AND to_jsonb(t) = e.line;

-- name: get_fingerprint
-- Count a partition's rows and sum up their hashes.
SELECT row_count, fingerprint FROM history_fingerprint(:partition);

-- name: record_archived
-- Say that a month is in the archive, read back and compared.
INSERT INTO history_archive (partition, history, low, high, stored_at, sha256, row_count, size_bytes, fingerprint)
VALUES (:partition, :history, :low, :high, :stored_at, :sha256, :row_count, :size_bytes, :fingerprint)
ON CONFLICT (partition) DO NOTHING;

-- name: detach
-- Take an archived month out of its history, leaving anchors in place of a trail.
SELECT history_detach(:partition);

-- name: drop_detached
-- Drop a detached month that is still as it was archived.
SELECT history_drop(:partition);

-- name: list_archived
-- List what has been archived, for checking the archive.
SELECT a.partition, a.stored_at, a.sha256, a.row_count FROM history_archive AS a ORDER BY a.low, a.history;
