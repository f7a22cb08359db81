-- name: list_history
-- Read one workflow's trail in its order, after a step and so many of them; null for all.
SELECT
    t.transition_id, t.sequence, t.from_state, t.to_state, t.stage, t.reason, t.metadata, t.actor, t.db_user, t.created_at,
    extract(epoch FROM t.duration_in_state) AS duration_in_state
FROM workflow_transitions AS t
WHERE t.workflow_id = :workflow_id AND t.sequence > :after
ORDER BY t.sequence
LIMIT :most;

-- name: find_last_sequence
-- Read the number of a workflow's last step; 0 where there is none.
SELECT coalesce(max(t.sequence), 0) FROM workflow_transitions AS t WHERE t.workflow_id = :workflow_id;

-- name: find_latest
-- Name this moment as the audit trail's keys do.
SELECT uuid_v7_floor(clock_timestamp());

-- name: list_latest
-- Read the latest steps of all workflows after a key, newest first.
SELECT
    t.transition_id, t.workflow_id, t.sequence, t.from_state, t.to_state, t.stage, t.reason, t.actor, t.created_at, q.product_name
FROM workflow_transitions AS t
LEFT JOIN processing_queue AS q ON q.queue_id = t.workflow_id
WHERE t.transition_id > :after
ORDER BY t.transition_id DESC
LIMIT :most;

-- name: list_workflow_ids
-- Read the next workflows to verify, in key order; short batches keep no snapshot open for long.
SELECT q.queue_id
FROM processing_queue AS q
WHERE q.queue_id >= :first AND (q.workflow_state IS NOT NULL OR q.trail_sequence > 0)
ORDER BY q.queue_id
LIMIT :batch_size;

-- name: list_orphans
-- Find trails in a range of keys whose workflow is gone from the queue.
SELECT DISTINCT t.workflow_id
FROM workflow_transitions AS t
WHERE t.workflow_id >= :first AND t.workflow_id <= :last
    AND NOT EXISTS (SELECT 1 FROM processing_queue AS q WHERE q.queue_id = t.workflow_id)
ORDER BY t.workflow_id;

-- name: verify_trails
-- Replay and re-hash the trails of some workflows; returns a row for each thing that does not hold.
WITH wanted AS (
    SELECT q.queue_id, q.workflow_state, q.trail_sequence, q.trail_hash
    FROM processing_queue AS q WHERE q.queue_id = ANY(CAST(:workflow_ids AS uuid []))
),
step AS (
    SELECT
        t.workflow_id, t.sequence, t.from_state, t.to_state, t.hash, t.actor, t.metadata, t.duration_in_state,
        t.created_at - coalesce(lag(t.created_at) OVER trail, a.state_since) AS expected_duration,
        lag(t.sequence) OVER trail AS previous_sequence,
        lag(t.to_state) OVER trail AS previous_state,
        a.sequence AS anchor_sequence,
        a.workflow_state AS anchor_state,
        workflow_trail_hash(
            coalesce(lag(t.hash) OVER trail, a.hash), t.workflow_id, t.sequence, t.from_state, t.to_state, t.stage,
            t.reason, t.metadata, t.actor, t.db_user, t.created_at
        ) AS expected_hash
    FROM workflow_transitions AS t
    LEFT JOIN workflow_anchor AS a ON a.workflow_id = t.workflow_id
    WHERE t.workflow_id = ANY(CAST(:workflow_ids AS uuid []))
    WINDOW trail AS (PARTITION BY t.workflow_id ORDER BY t.sequence)
),
finding AS (
    SELECT s.workflow_id, s.sequence, CASE
        WHEN s.sequence <> coalesce(s.previous_sequence, s.anchor_sequence, 0) + 1
            THEN format('row %s follows row %s: a row is missing or doubled', s.sequence, coalesce(s.previous_sequence, s.anchor_sequence, 0))
        WHEN s.from_state IS DISTINCT FROM coalesce(s.previous_state, s.anchor_state)
            THEN format('row %s starts from %s, but the row before it ended in %s', s.sequence, coalesce(s.from_state, '(nothing)'), coalesce(s.previous_state, s.anchor_state, '(nothing)'))
        WHEN s.from_state IS NULL AND s.to_state <> 'created'
            AND (s.metadata -> 'import' = 'true' AND s.actor = 'migration') IS NOT TRUE
            THEN format('row %s begins the trail in %s', s.sequence, s.to_state)
        WHEN s.from_state IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM workflow_rule AS r WHERE r.from_state = s.from_state AND r.to_state = s.to_state)
            THEN format('row %s: %s → %s is not an allowed transition', s.sequence, s.from_state, s.to_state)
        WHEN s.hash <> s.expected_hash THEN format('row %s was altered: its hash does not fit', s.sequence)
        WHEN s.duration_in_state IS DISTINCT FROM s.expected_duration
            THEN format('row %s was altered: its duration does not fit the times', s.sequence)
    END AS problem
    FROM step AS s
),
ending AS (
    SELECT DISTINCT ON (s.workflow_id) s.workflow_id, s.sequence, s.to_state, s.hash
    FROM step AS s ORDER BY s.workflow_id, s.sequence DESC
)
SELECT f.workflow_id, f.problem FROM finding AS f WHERE f.problem IS NOT NULL
UNION ALL
SELECT w.queue_id, CASE
    WHEN e.workflow_id IS NULL AND a.workflow_id IS NULL THEN 'it has no trail at all'
    ELSE format(
        'the queue says %s at row %s, the trail ends in %s at row %s',
        w.workflow_state, w.trail_sequence, coalesce(e.to_state, a.workflow_state), coalesce(e.sequence, a.sequence))
END
FROM wanted AS w
LEFT JOIN ending AS e ON e.workflow_id = w.queue_id
LEFT JOIN workflow_anchor AS a ON a.workflow_id = w.queue_id
WHERE w.workflow_state IS DISTINCT FROM coalesce(e.to_state, a.workflow_state)
    OR w.trail_sequence IS DISTINCT FROM coalesce(e.sequence, a.sequence)
    OR w.trail_hash IS DISTINCT FROM coalesce(e.hash, a.hash)
ORDER BY 1;
