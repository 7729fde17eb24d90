-- Limits besides max_concurrent (JSON, as declared and as overridden), the max_concurrent in force, and
-- when something is due besides the gate: the end of an override that was made for a time, say.
ALTER TABLE providers
    ADD COLUMN in_force INTEGER NOT NULL DEFAULT 1;
ALTER TABLE providers
    ADD COLUMN limits TEXT;
ALTER TABLE providers
    ADD COLUMN due_at INTEGER;
UPDATE providers SET in_force = coalesce(overriding_max, declared_max);

-- What began within the last minute, by the provider and by its models, and what is held back (JSON).
ALTER TABLE providers
    ADD COLUMN flow TEXT;

-- The place in the queue (due_at less the head start of the priority), the queue itself (that of a model
-- with limits of its own, or '' for all others), and what the execution may take of budgets (JSON).
ALTER TABLE records
    ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records
    ADD COLUMN lane TEXT NOT NULL DEFAULT '';
ALTER TABLE records
    ADD COLUMN demand TEXT;
UPDATE records SET rank = due_at - priority * 60000000 WHERE state IN (0, 1);

DROP INDEX records_ready;
CREATE INDEX records_ready
    ON records (provider, lane, interrupted DESC, rank, id, due_at)
    WHERE ready = 1;

-- What is claimed only to be stopped at its provider: looked for also where a gate holds back all else.
CREATE INDEX records_to_stop
    ON records (provider, id)
    WHERE ready = 1 AND interrupted = 1 AND cancel_requested_at IS NOT NULL;
