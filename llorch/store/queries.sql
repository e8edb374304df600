-- Every statement of the store, by name. `-- name: x` begins one; comments say what it is for.

-- name: put_job
-- A job's newest state. The prompt is written once and dropped with the terminal state.
INSERT INTO job (job_id, state, tenant, idempotency_key, accepted_at, ended_at, record, payload, last_id)
VALUES (:job_id, :state, :tenant, :idempotency_key, :accepted_at, :ended_at, :record, :payload, :last_id)
ON CONFLICT (job_id) DO UPDATE SET
    state = excluded.state,
    ended_at = excluded.ended_at,
    record = excluded.record,
    last_id = excluded.last_id,
    payload = CASE WHEN excluded.ended_at IS NULL THEN payload END;

-- name: put_decision
INSERT INTO decision (job_id, at, record) VALUES (:job_id, :at, :record);

-- name: put_worker
INSERT INTO worker (worker_id, record) VALUES (:worker_id, :record)
ON CONFLICT (worker_id) DO UPDATE SET record = excluded.record;

-- name: drop_worker
DELETE FROM worker WHERE worker_id = :worker_id;

-- name: put_pool
INSERT INTO pool (pool_id, draining) VALUES (:pool_id, :draining)
ON CONFLICT (pool_id) DO UPDATE SET draining = excluded.draining;

-- name: drop_pool
DELETE FROM pool WHERE pool_id = :pool_id;

-- name: put_session
INSERT INTO session (tenant, session_id, record) VALUES (:tenant, :session_id, :record)
ON CONFLICT (tenant, session_id) DO UPDATE SET record = excluded.record;

-- name: drop_session
DELETE FROM session WHERE tenant = :tenant AND session_id = :session_id;

-- name: put_usage
INSERT INTO usage (tenant, day, jobs, prompt_tokens, tokens_out)
VALUES (:tenant, :day, :jobs, :prompt_tokens, :tokens_out)
ON CONFLICT (tenant, day) DO UPDATE SET
    jobs = excluded.jobs, prompt_tokens = excluded.prompt_tokens, tokens_out = excluded.tokens_out;

-- name: put_newest
UPDATE newest SET at = max(at, :at);

-- name: newest
SELECT at FROM newest;

-- name: backed_up_jobs
-- Every job whose segment still counts, with what is needed to copy it; live ones have no end.
SELECT job_id, ended_at IS NULL FROM job WHERE output_kept = 1 ORDER BY row;

-- name: count_jobs
SELECT count(*) FROM job;

-- name: live_jobs
-- For Restarted: in order of acceptance.
SELECT record, payload FROM job WHERE ended_at IS NULL ORDER BY row;

-- name: newest_keys
-- For Restarted: the idempotency keys of the newest jobs that have one, ended ones too, newest first.
SELECT tenant, idempotency_key, job_id FROM job WHERE idempotency_key IS NOT NULL ORDER BY row DESC LIMIT :count;

-- name: workers
SELECT record FROM worker ORDER BY worker_id;

-- name: pools
SELECT pool_id, draining FROM pool ORDER BY pool_id;

-- name: sessions
SELECT record FROM session ORDER BY tenant, session_id;

-- name: usage
-- From some day on, of one tenant or of all (NULL).
SELECT tenant, day, jobs, prompt_tokens, tokens_out FROM usage
WHERE day >= :first_day AND (:tenant IS NULL OR tenant = :tenant)
ORDER BY tenant, day;

-- name: job
SELECT record, payload, output_kept, last_id FROM job WHERE job_id = :job_id;

-- name: jobs
-- One page, newest first. NULL means: no filter.
SELECT row, record, payload, output_kept FROM job
WHERE (:before IS NULL OR row < :before)
    AND (:tenant IS NULL OR tenant = :tenant)
ORDER BY row DESC LIMIT :count;

-- name: jobs_in_states
-- One page of the jobs in some states (a JSON list), newest first.
SELECT row, record, payload, output_kept FROM job
WHERE state IN (SELECT value FROM json_each(:states))
    AND (:before IS NULL OR row < :before)
    AND (:tenant IS NULL OR tenant = :tenant)
ORDER BY row DESC LIMIT :count;

-- name: accepted_jobs
-- The jobs of a time in order of acceptance, for replays.
SELECT record FROM job WHERE accepted_at >= :since AND accepted_at < :until ORDER BY row LIMIT :count;

-- name: decisions
SELECT record FROM decision WHERE job_id = :job_id ORDER BY row LIMIT :count;

-- name: expired_outputs
-- Jobs whose segment may go.
SELECT job_id FROM job
WHERE ended_at IS NOT NULL AND output_kept = 1 AND ended_at < :ended_before
ORDER BY ended_at LIMIT :count;

-- name: forget_output
UPDATE job SET output_kept = 0 WHERE job_id = :job_id;

-- name: expire_jobs
DELETE FROM job WHERE ended_at IS NOT NULL AND output_kept = 0 AND ended_at < :ended_before;

-- name: expire_decisions
DELETE FROM decision WHERE at < :ended_before;

-- name: expire_usage
DELETE FROM usage WHERE day < :first_day;

-- name: known_jobs
-- Which of these jobs (a JSON list) have a row whose output is kept.
SELECT job_id FROM job
WHERE output_kept = 1 AND job_id IN (SELECT value FROM json_each(:job_ids));

-- name: add_key
INSERT INTO client_key (name, sha256, created_at, tenant) VALUES (:name, :sha256, :created_at, :tenant);

-- name: revoke_key
UPDATE client_key SET revoked_at = :revoked_at WHERE name = :name AND revoked_at IS NULL;

-- name: keys
SELECT name, sha256, created_at, revoked_at, tenant FROM client_key ORDER BY created_at, name;
