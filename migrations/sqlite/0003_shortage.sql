-- Set while ready work of the provider waits for a machine with room: JSON that names the worker and what
-- its machine lacks.
ALTER TABLE providers
    ADD COLUMN shortage TEXT;
