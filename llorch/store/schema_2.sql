-- Schema version 2: sessions, usage, the tenant of a client key, and how far an ended job's segment goes.

ALTER TABLE client_key ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
UPDATE client_key SET tenant = name;

ALTER TABLE job ADD COLUMN last_id INTEGER;    -- of the last frame in the segment; NULL: not known

CREATE TABLE session (
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    record TEXT NOT NULL,                       -- SessionRecord as JSON
    PRIMARY KEY (tenant, session_id)
) WITHOUT ROWID;

CREATE TABLE usage (
    tenant TEXT NOT NULL,
    day INTEGER NOT NULL,                       -- days since the epoch, in UTC
    jobs INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    PRIMARY KEY (tenant, day)
) WITHOUT ROWID;
CREATE INDEX usage_by_day ON usage (day);
