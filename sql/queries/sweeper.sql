-- columns: claimed_columns
-- What a generator needs of a row (server/actors/claims.py).
row.id, row.status, row.user_id, row.model_type, row.model, row.input_data, row.parameters, row.owner, row.epoch,
row.attempt, row.created_at, row.deadline_at, row.error_code, row.error_msg, row.upstream_error,
extract(epoch FROM row.deadline_at - clock_timestamp())::float8 AS deadline_left_s

-- name: claim_pending
-- Claim up to $2 due rows for instance $1, fairly: a skip scan finds the waiting users (those after $3 first), each gives its oldest rows.
-- Of large rows only the first ones are claimed that have $5 bytes together. Users in $6 are left out; then each of the others gives one.
WITH RECURSIVE waiting AS (
    (
        SELECT user_id, 1 AS ordinal
        FROM public.model_requests
        WHERE status = 'pending' AND user_id > $3 AND run_at <= clock_timestamp() AND attempt < $4 AND NOT cancel_requested
        ORDER BY user_id
        LIMIT 1
    )
    UNION ALL
    SELECT next_user.user_id, waiting.ordinal + 1
    FROM waiting
    CROSS JOIN LATERAL (
        SELECT row.user_id
        FROM public.model_requests AS row
        WHERE row.status = 'pending' AND row.user_id > waiting.user_id AND row.run_at <= clock_timestamp() AND row.attempt < $4 AND NOT row.cancel_requested
        ORDER BY row.user_id
        LIMIT 1
    ) AS next_user
    WHERE waiting.ordinal < $2 + cardinality($6::uuid[])
), share AS (
    SELECT CASE WHEN cardinality($6) > 0 THEN 1 ELSE greatest(1, $2 / greatest(1, count(*)))::bigint END AS each FROM waiting
), picked AS MATERIALIZED (
    SELECT oldest.id, oldest.large_bytes
    FROM waiting
    CROSS JOIN LATERAL (
        SELECT row.id, row.large_bytes
        FROM public.model_requests AS row
        WHERE row.status = 'pending'
            AND row.user_id = waiting.user_id
            AND row.run_at <= clock_timestamp()
            AND row.attempt < $4
            AND NOT row.cancel_requested
        ORDER BY row.id
        LIMIT (SELECT each FROM share)
        FOR UPDATE SKIP LOCKED
    ) AS oldest
    WHERE waiting.user_id <> ALL ($6)
    LIMIT $2
), fitting AS (
    SELECT id, large_bytes, sum(large_bytes) OVER (ORDER BY id) AS large_so_far FROM picked
)
UPDATE public.model_requests AS row
SET status = 'processing',
    owner = $1,
    epoch = row.epoch + 1,
    attempt = row.attempt + 1,
    started_at = clock_timestamp()
FROM fitting
WHERE row.id = fitting.id AND (fitting.large_bytes IS NULL OR fitting.large_so_far <= $5)
RETURNING @claimed_columns;

-- name: claim_quarantined
-- Claim a quarantined group: rows that were running when their instance died twice or more, those with the fewest crashes first.
-- The group has $2 rows after two crashes and a quarter of that with each further crash, at least one. An attempt is counted when
-- they start, because a crash before that is not theirs. The number 2 has to be a literal for the index.
WITH least AS (
    SELECT attempt
    FROM public.model_requests
    WHERE status = 'pending'
        AND attempt >= 2
        AND run_at <= clock_timestamp()
        AND NOT cancel_requested
    ORDER BY attempt
    LIMIT 1
), picked AS MATERIALIZED (
    SELECT row.id
    FROM public.model_requests AS row
    WHERE row.status = 'pending'
        AND row.attempt >= 2
        AND row.attempt = (SELECT attempt FROM least)
        AND row.run_at <= clock_timestamp()
        AND NOT row.cancel_requested
    ORDER BY row.created_at, row.id
    LIMIT (SELECT greatest(1, $2::integer >> (2 * (attempt - 2))) FROM least)
    FOR UPDATE SKIP LOCKED
)
UPDATE public.model_requests AS row
SET status = 'processing',
    owner = $1,
    epoch = row.epoch + 1,
    started_at = clock_timestamp()
