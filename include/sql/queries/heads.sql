-- name: list_heads
-- Read where each trail stood that went on in a window; found by the key, which carries the time.
SELECT DISTINCT ON (t.workflow_id) t.workflow_id, t.sequence, encode(t.hash, 'hex') AS hash
FROM workflow_transitions AS t
WHERE t.transition_id >= uuid_v7_floor(CAST(:since AS timestamptz)) AND t.transition_id < uuid_v7_floor(CAST(:until AS timestamptz))
ORDER BY t.workflow_id, t.sequence DESC;

-- name: get_time
-- Read the database's time, by which trails are written.
SELECT clock_timestamp();

-- name: compare_heads
-- Find exported heads that the database no longer has: the row, or the anchor that stands for it, is other or gone.
SELECT h.workflow_id, CASE
    WHEN t.hash IS NOT NULL OR a.sequence = h.sequence THEN format('row %s is not the one whose hash was exported: its chain was rewritten', h.sequence)
    ELSE format('row %s was exported and is gone', h.sequence)
END AS problem
FROM jsonb_to_recordset(CAST(:heads AS jsonb)) AS h (workflow_id uuid, sequence bigint, hash text)
LEFT JOIN workflow_transitions AS t ON t.workflow_id = h.workflow_id AND t.sequence = h.sequence
LEFT JOIN workflow_anchor AS a ON a.workflow_id = h.workflow_id AND a.sequence >= h.sequence
WHERE (a.workflow_id IS NULL OR a.sequence = h.sequence)
    AND encode(coalesce(t.hash, a.hash), 'hex') IS DISTINCT FROM h.hash
ORDER BY h.workflow_id;
