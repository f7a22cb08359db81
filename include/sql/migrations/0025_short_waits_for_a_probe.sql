-- Whoever comes while a probe is under way comes back soon: most probes end within a moment, and only one that has died
-- lasts its whole time.

CREATE OR REPLACE FUNCTION breaker_enter(p_dependency text, p_by text, p_probe_lasts interval)
RETURNS TABLE (verdict text, failures int, wait interval, last_error text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- May it be called? 'closed': yes. 'probe': yes, and everybody waits for how that ends. 'open': not before `wait` is over,
-- which is as long again as the present probe has taken, so that many who wait ask seldom and none waits much too long.
DECLARE
    v_row circuit_breaker%ROWTYPE;
    v_wait interval;
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
    v_wait := v_row.probe_at - clock_timestamp();
    IF v_row.breaker_state = 'half_open' THEN
        v_wait := least(v_wait, greatest(p_probe_lasts - v_wait, interval '1 second'));
    END IF;
    RETURN QUERY SELECT
        CASE v_row.breaker_state WHEN 'closed' THEN 'closed' ELSE 'open' END,
        v_row.failures, greatest(v_wait, interval '0'), v_row.last_error;
END
$$;
