-- What is known of a provider's health (JSON), and when its gate is to be tried again if it is closed.
ALTER TABLE providers
    ADD COLUMN health text;
ALTER TABLE providers
    ADD COLUMN closed_until bigint;
