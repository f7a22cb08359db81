-- name: reserve
-- Reserve one request and some tokens, or learn how long to wait until they fit.
SELECT granted, slot, reserved_day, reserved_tokens, wait, limited_by
FROM quota_reserve(
    :dependency, CAST(:tokens AS bigint), CAST(:requests_per_minute AS int), CAST(:requests_per_day AS int),
    CAST(:tokens_per_minute AS bigint), CAST(:tokens_per_day AS bigint), :zone
);

-- name: settle
-- Replace what was reserved by what was used.
SELECT quota_settle(:dependency, CAST(:slot AS bigint), CAST(:reserved_day AS date), CAST(:requests AS bigint), CAST(:tokens AS bigint));

-- name: exhaust
-- Let nobody ask before the server's delay is over; without one, before its day ends.
SELECT quota_exhaust(:dependency, CAST(:wait AS interval), :zone) AS remaining;

-- name: list_status
-- List every quota with what is used of it.
SELECT dependency, quota, used, allowed, share, exhausted_until
FROM vw_quota_status
ORDER BY dependency, quota;