FROM picked
WHERE row.id = picked.id
RETURNING @claimed_columns;

-- name: start_quarantined
-- Count an attempt of each quarantined row that starts now. It is safe to repeat. Rows that are no longer owned do not come back.
UPDATE public.model_requests AS row
SET attempt = started.attempt,
    started_at = clock_timestamp()
FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::integer[]) AS started (id, owner, epoch, attempt)
WHERE row.id = started.id
    AND row.owner = started.owner
    AND row.epoch = started.epoch
    AND row.status = 'processing'
RETURNING row.id;

-- name: survey_backlog
-- Whether due rows wait, and whether any quarantined rows wait.
SELECT
    EXISTS (
        SELECT FROM public.model_requests
        WHERE status = 'pending' AND run_at <= clock_timestamp() AND attempt < 2 AND NOT cancel_requested
    ) AS has_due,
    EXISTS (
        SELECT FROM public.model_requests
        WHERE status = 'pending' AND run_at <= clock_timestamp() AND attempt >= 2 AND NOT cancel_requested
    ) AS has_quarantined;

-- name: rescue_orphans
-- Put rows whose owner has no live lease back to pending, or end them. Owners in $1 are known to be dead. Other owners count once
-- leases can be trusted again: $2 says so for this instance, and the age of the postmaster, $3 seconds, for the database.
-- After $5 crashes a row pauses, twice as long each time, so that a series of crashes with another cause can end.
WITH orphaned AS MATERIALIZED (
    SELECT row.id
    FROM public.model_requests AS row
    WHERE row.status = 'processing'
        AND (
            row.owner = ANY ($1::uuid[])
            OR (
                $2
                AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => $3)
                AND NOT EXISTS (
                    SELECT FROM public.instances AS instance
                    WHERE instance.id = row.owner AND instance.lease_until > clock_timestamp()
                )
            )
        )
    ORDER BY row.created_at, row.id
    LIMIT $6
    FOR UPDATE OF row SKIP LOCKED
)
UPDATE public.model_requests AS row
SET status = CASE
        WHEN row.cancel_requested THEN 'cancelled'
        WHEN row.attempt >= $4 THEN 'failed'
        ELSE 'pending'
    END,
    completed_at = CASE WHEN row.cancel_requested OR row.attempt >= $4 THEN clock_timestamp() END,
    error_code = CASE WHEN row.attempt >= $4 AND NOT row.cancel_requested THEN 'SERVER_ERROR' END,
    error_msg = CASE
        WHEN row.attempt >= $4 AND NOT row.cancel_requested
            THEN 'The server stopped unexpectedly each of the ' || row.attempt || ' times it ran this request.'
    END,
    upstream_error = NULL,
    owner = NULL,
    started_at = NULL,
    run_at = clock_timestamp() + CASE
        WHEN row.attempt < $5 THEN interval '0'
        ELSE make_interval(secs => least(30, 2 ^ least(row.attempt - $5, 5)))
    END
FROM orphaned
WHERE row.id = orphaned.id
RETURNING row.id, row.status, row.attempt;

