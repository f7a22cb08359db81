-- name: enter
-- Ask whether a dependency may be called; at most one caller becomes its probe.
SELECT verdict, failures, wait, last_error FROM breaker_enter(:dependency, :caller, :probe_lasts);

-- name: fail
-- Count a failure of the dependency, and open its breaker when that is enough.
SELECT breaker_fail(:dependency, :caller, :error, CAST(:threshold AS int), :pause, :longest_pause, :at_once) AS breaker_state;

-- name: succeed
-- Forget earlier failures, and close the breaker after its probe.
SELECT breaker_succeed(:dependency, :caller) AS breaker_state;

-- name: drop_probe
-- Let the next caller probe at once, where this one ended without a verdict.
UPDATE circuit_breaker SET probe_by = NULL, breaker_state = 'open', probe_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE dependency = :dependency AND breaker_state = 'half_open' AND probe_by = :caller;

-- name: list_breakers
-- List every breaker there has been a failure for.
SELECT
    dependency, breaker_state, failures, failed_probes, opened_at, probe_at, last_error, updated_at
FROM circuit_breaker
ORDER BY breaker_state = 'closed', dependency;
