-- Whom a quota's minute refuses is told a minute of his own. Told all the same one, hundreds came back together for
-- fifteen places, minute after minute.

CREATE OR REPLACE FUNCTION quota_reserve(
    p_dependency text, p_tokens bigint, p_requests_per_minute int, p_requests_per_day int, p_tokens_per_minute bigint,
    p_tokens_per_day bigint, p_zone text
) RETURNS TABLE (granted boolean, slot bigint, reserved_day date, reserved_tokens bigint, wait interval, limited_by text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Reserves one request and `p_tokens` tokens, or says how long to wait until they fit. The row of quota_limits, where
-- there is one, wins over the limits that were passed; NULL is no limit. Whom the minute refuses is promised a later one
-- behind everybody who was refused before; a promise keeps nobody out, so one that is not taken up costs nothing.
DECLARE
    v_limits quota_limits%ROWTYPE;
    v_usage jsonb;
    v_exhausted timestamptz;
    v_now timestamptz;
    v_second bigint;
    v_day date;
    v_tokens bigint;
    v_recent jsonb;
    v_promised jsonb;
    v_minute_requests bigint;
    v_minute_tokens bigint;
    v_day_requests bigint := 0;
    v_day_tokens bigint := 0;
    v_until timestamptz;
    v_slot text;
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
    SELECT coalesce(jsonb_object_agg(s.key, s.value), '{}') INTO v_promised
    FROM jsonb_each(v_usage -> 'promised') AS s WHERE s.key::bigint > v_second;
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
        -- It fits once that second has left the minute after which little enough was used, or is promised.
        SELECT greatest(v_until, to_timestamp(min(l.second) + 61)) INTO v_until
        FROM (
            SELECT
                s.key::bigint AS second,
                sum((s.value ->> 0)::bigint) OVER newer - (s.value ->> 0)::bigint AS requests,
                sum((s.value ->> 1)::bigint) OVER newer - (s.value ->> 1)::bigint AS tokens
            FROM jsonb_each(v_recent || v_promised) AS s
            WINDOW newer AS (ORDER BY s.key::bigint DESC)
        ) AS l
        WHERE (l.requests + 1 > v_limits.requests_per_minute) IS NOT TRUE AND (l.tokens + v_tokens > v_limits.tokens_per_minute) IS NOT TRUE;
    END IF;
    -- Who waits for a day, or for the server, waits for no minute.
    IF v_reasons <> '{}' AND v_reasons <@ '{requests_per_minute,tokens_per_minute}' THEN
        v_slot := ceil(extract(epoch FROM v_until))::bigint::text;
        v_promised := v_promised || jsonb_build_object(v_slot, jsonb_build_array(
            coalesce((v_promised -> v_slot ->> 0)::bigint, 0) + 1, coalesce((v_promised -> v_slot ->> 1)::bigint, 0) + v_tokens));
        UPDATE quota_usage AS u SET usage = u.usage || jsonb_build_object('promised', v_promised) WHERE u.dependency = p_dependency;
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
            'limits', to_jsonb(v_limits) - 'dependency', 'promised', v_promised),
        updated_at = v_now
    WHERE u.dependency = p_dependency;
    RETURN QUERY SELECT TRUE, v_second, v_day, v_tokens, interval '0', '';
END
$$;

-- Else every product that asks would be suspended for it.
ALTER TABLE quota_limits ADD CONSTRAINT quota_limits_zone_exists
CHECK (timestamptz '2026-01-01 00:00:00+00' AT TIME ZONE resets_at_zone IS NOT NULL) NOT VALID;
