-- name: settle
-- Set what holds for this transaction, where a pooler stands between and a session is anybody's.
SELECT set_config(s.key, s.value, TRUE) FROM jsonb_each_text(CAST(:settings AS jsonb)) AS s;
