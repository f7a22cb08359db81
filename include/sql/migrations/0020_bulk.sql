-- What carrying out and watching bulk operations reads.

-- When somebody last began a batch: an operation that rests has lost whoever carried it out.
ALTER TABLE bulk_operation ADD COLUMN worked_at timestamptz;

CREATE INDEX bulk_unfinished ON bulk_operation (operation_id) WHERE status IN ('pending', 'running');

-- A few among a hundred thousand, and what a person looks at afterwards.
CREATE INDEX bulk_refused ON bulk_operation_item (operation_id, workflow_id) WHERE outcome = 'refused';

COMMENT ON TABLE bulk_operation IS 'One thing to do to many workflows; which ones is fixed when it is created.';
COMMENT ON TABLE bulk_operation_item IS 'A workflow of an operation, and what became of it; settled in the transaction that changes the workflow.';
