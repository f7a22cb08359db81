-- Long windows are read from sums by hour: what was measured in a month may be millions of rows, its sums are some thousands.

CREATE FUNCTION metric_bucket(p_value numeric) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
    -- The exponent of the power of 1.1 that is the value's lower neighbour; a value read back from it is off by 5 % at most.
    SELECT floor(ln(least(greatest(p_value, 1e-6), 1e9)::float8) / ln(1.1::float8))::int
$$;

CREATE TABLE workflow_metrics_hourly (
    hour timestamptz NOT NULL,
    metric_type varchar(50) NOT NULL,
    metric_name varchar(100) NOT NULL,
    bucket int NOT NULL,
    measured bigint NOT NULL,
    total numeric NOT NULL,
    PRIMARY KEY (hour, metric_type, metric_name, bucket)
);

COMMENT ON TABLE workflow_metrics_hourly IS
'`workflow_metrics` summed up by hour, type, name and bucket (`metric_bucket` of durations, else 0).';

CREATE TABLE workflow_metrics_folded (
    is_only boolean PRIMARY KEY DEFAULT TRUE CHECK (is_only),
    folded_until timestamptz
);

COMMENT ON TABLE workflow_metrics_folded IS
'Up to which hour `workflow_metrics_hourly` has everything; what came later is read from `workflow_metrics`.';

INSERT INTO workflow_metrics_folded DEFAULT VALUES;

CREATE FUNCTION metrics_fold(p_hours int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
-- Sums up the next hours, `p_hours` at most, that ended an hour ago or earlier: by then nothing of theirs is uncommitted.
-- Returns how many they were.
DECLARE
    v_from timestamptz;
    v_until timestamptz;
BEGIN
    SELECT f.folded_until INTO v_from FROM workflow_metrics_folded AS f FOR UPDATE;
    IF v_from IS NULL THEN
        -- A key is at most five minutes apart from its time.
        SELECT date_trunc('hour', m.created_at - interval '10 minutes', 'UTC') INTO v_from
        FROM workflow_metrics AS m ORDER BY m.metric_id LIMIT 1;
        IF NOT FOUND THEN
            RETURN 0;
        END IF;
    END IF;
    v_until := least(v_from + make_interval(hours => p_hours), date_trunc('hour', clock_timestamp() - interval '1 hour', 'UTC'));
    IF v_until <= v_from THEN
        RETURN 0;
    END IF;
    INSERT INTO workflow_metrics_hourly (hour, metric_type, metric_name, bucket, measured, total)
    SELECT
        date_trunc('hour', m.created_at, 'UTC'), m.metric_type, m.metric_name,
        CASE WHEN m.metric_type IN ('state_duration', 'stage_duration') THEN metric_bucket(m.metric_value) ELSE 0 END,
        count(*), coalesce(sum(m.metric_value) FILTER (WHERE abs(m.metric_value) < 1e9), 0)
    FROM workflow_metrics AS m
    WHERE m.created_at >= v_from AND m.created_at < v_until
        AND m.metric_id >= uuid_v7_floor(v_from - interval '5 minutes') AND m.metric_id < uuid_v7_floor(v_until + interval '5 minutes')
    GROUP BY 1, 2, 3, 4;
    UPDATE workflow_metrics_folded SET folded_until = v_until;
    RETURN extract(epoch FROM v_until - v_from) / 3600;
END
$$;

REVOKE EXECUTE ON FUNCTION metrics_fold FROM PUBLIC;
