-- How the provider knows the work of the newest attempt (JSON), and what follows an attempt that was
-- lost without that: 0 another, 1 a failure.
ALTER TABLE records ADD COLUMN handle text;
ALTER TABLE records ADD COLUMN on_lost smallint NOT NULL DEFAULT 0;

-- Tokens that all ended attempts consumed. Apart from `providers`, whose rows are locked by claims.
CREATE TABLE usage (
    provider      text   NOT NULL PRIMARY KEY,
    input_tokens  bigint NOT NULL,
    output_tokens bigint NOT NULL
);
