-- Schema version 1. Times are the brain's `now` values: Unix seconds that never run backwards over restarts.
-- A later version is a further script (see database.SCRIPTS); a script that was released never changes.

CREATE TABLE job (
    row INTEGER PRIMARY KEY AUTOINCREMENT,      -- order of acceptance; the cursor of listings
    job_id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    tenant TEXT NOT NULL,
    idempotency_key TEXT,
    accepted_at REAL NOT NULL,
    ended_at REAL,                              -- NULL while the job is live
    output_kept INTEGER NOT NULL DEFAULT 1,     -- 0: the segment has been removed
    record TEXT NOT NULL,                       -- JobRecord as JSON, without its payload
    payload BLOB                                -- the prompt; NULL as soon as the job has ended
);
CREATE INDEX job_by_state ON job (state, row);
CREATE INDEX job_by_tenant ON job (tenant, row);
CREATE INDEX job_by_key ON job (row) WHERE idempotency_key IS NOT NULL;
CREATE INDEX job_ended ON job (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX job_output ON job (ended_at) WHERE ended_at IS NOT NULL AND output_kept = 1;

CREATE TABLE decision (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    at REAL NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX decision_by_job ON decision (job_id, row);
CREATE INDEX decision_by_time ON decision (at);

CREATE TABLE worker (
    worker_id TEXT PRIMARY KEY,
    record TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE pool (
    pool_id TEXT PRIMARY KEY,
    draining INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE client_key (
    name TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,                -- of the key; the key itself is never stored
    created_at REAL NOT NULL,
    revoked_at REAL
) WITHOUT ROWID;

-- One row: the newest time ever stored, so that the brain's clock never runs backwards.
CREATE TABLE newest (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    at REAL NOT NULL
);
INSERT INTO newest (only, at) VALUES (1, 0);
