-- name: transition
-- Move one workflow; the function locks it, checks token and expectation, and names who and why.
SELECT from_state, to_state, sequence, token, created_at
FROM workflow_transition(
    :workflow_id, :to_state, :actor, :reason, :stage, CAST(:metadata AS jsonb), CAST(:expect AS text []), :token, :suspend_kind
);
