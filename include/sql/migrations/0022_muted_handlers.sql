-- While notifications are switched off, what happens is not kept for later: only handlers that are still served get it.

DROP FUNCTION event_distribute(int, interval);

CREATE FUNCTION event_distribute(p_limit int, p_history interval, p_handlers text [] DEFAULT NULL) RETURNS int
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_hashjoin = off SET enable_mergejoin = off AS $$
-- Distributes the oldest events that are not yet; returns how many. A handler gets what happened from `p_history` before
-- it subscribed on, so that the first one does not get the whole past. An event that committed late is simply not
-- processed yet: no mark is kept that could pass it by. With `p_handlers`, all other subscriptions are passed by.
DECLARE
    v_count int;
BEGIN
    PERFORM pg_advisory_xact_lock(21331, 0);
    WITH fresh AS MATERIALIZED (
        SELECT e.event_id, e.event_type, e.position, e.created_at,
            coalesce(e.stream_id, e.workflow_id, e.event_id) AS stream_id,
            e.event_type || ':' || (e.event_data ->> 'to_state') AS narrow_topic
        FROM workflow_events AS e WHERE NOT e.processed ORDER BY e.position LIMIT p_limit
    ),
    marked AS (
        UPDATE workflow_events AS e SET processed = TRUE FROM fresh AS f WHERE e.event_id = f.event_id RETURNING e.event_id
    ),
    wanted AS (
        SELECT f.event_id, f.stream_id, f.position, s.handler,
            row_number() OVER (PARTITION BY s.handler, f.stream_id ORDER BY f.position) AS place
        FROM fresh AS f
        INNER JOIN event_subscription AS s ON f.created_at >= s.since - p_history
            AND (p_handlers IS NULL OR s.handler = ANY(p_handlers))
            AND (s.topics IS NULL OR f.event_type = ANY(s.topics) OR f.narrow_topic = ANY(s.topics))
    ),
    offered AS (
        INSERT INTO event_delivery (event_id, handler, stream_id, position, status)
        SELECT w.event_id, w.handler, w.stream_id, w.position,
            CASE WHEN w.place = 1 AND NOT EXISTS (
                SELECT 1 FROM event_delivery AS d WHERE d.handler = w.handler AND d.stream_id = w.stream_id AND d.status = 'pending'
            ) THEN 'pending' ELSE 'waiting' END
        FROM wanted AS w
    )
    SELECT count(*) INTO v_count FROM marked;
    RETURN v_count;
END
$$;
