-- Quotas and circuit breakers, shared by all workers. They belong to no workflow and commit on their own: each call is
-- one statement that locks one row.

-- Quotas. `usage` keeps the last minute by seconds ({"seconds": {"<epoch>": [requests, tokens]}}) and the present day
-- ({"day", "requests", "tokens"}), beside the limits that held at the last reservation. A minute is counted in whole
-- seconds, the oldest in full, so that no 60 seconds ever hold more than the limit; what a dead worker reserved leaves
-- with its second and its day.
CREATE FUNCTION quota_next_day(p_at timestamptz, p_zone text) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
    SELECT (date_trunc('day', p_at AT TIME ZONE p_zone) + interval '1 day') AT TIME ZONE p_zone
$$;

COMMENT ON FUNCTION quota_next_day IS 'The next midnight of that time zone: when a quota per day starts anew.';

CREATE FUNCTION quota_reserve(
    p_dependency text, p_tokens bigint, p_requests_per_minute int, p_requests_per_day int, p_tokens_per_minute bigint,
    p_tokens_per_day bigint, p_zone text
) RETURNS TABLE (granted boolean, slot bigint, reserved_day date, reserved_tokens bigint, wait interval, limited_by text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Reserves one request and `p_tokens` tokens, or says how long to wait until they fit. The row of quota_limits, where
-- there is one, wins over the limits that were passed; NULL is no limit.
DECLARE
    v_limits quota_limits%ROWTYPE;
    v_usage jsonb;
    v_exhausted timestamptz;
    v_now timestamptz;
    v_second bigint;
    v_day date;
    v_tokens bigint;
    v_recent jsonb;
    v_minute_requests bigint;
    v_minute_tokens bigint;
    v_day_requests bigint := 0;
    v_day_tokens bigint := 0;
    v_until timestamptz;
    v_reasons text[] := '{}';
BEGIN
    SELECT l.* INTO v_limits FROM quota_limits AS l WHERE l.dependency = p_dependency;
    IF NOT FOUND THEN
        v_limits := ROW(p_dependency, p_requests_per_minute, p_requests_per_day, p_tokens_per_minute, p_tokens_per_day, p_zone);
    END IF;
    SELECT u.usage, u.exhausted_until INTO v_usage, v_exhausted FROM quota_usage AS u WHERE u.dependency = p_dependency FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        INSERT INTO quota_usage (dependency) VALUES (p_dependency) ON CONFLICT (dependency) DO NOTHING;
        SELECT u.usage, u.exhausted_until INTO v_usage, v_exhausted FROM quota_usage AS u WHERE u.dependency = p_dependency FOR NO KEY UPDATE;
    END IF;
    -- Only now: the lock may have been waited for.
    v_now := clock_timestamp();
    v_second := floor(extract(epoch FROM v_now));
    v_day := (v_now AT TIME ZONE v_limits.resets_at_zone)::date;
    -- What is larger than a whole limit goes alone, when nothing else counts any more.
    v_tokens := least(greatest(p_tokens, 0), v_limits.tokens_per_minute, v_limits.tokens_per_day);
    SELECT
        coalesce(jsonb_object_agg(s.key, s.value), '{}'), coalesce(sum((s.value ->> 0)::bigint), 0), coalesce(sum((s.value ->> 1)::bigint), 0)
    INTO v_recent, v_minute_requests, v_minute_tokens
    FROM jsonb_each(v_usage -> 'seconds') AS s WHERE s.key::bigint >= v_second - 60;
    IF (v_usage ->> 'day')::date = v_day THEN
        v_day_requests := (v_usage ->> 'requests')::bigint;
        v_day_tokens := (v_usage ->> 'tokens')::bigint;
    END IF;

    IF v_exhausted > v_now THEN
        v_until := v_exhausted;
        v_reasons := v_reasons || 'the server said so'::text;
    END IF;
    IF v_day_requests + 1 > v_limits.requests_per_day THEN
        v_reasons := v_reasons || 'requests_per_day'::text;
    END IF;
    IF v_day_tokens + v_tokens > v_limits.tokens_per_day THEN
        v_reasons := v_reasons || 'tokens_per_day'::text;
    END IF;
    IF v_reasons && '{requests_per_day,tokens_per_day}' THEN
        v_until := greatest(v_until, quota_next_day(v_now, v_limits.resets_at_zone));
    END IF;
    IF v_minute_requests + 1 > v_limits.requests_per_minute THEN
        v_reasons := v_reasons || 'requests_per_minute'::text;
    END IF;
    IF v_minute_tokens + v_tokens > v_limits.tokens_per_minute THEN
        v_reasons := v_reasons || 'tokens_per_minute'::text;
    END IF;
    IF v_reasons && '{requests_per_minute,tokens_per_minute}' THEN
        -- It fits once that second has left the minute after which little enough was used.
        SELECT greatest(v_until, to_timestamp(min(l.second) + 61)) INTO v_until
        FROM (
            SELECT
                s.key::bigint AS second,
                sum((s.value ->> 0)::bigint) OVER newer - (s.value ->> 0)::bigint AS requests,
                sum((s.value ->> 1)::bigint) OVER newer - (s.value ->> 1)::bigint AS tokens
            FROM jsonb_each(v_recent) AS s
            WINDOW newer AS (ORDER BY s.key::bigint DESC)
        ) AS l
        WHERE (l.requests + 1 > v_limits.requests_per_minute) IS NOT TRUE AND (l.tokens + v_tokens > v_limits.tokens_per_minute) IS NOT TRUE;
    END IF;
    IF v_reasons <> '{}' THEN
        RETURN QUERY SELECT FALSE, v_second, v_day, v_tokens, greatest(v_until - v_now, interval '0'), array_to_string(v_reasons, ', ');
        RETURN;
    END IF;
    UPDATE quota_usage AS u SET
        usage = jsonb_build_object(
            'seconds', v_recent || jsonb_build_object(
                v_second::text, jsonb_build_array(
                    coalesce((v_recent -> v_second::text ->> 0)::bigint, 0) + 1,
                    coalesce((v_recent -> v_second::text ->> 1)::bigint, 0) + v_tokens)),
            'day', v_day, 'requests', v_day_requests + 1, 'tokens', v_day_tokens + v_tokens,
            'limits', to_jsonb(v_limits) - 'dependency'),
        updated_at = v_now
    WHERE u.dependency = p_dependency;
    RETURN QUERY SELECT TRUE, v_second, v_day, v_tokens, interval '0', '';
END
$$;

CREATE FUNCTION quota_settle(p_dependency text, p_slot bigint, p_day date, p_requests bigint, p_tokens bigint) RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    -- Adds the difference between what was used and what had been reserved, where second and day still count.
    UPDATE quota_usage AS u SET
        usage = u.usage
            || CASE WHEN u.usage -> 'seconds' ? p_slot::text THEN jsonb_build_object('seconds', u.usage -> 'seconds' || jsonb_build_object(
                p_slot::text, jsonb_build_array(
                    greatest(0, (u.usage -> 'seconds' -> p_slot::text ->> 0)::bigint + p_requests),
                    greatest(0, (u.usage -> 'seconds' -> p_slot::text ->> 1)::bigint + p_tokens)))) ELSE '{}' END
            || CASE WHEN (u.usage ->> 'day')::date = p_day THEN jsonb_build_object(
                'requests', greatest(0, (u.usage ->> 'requests')::bigint + p_requests),
                'tokens', greatest(0, (u.usage ->> 'tokens')::bigint + p_tokens)) ELSE '{}' END,
        updated_at = clock_timestamp()
    WHERE u.dependency = p_dependency
$$;

CREATE FUNCTION quota_exhaust(p_dependency text, p_wait interval, p_zone text) RETURNS interval
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    -- The server refuses: nobody asks before `p_wait` is over; NULL is until the day ends there. Returns what is left.
    INSERT INTO quota_usage AS u (dependency, exhausted_until)
    VALUES (p_dependency, coalesce(
        clock_timestamp() + p_wait,
        quota_next_day(clock_timestamp(), coalesce(
            (SELECT l.resets_at_zone FROM quota_limits AS l WHERE l.dependency = p_dependency), p_zone))))
    ON CONFLICT (dependency) DO UPDATE SET
        exhausted_until = greatest(u.exhausted_until, excluded.exhausted_until), updated_at = clock_timestamp()
    RETURNING u.exhausted_until - clock_timestamp()
$$;

CREATE VIEW vw_quota_status AS
SELECT
    u.dependency,
    q.quota,
    q.used,
    (u.usage -> 'limits' ->> q.quota)::bigint AS allowed,
    round(q.used / nullif((u.usage -> 'limits' ->> q.quota)::numeric, 0), 4) AS share,
    u.exhausted_until,
    u.updated_at
FROM quota_usage AS u
CROSS JOIN LATERAL (
    SELECT
        coalesce(sum((s.value ->> 0)::bigint), 0) AS requests,
        coalesce(sum((s.value ->> 1)::bigint), 0) AS tokens
    FROM jsonb_each(u.usage -> 'seconds') AS s
    WHERE s.key::bigint >= floor(extract(epoch FROM now())) - 60
) AS minute
CROSS JOIN LATERAL (
    SELECT coalesce(
        (u.usage ->> 'day')::date = (now() AT TIME ZONE coalesce(u.usage -> 'limits' ->> 'resets_at_zone', 'UTC'))::date, FALSE) AS present
) AS today
CROSS JOIN LATERAL (
    VALUES
    ('requests_per_minute', minute.requests),
    ('requests_per_day', CASE WHEN today.present THEN (u.usage ->> 'requests')::numeric ELSE 0 END),
    ('tokens_per_minute', minute.tokens),
    ('tokens_per_day', CASE WHEN today.present THEN (u.usage ->> 'tokens')::numeric ELSE 0 END)
) AS q (quota, used);

COMMENT ON VIEW vw_quota_status IS 'Each quota of each dependency: what is used of it now, and the limit that held at the last reservation (NULL: none).';

-- Breakers. `probe_at` says from when a probe is due while open, and until when the present one is waited for while half
-- open: a prober that died does not keep it from the next. `failed_probes` doubles the pause.
ALTER TABLE circuit_breaker ADD COLUMN failed_probes int NOT NULL DEFAULT 0;

CREATE FUNCTION breaker_enter(p_dependency text, p_by text, p_probe_lasts interval)
RETURNS TABLE (verdict text, failures int, wait interval, last_error text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- May it be called? 'closed': yes. 'probe': yes, and everybody waits for how that ends. 'open': not before `wait` is over.
DECLARE
    v_row circuit_breaker%ROWTYPE;
BEGIN
    SELECT b.* INTO v_row FROM circuit_breaker AS b WHERE b.dependency = p_dependency;
    IF NOT FOUND OR v_row.breaker_state = 'closed' THEN
        RETURN QUERY SELECT 'closed', coalesce(v_row.failures, 0), interval '0', v_row.last_error;
        RETURN;
    END IF;
    UPDATE circuit_breaker AS b SET
        breaker_state = 'half_open', probe_by = p_by, probe_at = clock_timestamp() + p_probe_lasts, updated_at = clock_timestamp()
    WHERE b.dependency = p_dependency AND b.breaker_state <> 'closed' AND b.probe_at <= clock_timestamp()
    RETURNING b.* INTO v_row;
    IF FOUND THEN
        RETURN QUERY SELECT 'probe', v_row.failures, interval '0', v_row.last_error;
        RETURN;
    END IF;
    SELECT b.* INTO v_row FROM circuit_breaker AS b WHERE b.dependency = p_dependency;
    RETURN QUERY SELECT
        CASE v_row.breaker_state WHEN 'closed' THEN 'closed' ELSE 'open' END,
        v_row.failures, greatest(v_row.probe_at - clock_timestamp(), interval '0'), v_row.last_error;
END
$$;

CREATE FUNCTION breaker_fail(
    p_dependency text, p_by text, p_error text, p_threshold int, p_pause interval, p_longest_pause interval, p_at_once boolean
) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Counts a failure; at the threshold, or `p_at_once`, or when the probe failed, the breaker opens. Failures of calls that
-- began before it opened change nothing. Opening alerts once. Returns the state.
DECLARE
    v_row circuit_breaker%ROWTYPE;
BEGIN
    INSERT INTO circuit_breaker (dependency) VALUES (p_dependency) ON CONFLICT (dependency) DO NOTHING;
    SELECT b.* INTO v_row FROM circuit_breaker AS b WHERE b.dependency = p_dependency FOR NO KEY UPDATE;
    IF v_row.breaker_state = 'closed' AND v_row.failures + 1 < p_threshold AND NOT p_at_once THEN
        UPDATE circuit_breaker SET failures = failures + 1, last_error = p_error, updated_at = clock_timestamp()
        WHERE dependency = p_dependency;
        RETURN 'closed';
    END IF;
    IF v_row.breaker_state = 'open' OR v_row.breaker_state = 'half_open' AND v_row.probe_by IS DISTINCT FROM p_by THEN
        RETURN v_row.breaker_state;
    END IF;
    IF v_row.breaker_state = 'half_open' THEN
        v_row.failed_probes := v_row.failed_probes + 1;
    END IF;
    UPDATE circuit_breaker AS b SET
        breaker_state = 'open', failures = b.failures + 1, failed_probes = v_row.failed_probes, last_error = p_error, probe_by = NULL,
        opened_at = coalesce(b.opened_at, clock_timestamp()), updated_at = clock_timestamp(),
        probe_at = clock_timestamp() + greatest(p_pause, least(p_pause * power(2, least(v_row.failed_probes, 20)), p_longest_pause))
    WHERE b.dependency = p_dependency;
    INSERT INTO alert_incident (alert, subject, message) VALUES ('breaker_open', p_dependency, p_error)
    ON CONFLICT (alert, subject) WHERE resolved_at IS NULL DO NOTHING;
    RETURN 'open';
END
$$;

CREATE FUNCTION breaker_succeed(p_dependency text, p_by text) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Forgets the failures of a closed breaker, and closes it after its probe; other calls do not close it. Returns the state.
DECLARE
    v_state text;
BEGIN
    UPDATE circuit_breaker AS b SET
        breaker_state = 'closed', failures = 0, failed_probes = 0, opened_at = NULL, probe_at = NULL, probe_by = NULL, updated_at = clock_timestamp()
    WHERE b.dependency = p_dependency AND (b.breaker_state = 'closed' AND b.failures > 0 OR b.breaker_state = 'half_open' AND b.probe_by = p_by);
    IF FOUND THEN
        UPDATE alert_incident AS a SET resolved_at = clock_timestamp()
        WHERE a.alert = 'breaker_open' AND a.subject = p_dependency AND a.resolved_at IS NULL;
    END IF;
    SELECT b.breaker_state INTO v_state FROM circuit_breaker AS b WHERE b.dependency = p_dependency;
    RETURN coalesce(v_state, 'closed');
END
$$;
