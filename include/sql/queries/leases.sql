-- name: acquire
-- Take a workflow for one stage, with everything the stage needs to know.
SELECT outcome, detail, token, retry_count, max_retries, queued_at, crawler_data, outputs, waited
FROM workflow_acquire(:workflow_id, :stage, :owner, :actor, :lease, :manual);

-- name: fence
-- Lock the row and make sure the token is still ours; a worker's transaction begins with this.
SELECT workflow_fence(:workflow_id, :token);

-- name: finish
-- Record a finished stage: checkpoint, metrics, event, and the next stage or completion.
SELECT workflow_finish(
    :workflow_id, :stage, :token, :actor, CAST(:output AS jsonb), CAST(:seconds AS numeric), CAST(:measures AS jsonb), CAST(:keep_lease AS interval)
) AS next_stage;

-- name: fail
-- Record a failed stage and what follows from it, in one call.
SELECT workflow_fail(
    :workflow_id, :token, :actor, :action, :category, CAST(:delay AS interval), :reason, :last_error, CAST(:details AS jsonb), :counts
) AS workflow_state;

-- name: wait
-- Let a stage wait in its owner's hands, without costing a try.
SELECT workflow_wait(
    :workflow_id, :token, :actor, :category, CAST(:delay AS interval), :reason, :last_error, CAST(:details AS jsonb)
) AS waiting_until;
