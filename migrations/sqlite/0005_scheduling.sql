-- Limits besides max_concurrent (JSON, as declared and as overridden), the max_concurrent in force, and
-- when an override ends that was made for a time.
ALTER TABLE providers
    ADD COLUMN in_force INTEGER NOT NULL DEFAULT 1;
ALTER TABLE providers
    ADD COLUMN limits TEXT;
ALTER TABLE providers
    ADD COLUMN limits_until INTEGER;
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
    ON records (provider, lane, interrupted DESC, rank, id)
    WHERE ready = 1;