-- name: expire_requests
-- End rows that passed their deadline: pending rows at once, running ones when their own instance did not do so for $1 seconds. $2 is
-- the outage of the upstream, if there is one.
WITH overdue AS MATERIALIZED (
    SELECT id
    FROM public.model_requests
    WHERE (status = 'pending' AND deadline_at <= clock_timestamp())
        OR (status = 'processing' AND deadline_at <= clock_timestamp() - make_interval(secs => $1))
    ORDER BY created_at, id
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE public.model_requests AS row
SET status = 'failed',
    completed_at = clock_timestamp(),
    owner = NULL,
    error_code = CASE
        WHEN row.error_code IS NOT NULL THEN row.error_code
        WHEN row.status = 'pending' AND $2::text IS NOT NULL THEN 'MODEL_ERROR'
        ELSE 'SERVER_ERROR'
    END,
    error_msg = CASE
        WHEN row.error_msg IS NOT NULL THEN 'Not finished by its deadline. ' || row.error_msg
        WHEN row.status = 'processing' THEN 'Not finished by its deadline: the model was still answering.'
        WHEN $2 IS NOT NULL THEN 'Not finished by its deadline. The model provider does not answer. ' || $2
        ELSE 'Not finished by its deadline: it was still waiting for its turn.'
    END
FROM overdue
WHERE row.id = overdue.id
RETURNING row.id;

-- name: finalise_cancelled
-- End pending rows that were cancelled.
WITH asked AS MATERIALIZED (
    SELECT id
    FROM public.model_requests
    WHERE status = 'pending' AND cancel_requested
    ORDER BY created_at, id
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
UPDATE public.model_requests AS row
SET status = 'cancelled', completed_at = clock_timestamp()
FROM asked
WHERE row.id = asked.id
RETURNING row.id;

-- name: reclaim_own
-- Claim rows again that this instance owns and its memory ($2) does not hold: the reply to an accept or a claim was lost. Claims
-- younger than $3 seconds are left out. Rows that were running at more than $4 crashes go back to the backlog.
WITH forgotten AS MATERIALIZED (
    SELECT id
    FROM public.model_requests
    WHERE status = 'processing'
        AND owner = $1
        AND id <> ALL ($2::uuid[])
        AND started_at < clock_timestamp() - make_interval(secs => $3)
    ORDER BY created_at, id
    LIMIT $5
    FOR UPDATE SKIP LOCKED
)
UPDATE public.model_requests AS row
SET status = CASE WHEN row.attempt > $4 THEN 'pending' ELSE row.status END,
    owner = CASE WHEN row.attempt > $4 THEN NULL ELSE row.owner END,
    attempt = CASE WHEN row.attempt > $4 THEN row.attempt - 1 ELSE row.attempt END,
    epoch = row.epoch + 1,
    started_at = clock_timestamp()
FROM forgotten
WHERE row.id = forgotten.id
RETURNING @claimed_columns;

-- name: purge_instances
-- Delete instances whose lease ran out $1 seconds ago and which own no row.
DELETE FROM public.instances AS instance
WHERE instance.lease_until < clock_timestamp() - make_interval(secs => $1)
    AND NOT EXISTS (
        SELECT FROM public.model_requests AS row
        WHERE row.status = 'processing' AND row.owner = instance.id
    );

-- name: purge_requests
-- Delete up to $2 final rows with ids, and so times of creation, below $1.
WITH old AS MATERIALIZED (
    SELECT id
    FROM public.model_requests
    WHERE id < $1 AND status IN ('completed', 'failed', 'cancelled')
    ORDER BY id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
DELETE FROM public.model_requests AS row
USING old
WHERE row.id = old.id
RETURNING row.id;

-- name: purge_idempotency_keys
-- Delete up to $1 keys that are older than 24 hours.
WITH old AS MATERIALIZED (
    SELECT user_id, key
    FROM public.idempotency_keys
    WHERE created_at < now() - interval '24 hours'
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM public.idempotency_keys AS taken
USING old
WHERE taken.user_id = old.user_id AND taken.key = old.key
RETURNING taken.key;

-- name: purge_revocations
-- Delete revocations of tokens that have all expired, and the counts of sign-ups of past days.
WITH counts AS (
    DELETE FROM public.sign_ups
    WHERE day < current_date - 1
)
DELETE FROM public.revocations
WHERE expires_at < now();
