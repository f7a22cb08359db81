-- Old months leave the database: exported to the archive, compared with it, detached, compared again, dropped. Each step
-- is one transaction and says in history_archive that it is done, so upkeep may be killed between any two.

CREATE TABLE history_archive (
    partition text PRIMARY KEY,
    history text NOT NULL,
    low uuid NOT NULL,
    high uuid NOT NULL,
    stored_at text NOT NULL,
    sha256 text NOT NULL,
    row_count bigint NOT NULL,
    size_bytes bigint NOT NULL,
    fingerprint numeric NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    detached_at timestamptz,
    dropped_at timestamptz,
    CHECK (dropped_at IS NULL OR detached_at IS NOT NULL)
);

COMMENT ON TABLE history_archive IS
'Months of history that are in the archive, compared row by row. `sha256` is of the lines before compression.';

CREATE FUNCTION history_list_months() RETURNS TABLE (history text, partition text, low uuid, high uuid, ends_at timestamptz)
LANGUAGE sql STABLE SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
    -- The attached month partitions, the oldest first.
    SELECT t.name, p.relname::text, uuid_v7_floor(m.month), uuid_v7_floor(m.month + interval '1 month'), m.month + interval '1 month'
    FROM unnest(ARRAY['workflow_transitions', 'workflow_events', 'workflow_metrics']) AS t (name)
    INNER JOIN pg_inherits AS i ON i.inhparent = t.name::regclass
    INNER JOIN pg_class AS p ON p.oid = i.inhrelid AND p.relname ~ ('^' || t.name || '_[0-9]{4}_[0-9]{2}$')
    CROSS JOIN LATERAL (SELECT to_timestamp(right(p.relname, 7), 'YYYY_MM') AS month) AS m
    ORDER BY m.month, t.name
$$;

