-- name: subscribe
-- Say that these handlers want these topics, and that somebody serves them; `since` stays what it was.
INSERT INTO event_subscription AS s (handler, topics)
SELECT h.handler, h.topics FROM jsonb_to_recordset(CAST(:handlers AS jsonb)) AS h (handler text, topics text [])
ORDER BY h.handler
ON CONFLICT (handler) DO UPDATE SET topics = excluded.topics, seen_at = clock_timestamp();

-- name: distribute
-- Give the oldest undistributed events to every handler that wants them, or to those named only.
SELECT event_distribute(CAST(:batch_size AS int), CAST(:history AS interval), CAST(:handlers AS text []));
