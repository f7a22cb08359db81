-- Delivering events. A subscription says what a handler wants; distributing an event gives every handler that wants it a
-- delivery row. Of a stream's undelivered rows for one handler the first is 'pending' and all others are 'waiting': a
-- unique index keeps it so, which is what makes deliveries come in order.
--
-- Whoever adds rows behind a head (distribute, replay, forget) takes lock (21331, 0) alone; whoever moves a head on
-- (settle) takes it shared: a row that joins a stream while its head is leaving would otherwise wait for ever.

ALTER TABLE workflow_events
    ALTER COLUMN workflow_id DROP NOT NULL,
    ADD COLUMN stream_id uuid;

COMMENT ON COLUMN workflow_events.stream_id IS 'What the event is ordered by where that is not its workflow.';
COMMENT ON COLUMN workflow_events.processed IS 'Distributed: each handler that wants the event has its delivery row.';

CREATE TABLE event_subscription (
    handler text PRIMARY KEY,
    topics text [],
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE event_subscription IS
'Who wants which events. `topics` are event types or `state_changed:<state>`; NULL is all. `seen_at` is when a dispatcher last had the handler.';

-- The table of 0004 was made before there was anything to deliver.
DROP TABLE event_delivery;

CREATE TABLE event_delivery (
    event_id uuid NOT NULL,
    handler text NOT NULL,
    stream_id uuid NOT NULL,
    position bigint NOT NULL,
    status varchar(20) NOT NULL CHECK (status IN ('waiting', 'pending', 'delivered', 'dead')),
    attempts int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_error text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz,
    PRIMARY KEY (event_id, handler)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE UNIQUE INDEX delivery_head ON event_delivery (handler, stream_id) WHERE status = 'pending';
CREATE INDEX delivery_due ON event_delivery (handler, next_attempt_at) WHERE status = 'pending';
CREATE INDEX delivery_behind ON event_delivery (handler, stream_id, position) WHERE status = 'waiting';
CREATE INDEX delivery_dead ON event_delivery (handler, position) WHERE status = 'dead';

COMMENT ON COLUMN event_delivery.next_attempt_at IS
'When a pending row may be sent; a claim moves it to the end of its lease, so a row whose dispatcher died comes back by itself.';

-- A nested loop over the partitions' keys touches what is distributed; a hash join would read all events there ever were.
CREATE FUNCTION event_distribute(p_limit int, p_history interval) RETURNS int
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_hashjoin = off SET enable_mergejoin = off AS $$
-- Distributes the oldest events that are not yet; returns how many. A handler gets what happened from `p_history` before
-- it subscribed on, so that the first one does not get the whole past. An event that committed late is simply not
-- processed yet: no mark is kept that could pass it by.
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

CREATE FUNCTION event_settle(p_results jsonb) RETURNS int
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_hashjoin = off SET enable_mergejoin = off AS $$
-- Records what became of claimed deliveries and lets the next of each stream go. A result is {event_id, handler, attempt,
-- outcome, error, delay}: outcome 'delivered', 'dead', 'retry' or 'unpaid' (tried again without having cost an attempt),
-- delay in seconds. A failure told by a claim that has been replaced meanwhile changes nothing; a delivery stands
-- whoever tells it. Returns how many results counted.
DECLARE
    v_count int;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(21331, 0);
    WITH result AS MATERIALIZED (
        SELECT r.event_id, r.handler, r.attempt, r.outcome, r.error, r.delay
        FROM jsonb_to_recordset(p_results) AS r (event_id uuid, handler text, attempt int, outcome text, error text, delay numeric)
    ),
    settled AS (
        UPDATE event_delivery AS d SET
            status = CASE WHEN r.outcome IN ('delivered', 'dead') THEN r.outcome ELSE 'pending' END,
            attempts = d.attempts - CASE r.outcome WHEN 'unpaid' THEN 1 ELSE 0 END,
            last_error = r.error,
            delivered_at = CASE r.outcome WHEN 'delivered' THEN clock_timestamp() END,
            next_attempt_at = clock_timestamp() + make_interval(secs => coalesce(r.delay, 0)::float)
        FROM result AS r
        WHERE d.event_id = r.event_id AND d.handler = r.handler AND d.status = 'pending'
            AND (r.outcome = 'delivered' OR d.attempts = r.attempt)
        RETURNING d.handler, d.stream_id, d.status
    ),
    promoted AS (
        UPDATE event_delivery AS d SET status = 'pending', next_attempt_at = clock_timestamp()
        FROM settled AS s
        CROSS JOIN LATERAL (
            SELECT w.event_id FROM event_delivery AS w
            WHERE w.handler = s.handler AND w.stream_id = s.stream_id AND w.status = 'waiting'
            ORDER BY w.position LIMIT 1
        ) AS following
        WHERE s.status <> 'pending' AND d.event_id = following.event_id AND d.handler = s.handler
        RETURNING d.event_id
    )
    SELECT count(*) INTO v_count FROM settled;
    RETURN v_count;
END
$$;

CREATE FUNCTION event_replay(p_handler text, p_event_id uuid, p_limit int) RETURNS int
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Gives dead deliveries (of one handler, or one event, or all; the oldest first) all their attempts back. Each takes its
-- place in its stream again, before what still waits there; what was delivered meanwhile stays delivered.
DECLARE
    v_count int;
BEGIN
    PERFORM pg_advisory_xact_lock(21331, 0);
    WITH chosen AS MATERIALIZED (
        SELECT d.event_id, d.handler, row_number() OVER (PARTITION BY d.handler, d.stream_id ORDER BY d.position) = 1
            AND NOT EXISTS (
                SELECT 1 FROM event_delivery AS h WHERE h.handler = d.handler AND h.stream_id = d.stream_id AND h.status = 'pending'
            ) AS is_head
        FROM (
            SELECT a.event_id, a.handler, a.stream_id, a.position FROM event_delivery AS a
            WHERE a.status = 'dead' AND a.handler = coalesce(p_handler, a.handler) AND a.event_id = coalesce(p_event_id, a.event_id)
            ORDER BY a.handler, a.position LIMIT p_limit
        ) AS d
    )
    UPDATE event_delivery AS d SET
        status = CASE WHEN c.is_head THEN 'pending' ELSE 'waiting' END, attempts = 0, next_attempt_at = clock_timestamp()
    FROM chosen AS c WHERE d.event_id = c.event_id AND d.handler = c.handler;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;

CREATE FUNCTION event_forget(p_handler text) RETURNS int
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Ends a subscription with what is undelivered for it; returns how many deliveries went, NULL when there was none such.
DECLARE
    v_count int;
BEGIN
    PERFORM pg_advisory_xact_lock(21331, 0);
    DELETE FROM event_subscription WHERE handler = p_handler;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    DELETE FROM event_delivery WHERE handler = p_handler AND status IN ('waiting', 'pending', 'dead');
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;

-- An alert goes out whoever opens or ends its incident, as an event through the same handlers.
CREATE FUNCTION incident_tell() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO workflow_events (stream_id, event_type, event_data)
    VALUES (
        NEW.incident_id, CASE TG_OP WHEN 'INSERT' THEN 'alert_opened' ELSE 'alert_resolved' END,
        jsonb_build_object(
            'incident_id', NEW.incident_id, 'alert', NEW.alert, 'subject', NEW.subject, 'message', NEW.message,
            'opened_at', NEW.opened_at, 'resolved_at', NEW.resolved_at));
    RETURN NULL;
END
$$;

CREATE TRIGGER tell_opened AFTER INSERT ON alert_incident FOR EACH ROW EXECUTE FUNCTION incident_tell();
CREATE TRIGGER tell_resolved AFTER UPDATE OF resolved_at ON alert_incident FOR EACH ROW
WHEN (OLD.resolved_at IS NULL AND NEW.resolved_at IS NOT NULL) EXECUTE FUNCTION incident_tell();
