-- name: abandon_expired
-- Take back rows whose lease has run out, whoever owned them; also waits long past their deadline, but for those of runs that can be asked.
SELECT gone.queue_id, workflow_try_abandon(gone.queue_id, :actor, 'worker lost: the lease of ' || coalesce(gone.locked_by, 'nobody') || ' ran out') AS refusal
FROM (
    SELECT q.queue_id, q.locked_by
    FROM processing_queue AS q
    WHERE q.locked_by IS NOT NULL
        AND (
            (q.workflow_state IN ('queued', 'processing') AND q.lease_expires_at < clock_timestamp())
            -- A worker process always has a lease, but for a retry, which it gives back in its next statement.
            OR (
                starts_with(q.locked_by, 'worker:') AND q.lease_expires_at IS NULL
                AND q.workflow_state IN ('queued', 'processing', 'retrying')
            )
            -- Whether a run of this instance still wakes its product is told by its tasks, not by a clock.
            OR (
                q.workflow_state = 'waiting' AND q.waiting_until < clock_timestamp() - interval '5 minutes'
                AND NOT starts_with(q.locked_by, 'airflow:' || :instance || '/') AND NOT starts_with(q.locked_by, 'dagtest:' || :instance || '/')
            )
        )
        AND q.queue_id <> ALL(CAST(:passed_over AS uuid []))
    ORDER BY q.locked_by, q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE SKIP LOCKED
) AS gone;

-- name: list_owners
-- Read which runs of this instance own rows, to ask Airflow whether they live.
SELECT DISTINCT q.locked_by
FROM processing_queue AS q
WHERE q.locked_by IS NOT NULL
    AND (starts_with(q.locked_by, 'airflow:' || :instance || '/') OR starts_with(q.locked_by, 'dagtest:' || :instance || '/'));

-- name: abandon_of_dead_runs
-- Take back the rows of runs that are over; a stage that still holds a live lease is left until it runs out.
SELECT gone.queue_id, workflow_try_abandon(gone.queue_id, :actor, 'worker lost: ' || gone.locked_by || ' is no longer running') AS refusal
FROM (
    SELECT q.queue_id, q.locked_by
    FROM processing_queue AS q
    WHERE q.locked_by = ANY(CAST(:owners AS text []))
        AND q.workflow_state IN ('queued', 'processing', 'waiting', 'retrying')
        AND (q.lease_expires_at IS NULL OR q.lease_expires_at < clock_timestamp())
        AND q.queue_id <> ALL(CAST(:passed_over AS uuid []))
    ORDER BY q.locked_by, q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE SKIP LOCKED
) AS gone;

-- name: abandon_dead_indexes
-- Take back single products of a live run whose tasks ended without a word.
SELECT gone.queue_id, workflow_try_abandon(gone.queue_id, :actor, 'worker lost: its tasks in ' || gone.locked_by || ' have ended') AS refusal
FROM (
    SELECT q.queue_id, q.locked_by
    FROM processing_queue AS q
    INNER JOIN run_claim_item AS i ON i.owner = q.locked_by AND i.workflow_id = q.queue_id
    WHERE q.locked_by = :owner AND i.map_index = ANY(CAST(:map_indexes AS int []))
        AND q.workflow_state IN ('queued', 'processing', 'waiting', 'retrying')
        AND (q.lease_expires_at IS NULL OR q.lease_expires_at < clock_timestamp())
        AND q.queue_id <> ALL(CAST(:passed_over AS uuid []))
    ORDER BY q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE OF q SKIP LOCKED
) AS gone;

-- name: abandon_unreported
-- Take back what was done without a word to Airflow, unless it has been taken up since.
SELECT gone.queue_id, workflow_try_abandon_written(gone.queue_id, gone.stage, :actor, format('worker lost: Airflow was not told in time that %s was done, in %s', gone.stage, gone.locked_by)) AS refusal
FROM (
    SELECT q.queue_id, q.locked_by, lost.stage
    FROM processing_queue AS q
    INNER JOIN unnest(CAST(:workflow_ids AS uuid []), CAST(:stages AS text []), CAST(:tokens AS bigint [])) AS lost (workflow_id, stage, token)
        ON lost.workflow_id = q.queue_id AND lost.token = q.lease_token
    WHERE q.workflow_state = 'processing' AND q.lease_expires_at IS NULL AND q.locked_by IS NOT NULL
        AND q.queue_id <> ALL(CAST(:passed_over AS uuid []))
    ORDER BY q.locked_by, q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE OF q SKIP LOCKED
) AS gone;

-- name: release_due
-- Queue the retries that are due and belong to nobody.
UPDATE processing_queue SET workflow_state = 'queued'
WHERE queue_id IN (
    SELECT q.queue_id FROM processing_queue AS q
    WHERE q.workflow_state = 'retrying' AND q.locked_by IS NULL AND q.next_retry_at <= clock_timestamp()
    ORDER BY q.next_retry_at, q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE SKIP LOCKED
);

-- name: release_singly
-- Queue due retries one by one, where one of them refuses; it is told from the others by its refusal.
SELECT due.queue_id, workflow_try_release(due.queue_id) AS refusal
FROM (
    SELECT q.queue_id FROM processing_queue AS q
    WHERE q.workflow_state = 'retrying' AND q.locked_by IS NULL AND q.next_retry_at <= clock_timestamp()
        AND q.queue_id <> ALL(CAST(:passed_over AS uuid []))
    ORDER BY q.next_retry_at, q.queue_id
    LIMIT :batch_size
    FOR NO KEY UPDATE SKIP LOCKED
) AS due;

-- name: say
-- Name the reaper and its reason for the next change.
SELECT workflow_say(:actor, :reason);

-- name: hush
-- Forget it again.
SELECT workflow_hush();

-- name: fold_counters
-- Fold the counter deltas into the counters.
WITH drained AS (
    DELETE FROM workflow_counter_delta
    WHERE delta_id IN (SELECT d.delta_id FROM workflow_counter_delta AS d ORDER BY d.delta_id LIMIT :batch_size FOR UPDATE SKIP LOCKED)
    RETURNING name, delta
)
INSERT INTO workflow_counter AS c (name, value)
SELECT d.name, sum(d.delta) FROM drained AS d GROUP BY d.name ORDER BY d.name
ON CONFLICT (name) DO UPDATE SET value = c.value + excluded.value;
