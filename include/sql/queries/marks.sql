-- name: bound_time
-- Let no statement of this transaction, nor its wait for a lock, take longer; a person's click is waiting for it.
SELECT set_config('statement_timeout', :milliseconds, TRUE), set_config('lock_timeout', :milliseconds, TRUE);

-- name: mark
-- Bring one product along with its task; NULL: the mark changes nothing.
SELECT workflow_mark(:owner, :map_index, :stage, :mark, :actor) AS workflow_state;

-- name: record_unasked
-- Remember tries that Airflow will make because another product's task was marked; only of a run that has claimed.
INSERT INTO run_unasked (owner, map_index, stage, try_number)
SELECT :owner, t.map_index, t.stage, t.try_number
FROM jsonb_to_recordset(CAST(:tries AS jsonb)) AS t (map_index int, stage text, try_number int)
WHERE EXISTS (SELECT 1 FROM run_claim AS c WHERE c.owner = :owner)
ON CONFLICT (owner, map_index, stage) DO UPDATE SET try_number = excluded.try_number;

-- name: find_unasked
-- Tell whether this very try was nobody's wish.
SELECT EXISTS (
    SELECT 1 FROM run_unasked AS u
    WHERE u.owner = :owner AND u.map_index = :map_index AND u.stage = :stage AND u.try_number = :try_number
);

-- name: release_begun
-- Take back what a run has begun, at no cost: a person has ended the run.
-- Locks what the run holds besides too, in the order of all others, or this and they would wait for each other.
WITH held AS MATERIALIZED (
    SELECT q.queue_id, q.workflow_state, q.lease_token, q.stage
    FROM processing_queue AS q
    WHERE q.locked_by = :owner
    ORDER BY q.queue_id
    FOR NO KEY UPDATE
)
SELECT
    gone.queue_id,
    workflow_fail(
        gone.queue_id, gone.lease_token, :actor, 'release', 'transient', interval '0', :reason, 'RunEnded: ' || :reason,
        jsonb_build_object('class', 'RunEnded', 'stage', gone.stage, 'owner', :owner), FALSE
    ) AS left_in
FROM held AS gone
WHERE gone.workflow_state IN ('processing', 'waiting');
