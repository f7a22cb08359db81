-- Figures for dashboards and Prometheus, from counters and one small index, so that nobody counts the queue.

-- Throughput and time to completion of a recent window are read from this index alone.
CREATE INDEX queue_completed ON processing_queue (completed_at) INCLUDE (processing_started_at)
WHERE workflow_state = 'completed';

CREATE FUNCTION metrics_count() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
-- Counts what is measured, for ever: `count:<type>:<name>` and, in millionths, `sum:<type>:<name>`. How long states last
-- is left out: a row per transition would double what a transition writes.
BEGIN
    INSERT INTO workflow_counter_delta (name, delta)
    SELECT c.name, c.delta
    FROM (
        SELECT n.metric_type || ':' || n.metric_name AS key, count(*) AS measured,
            -- What no counter can hold must not stop the work that is measured.
            (coalesce(sum(n.metric_value) FILTER (WHERE abs(n.metric_value) < 1e9), 0) * 1000000)::bigint AS millionths
        FROM new_rows AS n WHERE n.metric_type <> 'state_duration' GROUP BY n.metric_type, n.metric_name
    ) AS m
    CROSS JOIN LATERAL (VALUES ('count:' || m.key, m.measured), ('sum:' || m.key, m.millionths)) AS c (name, delta);
    RETURN NULL;
END
$$;

CREATE TRIGGER count_measured AFTER INSERT ON workflow_metrics
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION metrics_count();

CREATE FUNCTION queue_record_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
-- A retired workflow leaves the figure of its state and stays in the figure of all there ever were.
BEGIN
    INSERT INTO workflow_counter_delta (name, delta)
    SELECT c.name, c.delta
    FROM (SELECT o.workflow_state, count(*) AS gone FROM old_rows AS o GROUP BY o.workflow_state) AS w
    CROSS JOIN LATERAL (VALUES ('state:' || w.workflow_state, -w.gone), ('retired:' || w.workflow_state, w.gone)) AS c (name, delta);
    RETURN NULL;
END
$$;

CREATE TRIGGER zz_record_delete AFTER DELETE ON processing_queue
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION queue_record_delete();
ALTER TABLE processing_queue ENABLE ALWAYS TRIGGER zz_record_delete;
