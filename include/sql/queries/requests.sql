-- name: begin_request
-- Enter a request under its key, once the one under way with it has ended; no row where it was answered within a day.
INSERT INTO api_request AS r (actor, idempotency_key, fingerprint)
VALUES (:actor, :key, :fingerprint)
ON CONFLICT (actor, idempotency_key) DO UPDATE
SET fingerprint = excluded.fingerprint, answer = NULL, created_at = clock_timestamp()
WHERE r.created_at < clock_timestamp() - interval '1 day'
RETURNING r.actor;

-- name: get_request
-- Read what was answered to a key.
SELECT r.fingerprint, r.answer FROM api_request AS r WHERE r.actor = :actor AND r.idempotency_key = :key;

-- name: finish_request
-- Keep the answer to a request, in the transaction that carries it out.
UPDATE api_request SET answer = CAST(:answer AS jsonb) WHERE actor = :actor AND idempotency_key = :key;
