-- name: announce
-- Tell whoever listens that there may be work; once per transaction, since its commit takes a lock all notifying ones share.
SELECT pg_notify(:channel, '');
