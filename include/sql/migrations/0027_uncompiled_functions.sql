-- Where a kind of join is switched off, Postgres up to 17 takes what it cannot do without for endlessly dear, and compiles it:
-- two thirds of a second at each change of a state. What runs inside (a trigger of the tables written to) counts too.

ALTER FUNCTION queue_record_update() SET jit = off;

ALTER FUNCTION event_distribute(int, interval, text []) SET jit = off;

ALTER FUNCTION event_settle(jsonb) SET jit = off;
