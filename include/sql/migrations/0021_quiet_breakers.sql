-- Upkeep forgets the breakers of image hosts that nobody asks any more, so a failure may find its row gone at any moment.

CREATE OR REPLACE FUNCTION breaker_fail(
    p_dependency text, p_by text, p_error text, p_threshold int, p_pause interval, p_longest_pause interval, p_at_once boolean
) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Counts a failure; at the threshold, or `p_at_once`, or when the probe failed, the breaker opens. Failures of calls that
-- began before it opened change nothing. Opening alerts once. Returns the state.
DECLARE
    v_row circuit_breaker%ROWTYPE;
BEGIN
    -- Makes the row or locks it, in one go: between two statements upkeep could delete it.
    INSERT INTO circuit_breaker AS b (dependency) VALUES (p_dependency)
    ON CONFLICT (dependency) DO UPDATE SET updated_at = clock_timestamp()
    RETURNING b.* INTO v_row;
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
