-- Takes squorflow away: everything the migrations made, and what before.sql changed. A legacy queue keeps its rows, with
-- their old status in step; without one, nothing is left. `migrate downgrade --to base` runs it, in one transaction.
-- Settings: squorflow.tables, squorflow.functions, squorflow.sequences (names with commas).

DO $$
DECLARE
    v_legacy boolean := to_regclass('legacy_change') IS NOT NULL;
    v_undo text[];
    v_failed text := '';
    v record;
BEGIN
    IF v_legacy THEN
        LOCK TABLE processing_queue IN ACCESS EXCLUSIVE MODE;
        IF EXISTS (SELECT 1 FROM pg_attribute AS a WHERE a.attrelid = 'processing_queue'::regclass AND a.attname = 'status' AND NOT a.attisdropped) THEN
            EXECUTE 'UPDATE processing_queue AS q SET status = legacy_status(q.workflow_state, q.status)
                     WHERE q.workflow_state IS NOT NULL AND q.status IS DISTINCT FROM legacy_status(q.workflow_state, q.status)';
        END IF;
        SELECT array_agg(c.undo ORDER BY c.change_id DESC) INTO v_undo FROM legacy_change AS c;
    END IF;
    FOR v IN
        SELECT c.oid::regclass AS name, c.relkind FROM pg_class AS c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
            AND (c.relname = ANY(string_to_array(current_setting('squorflow.tables'), ','))
                OR c.relname ~ '^workflow_(transitions|events|metrics)_[0-9]{4}_[0-9]{2}$'
                OR c.relname IN ('legacy_change', 'schema_migration'))
            AND NOT (v_legacy AND c.relname = 'processing_queue')
        ORDER BY c.relkind = 'v' DESC
    LOOP
        EXECUTE format('DROP %s IF EXISTS %s CASCADE', CASE v.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, v.name);
    END LOOP;
    -- Triggers and defaults of the queue go with their functions.
    FOR v IN
        SELECT p.oid::regprocedure AS name FROM pg_proc AS p
        WHERE p.pronamespace = current_schema()::regnamespace AND p.proname = ANY(string_to_array(current_setting('squorflow.functions'), ','))
    LOOP
        EXECUTE format('DROP FUNCTION IF EXISTS %s CASCADE', v.name);
    END LOOP;
    FOR v IN SELECT s.name FROM unnest(string_to_array(current_setting('squorflow.sequences'), ',')) AS s (name) LOOP
        EXECUTE format('DROP SEQUENCE IF EXISTS %I', v.name);
    END LOOP;
    FOR i IN 1..coalesce(array_length(v_undo, 1), 0) LOOP
        -- What came meanwhile may break an old rule: a value of ours the old type has no room for, a row without a product.
        BEGIN
            EXECUTE v_undo[i];
        EXCEPTION WHEN OTHERS THEN
            v_failed := v_failed || SQLERRM || E'\n';
        END;
    END LOOP;
    PERFORM set_config('squorflow.not_undone', v_failed, TRUE);
END
$$;
