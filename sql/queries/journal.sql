-- name: accept_requests
-- Insert a batch of accepted model requests, as processing (with owner) or pending. A row whose key is taken is not inserted.
WITH incoming AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[],
        $7::uuid[], $8::float8[], $9::float8[], $10::text[], $11::bytea[]
    ) AS incoming (
        id, user_id, model_type, model, input_data, parameters,
        owner, deadline_s, delay_s, key, fingerprint
    )
), won AS (
    INSERT INTO public.idempotency_keys AS taken (user_id, key, fingerprint, request_id)
    SELECT user_id, key, fingerprint, id
    FROM incoming
    WHERE key IS NOT NULL
    ORDER BY user_id, key
    ON CONFLICT (user_id, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, request_id = excluded.request_id, created_at = now()
    WHERE taken.created_at < now() - interval '24 hours'
    RETURNING request_id
)
INSERT INTO public.model_requests (
    id, user_id, status, model_type, model, input_data, parameters,
    owner, epoch, attempt, started_at, run_at, deadline_at, large_bytes
)
SELECT
    id,
    user_id,
    CASE WHEN owner IS NULL THEN 'pending' ELSE 'processing' END,
    model_type,
    model,
    input_data,
    parameters,
    owner,
    CASE WHEN owner IS NULL THEN 0 ELSE 1 END,
    CASE WHEN owner IS NULL THEN 0 ELSE 1 END,
    CASE WHEN owner IS NULL THEN NULL ELSE now() END,
    now() + make_interval(secs => delay_s),
    now() + make_interval(secs => delay_s + deadline_s),
    CASE WHEN pg_column_size(input_data) + pg_column_size(parameters) > 65536
        THEN pg_column_size(input_data) + pg_column_size(parameters) END
FROM incoming
WHERE key IS NULL OR id IN (SELECT request_id FROM won)
ORDER BY id
ON CONFLICT (id) DO NOTHING
RETURNING id, created_at, deadline_at;

-- name: read_back_accepts
-- The state of accepts that inserted nothing: the row exists already (a lost reply), or another request holds the key.
SELECT
    incoming.id,
    coalesce(taken.request_id, incoming.id) AS request_id,
    taken.fingerprint,
    mine.created_at,
    mine.deadline_at
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS incoming (id, user_id, key)
LEFT JOIN public.idempotency_keys AS taken
    ON taken.user_id = incoming.user_id AND taken.key = incoming.key
LEFT JOIN public.model_requests AS mine ON mine.id = incoming.id;

-- name: find_idempotency_key
-- The request of an idempotency key, for 24 hours.
SELECT request_id, fingerprint
FROM public.idempotency_keys
WHERE user_id = $1 AND key = $2 AND created_at >= now() - interval '24 hours';

-- name: record_outcomes
-- Write a batch of outcomes, each fenced by the owner and the epoch under which its row was claimed.
UPDATE public.model_requests AS row
SET status = outcome.status,
    output_data = outcome.output_data,
    error_code = outcome.error_code,
    error_msg = outcome.error_msg,
    token_used = outcome.token_used,
    token_count = outcome.token_count,
    processing_time = outcome.processing_time,
    model = coalesce(outcome.model, row.model),
    segments = outcome.segments,
    usage = outcome.usage,
    upstream_error = outcome.upstream_error,
    cost_usd = outcome.cost_usd,
    completed_at = clock_timestamp()
FROM unnest(
    $1::uuid[], $2::uuid[], $3::integer[], $4::text[], $5::jsonb[], $6::text[], $7::text[],
    $8::integer[], $9::integer[], $10::interval[], $11::text[], $12::jsonb[], $13::jsonb[], $14::jsonb[], $15::numeric[]
) AS outcome (
    id, owner, epoch, status, output_data, error_code, error_msg,
    token_used, token_count, processing_time, model, segments, usage, upstream_error, cost_usd
)
WHERE row.id = outcome.id
    AND row.owner = outcome.owner
    AND row.epoch = outcome.epoch
    AND row.status = 'processing'
RETURNING row.id, row.epoch, row.completed_at;

-- name: release_requests
-- Put rows back to the backlog, with their attempt returned and their epoch kept. A cancelled row ends here instead.
UPDATE public.model_requests AS row
SET status = CASE WHEN row.cancel_requested THEN 'cancelled' ELSE 'pending' END,
    completed_at = CASE WHEN row.cancel_requested THEN clock_timestamp() END,
    owner = CASE WHEN row.cancel_requested THEN row.owner END,
    attempt = greatest(row.attempt - 1, 0),
    started_at = NULL,
    run_at = clock_timestamp() + make_interval(secs => released.delay_s),
    error_code = CASE WHEN NOT row.cancel_requested THEN released.error_code END,
    error_msg = CASE WHEN NOT row.cancel_requested THEN released.error_msg END,
    upstream_error = CASE WHEN NOT row.cancel_requested THEN released.upstream_error END
FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::float8[], $5::text[], $6::text[], $7::jsonb[])
    AS released (id, owner, epoch, delay_s, error_code, error_msg, upstream_error)
WHERE row.id = released.id
    AND row.owner = released.owner
    AND row.epoch = released.epoch
    AND row.status = 'processing'
RETURNING row.id, row.epoch, row.completed_at;

-- name: classify_outcomes
-- Why an outcome matched nothing. It is a separate statement because the update would show it the old snapshot.
SELECT
    held.id,
    held.epoch,
    row.completed_at,
    CASE
        WHEN row.id IS NULL THEN 'gone'
        WHEN row.owner = held.owner AND row.epoch = held.epoch
            AND row.status IN ('completed', 'failed', 'cancelled') THEN 'mine'
        WHEN row.status IN ('completed', 'failed', 'cancelled') THEN 'finished_elsewhere'
        ELSE 'fenced'
    END AS status
FROM unnest($1::uuid[], $2::uuid[], $3::integer[]) AS held (id, owner, epoch)
LEFT JOIN public.model_requests AS row ON row.id = held.id;

-- name: check_writes
-- Whether rows can be written now: a commit that changes nothing. The empty insert fails where no row may be inserted.
WITH nothing AS (
    INSERT INTO public.model_requests (id)
    SELECT NULL::uuid
    WHERE false
)
UPDATE public.instances
SET lease_until = lease_until
WHERE id = $1
RETURNING id;