CREATE FUNCTION history_fingerprint(p_partition text, OUT row_count bigint, OUT fingerprint numeric)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET bytea_output = 'hex' AS $$
-- Counts a partition's rows and sums a hash of each, whatever their order.
BEGIN
    EXECUTE format(
        'SELECT count(*), coalesce(sum((''x'' || left(encode(sha256(convert_to(p::text, ''UTF8'')), ''hex''), 16))::bit(64)::bigint::numeric), 0)
         FROM %I AS p', p_partition) INTO row_count, fingerprint;
END
$$;

CREATE FUNCTION history_is_archived_in_order(p_history text, p_high uuid) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    -- An anchor stands for everything before it, so no earlier row of the trail may still be attached, in no partition.
    SELECT p_history <> 'workflow_transitions' OR NOT EXISTS (
        SELECT 1 FROM history_list_months() AS m WHERE m.history = p_history AND m.high < p_high
    ) AND NOT EXISTS (SELECT 1 FROM workflow_transitions_default AS d WHERE d.transition_id < p_high)
$$;

CREATE FUNCTION history_detach(p_partition text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '3s' AS $$
-- Takes an archived month out of its history; for the trail, the anchors that replace it are written in the same
-- transaction. Returns FALSE when it was out already. A busy history is not waited for: lock_timeout raises 55P03.
DECLARE
    v_archive history_archive%ROWTYPE;
BEGIN
    SELECT a.* INTO v_archive FROM history_archive AS a WHERE a.partition = p_partition FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'partition % is not archived', p_partition USING ERRCODE = 'SQ004';
    END IF;
    IF v_archive.detached_at IS NOT NULL THEN
        RETURN FALSE;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM history_list_months() AS m WHERE m.partition = p_partition AND m.ends_at <= now() - interval '1 day') THEN
        RAISE EXCEPTION '% is no partition of a month that is over', p_partition USING ERRCODE = 'SQ004';
    END IF;
    IF NOT history_is_archived_in_order(v_archive.history, v_archive.high) THEN
        RAISE EXCEPTION 'partition % cannot go before older rows of the trail', p_partition USING ERRCODE = 'SQ004';
    END IF;
    IF v_archive.history = 'workflow_transitions' THEN
        INSERT INTO workflow_anchor AS a (workflow_id, sequence, workflow_state, state_since, hash)
        SELECT DISTINCT ON (t.workflow_id) t.workflow_id, t.sequence, t.to_state, t.created_at, t.hash
        FROM workflow_transitions AS t
        WHERE t.transition_id >= v_archive.low AND t.transition_id < v_archive.high
        ORDER BY t.workflow_id, t.sequence DESC
        ON CONFLICT (workflow_id) DO UPDATE SET
            sequence = excluded.sequence, workflow_state = excluded.workflow_state, state_since = excluded.state_since,
            hash = excluded.hash, created_at = clock_timestamp()
        WHERE a.sequence < excluded.sequence;
    END IF;
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', v_archive.history, p_partition);
    UPDATE history_archive SET detached_at = clock_timestamp() WHERE partition = p_partition;
    RETURN TRUE;
END
$$;

CREATE FUNCTION history_drop(p_partition text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '3s' AS $$
-- Drops a detached month whose rows are still those of the archive; nothing guards single rows of a detached table, so
-- they are summed up again. Returns FALSE when it was dropped already.
DECLARE
    v_archive history_archive%ROWTYPE;
    v_rows bigint;
    v_fingerprint numeric;
BEGIN
    SELECT a.* INTO v_archive FROM history_archive AS a WHERE a.partition = p_partition AND a.detached_at IS NOT NULL FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'partition % is not detached', p_partition USING ERRCODE = 'SQ004';
    END IF;
    IF v_archive.dropped_at IS NOT NULL THEN
        RETURN FALSE;
    END IF;
    SELECT f.row_count, f.fingerprint INTO v_rows, v_fingerprint FROM history_fingerprint(p_partition) AS f;
    IF (v_rows, v_fingerprint) IS DISTINCT FROM (v_archive.row_count, v_archive.fingerprint) THEN
        RAISE EXCEPTION 'partition % was altered after it was archived: % rows, not %; it is kept as it is', p_partition, v_rows, v_archive.row_count
            USING ERRCODE = 'SQ004';
    END IF;
    EXECUTE format('DROP TABLE %I', p_partition);
    UPDATE history_archive SET dropped_at = clock_timestamp() WHERE partition = p_partition;
    RETURN TRUE;
END
$$;

REVOKE EXECUTE ON FUNCTION history_detach, history_drop FROM PUBLIC;

CREATE FUNCTION upkeep_analyze(p_changed_rows bigint, p_share float) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
-- Analyses our tables of which much has changed since, as after a bulk load; autovacuum looks only now and then, and at
-- the partitioned tables as a whole never. Returns which.
DECLARE
    v_table text;
BEGIN
    FOR v_table IN
        SELECT s.relname::text FROM pg_stat_user_tables AS s
        WHERE s.schemaname = current_schema() AND s.n_mod_since_analyze >= p_changed_rows
            AND s.n_mod_since_analyze >= p_share * s.n_live_tup
        UNION
        SELECT c.relname::text FROM pg_inherits AS i
        INNER JOIN pg_class AS c ON c.oid = i.inhparent AND c.relkind = 'p'
        INNER JOIN pg_stat_user_tables AS s ON s.relid = i.inhrelid
        WHERE c.relnamespace = current_schema()::regnamespace AND s.n_mod_since_analyze >= p_changed_rows
            AND s.n_mod_since_analyze >= p_share * s.n_live_tup
        ORDER BY 1
    LOOP
        EXECUTE format('ANALYZE %I', v_table);
        RETURN NEXT v_table;
    END LOOP;
END
$$;

REVOKE EXECUTE ON FUNCTION upkeep_analyze FROM PUBLIC;

CREATE TABLE upkeep_run (
    started_at timestamptz PRIMARY KEY,
    finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    report jsonb NOT NULL
);

COMMENT ON TABLE upkeep_run IS 'What each upkeep did, where it did anything.';
