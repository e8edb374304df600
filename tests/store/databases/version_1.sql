PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE client_key (
    name TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,                -- of the key; the key itself is never stored
    created_at REAL NOT NULL,
    revoked_at REAL
) WITHOUT ROWID;
INSERT INTO "client_key" VALUES('alice','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',1750000000.0,NULL);
INSERT INTO "client_key" VALUES('bob','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',1750000001.0,1750000002.0);
CREATE TABLE decision (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    at REAL NOT NULL,
    record TEXT NOT NULL
);
INSERT INTO "decision" VALUES(1,'job-00000002-0000-4000-8000-000000000000',1750000005.0,'{"job_id":"job-00000002-0000-4000-8000-000000000000","at":1750000005.0,"kind":"placement","chosen":"worker-cpu-1","reasons":[["worker-cpu-2","no slot"]],"note":"note"}');
CREATE TABLE job (
    row INTEGER PRIMARY KEY AUTOINCREMENT,      -- order of acceptance; the cursor of listings
    job_id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    tenant TEXT NOT NULL,
    idempotency_key TEXT,
    accepted_at REAL NOT NULL,
    ended_at REAL,                              -- NULL while the job is live
    output_kept INTEGER NOT NULL DEFAULT 1,     -- 0: the token segment has been removed
    record TEXT NOT NULL,                       -- JobRecord as JSON, without its payload
    payload BLOB                                -- the prompt; NULL as soon as the job has ended
);
INSERT INTO "job" VALUES(1,'job-00000001-0000-4000-8000-000000000000','queued','alice','key-1',1750000001.0,NULL,1,'{"spec":{"job_id":"job-00000001-0000-4000-8000-000000000000","prompt_sha256":"0000000000000000000000000000000000000000000000000000000000000001","prompt_bytes":16,"seed":1,"messages":0,"model":"demo","prompt_tokens":5,"max_tokens":8,"priority":"batch","tenant":"alice","session_id":"chat","deadline_s":null,"timeout_s":null,"wishes":{"pin_pool":null,"pin_worker":null,"prefer_pools":["gpu-box"],"avoid_pools":[],"allow_fallback":true},"idempotency_key":"key-1","on_disconnect":"keep","attached":false,"correlation_id":"c-1"},"state":"queued","accepted_at":1750000001.0,"sequence":1,"attempts":0,"worker_id":null,"model":null,"queued_since":1750000001.0,"dispatched_at":null,"started_at":null,"first_token_at":null,"ended_at":null,"cancel_requested":false,"ending":null}',X'7B2270726F6D7074223A2274656C6C206D65206E756D6265722031222C226D61785F746F6B656E73223A382C2273656564223A317D');
INSERT INTO "job" VALUES(2,'job-00000002-0000-4000-8000-000000000000','running','alice',NULL,1750000002.0,NULL,1,'{"spec":{"job_id":"job-00000002-0000-4000-8000-000000000000","prompt_sha256":"0000000000000000000000000000000000000000000000000000000000000002","prompt_bytes":16,"seed":2,"messages":0,"model":"demo","prompt_tokens":5,"max_tokens":8,"priority":"interactive","tenant":"alice","session_id":null,"deadline_s":null,"timeout_s":null,"wishes":{"pin_pool":null,"pin_worker":null,"prefer_pools":["gpu-box"],"avoid_pools":[],"allow_fallback":true},"idempotency_key":null,"on_disconnect":"keep","attached":false,"correlation_id":"c-2"},"state":"running","accepted_at":1750000002.0,"sequence":2,"attempts":1,"worker_id":"worker-cpu-1","model":"demo","queued_since":1750000002.0,"dispatched_at":1750000005.0,"started_at":1750000005.1,"first_token_at":1750000005.2,"ended_at":null,"cancel_requested":false,"ending":null}',X'7B2270726F6D7074223A2274656C6C206D65206E756D6265722032222C226D61785F746F6B656E73223A382C2273656564223A327D');
INSERT INTO "job" VALUES(3,'job-00000003-0000-4000-8000-000000000000','completed','bob','key-3',1750000003.0,1750000006.0,1,'{"spec":{"job_id":"job-00000003-0000-4000-8000-000000000000","prompt_sha256":"0000000000000000000000000000000000000000000000000000000000000003","prompt_bytes":16,"seed":3,"messages":0,"model":"demo","prompt_tokens":5,"max_tokens":8,"priority":"batch","tenant":"bob","session_id":null,"deadline_s":null,"timeout_s":null,"wishes":{"pin_pool":null,"pin_worker":null,"prefer_pools":["gpu-box"],"avoid_pools":[],"allow_fallback":true},"idempotency_key":"key-3","on_disconnect":"keep","attached":false,"correlation_id":"c-3"},"state":"completed","accepted_at":1750000003.0,"sequence":3,"attempts":1,"worker_id":"worker-cpu-1","model":"demo","queued_since":1750000003.0,"dispatched_at":1750000005.0,"started_at":1750000005.1,"first_token_at":1750000005.2,"ended_at":1750000006.0,"cancel_requested":false,"ending":{"state":"completed","result":{"stop_reason":"EOS","tokens_out":3,"prompt_tokens":5,"decode_time_ms":120,"ttft_ms":30,"seed":3},"error_code":null,"error_message":null,"retriable":false,"retry_after_s":null}}',NULL);
INSERT INTO "job" VALUES(4,'job-00000004-0000-4000-8000-000000000000','failed','bob',NULL,1750000004.0,1750000007.0,1,'{"spec":{"job_id":"job-00000004-0000-4000-8000-000000000000","prompt_sha256":"0000000000000000000000000000000000000000000000000000000000000004","prompt_bytes":16,"seed":4,"messages":0,"model":"demo","prompt_tokens":5,"max_tokens":8,"priority":"interactive","tenant":"bob","session_id":null,"deadline_s":null,"timeout_s":null,"wishes":{"pin_pool":null,"pin_worker":null,"prefer_pools":["gpu-box"],"avoid_pools":[],"allow_fallback":true},"idempotency_key":null,"on_disconnect":"keep","attached":false,"correlation_id":"c-4"},"state":"failed","accepted_at":1750000004.0,"sequence":4,"attempts":2,"worker_id":null,"model":null,"queued_since":1750000004.0,"dispatched_at":null,"started_at":null,"first_token_at":null,"ended_at":1750000007.0,"cancel_requested":false,"ending":{"state":"failed","result":null,"error_code":"WORKER_LOST","error_message":"the worker was lost","retriable":false,"retry_after_s":null}}',NULL);
CREATE TABLE newest (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    at REAL NOT NULL
);
INSERT INTO "newest" VALUES(1,1750000007.0);
CREATE TABLE pool (
    pool_id TEXT PRIMARY KEY,
    draining INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO "pool" VALUES('gpu-box',0);
CREATE TABLE worker (
    worker_id TEXT PRIMARY KEY,
    record TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "worker" VALUES('worker-cpu-1','{"spec":{"worker_id":"worker-cpu-1","url":"http://gpu-box:8001","model":"demo","backend":"cpu","pool":"gpu-box","slots_total":4,"context_length":2048,"vram_bytes":7,"version":"0.1.0","protocol":1,"protocol_ok":true,"adopted":false},"state":"ready","announced_at":1750000000.0,"lease_until":1750000005.0,"load":{"slots_busy":0,"tokens_per_s":40.0,"vram_bytes":0,"draining":false},"slots_used":0,"lost_reason":null}');
CREATE INDEX job_by_state ON job (state, row);
CREATE INDEX job_by_tenant ON job (tenant, row);
CREATE INDEX job_by_key ON job (row) WHERE idempotency_key IS NOT NULL;
CREATE INDEX job_ended ON job (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX job_output ON job (ended_at) WHERE ended_at IS NOT NULL AND output_kept = 1;
CREATE INDEX decision_by_job ON decision (job_id, row);
CREATE INDEX decision_by_time ON decision (at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('job',7);
INSERT INTO "sqlite_sequence" VALUES('decision',1);
COMMIT;
