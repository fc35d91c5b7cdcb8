-- columns: public_columns
-- What the public object of a model request is made of (server/schemas.py).
row.id, row.created_at, row.completed_at, row.user_id, row.status, row.model_type, row.model,
row.input_data, row.output_data, row.error_msg, row.error_code, row.token_used, row.token_count,
row.processing_time, row.epoch, row.attempt, row.deadline_at, row.usage, row.upstream_error,
row.cost_usd

-- name: get_request
-- One model request of one user, with its place in the backlog.
SELECT
    @public_columns,
    CASE WHEN row.status = 'pending' THEN (
        SELECT count(*)
        FROM public.model_requests AS ahead
        WHERE ahead.status = 'pending' AND ahead.id < row.id
    ) END AS queue_position
FROM public.model_requests AS row
WHERE row.id = $1 AND row.user_id = $2;

-- name: list_requests
-- A page of one user's history, newest first, older than the cursor; NULL filters do not filter. Ids are in order of time, so a filter by
-- time comes with a bound of the ids ($2 or $8), which the index finds.
WITH page AS MATERIALIZED (
    SELECT *
    FROM public.model_requests
    WHERE user_id = $1
        AND id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        AND id >= coalesce($8::uuid, '00000000-0000-0000-0000-000000000000')
        AND ($3::text IS NULL OR status = $3)
        AND ($4::text [] IS NULL OR model_type = ANY($4))
        AND ($5::timestamptz IS NULL OR created_at > $5)
        AND ($6::timestamptz IS NULL OR created_at < $6)
    ORDER BY id DESC
    LIMIT $7
), places AS (
    SELECT id, row_number() OVER (ORDER BY id) - 1 AS queue_position
    FROM public.model_requests
    WHERE status = 'pending' AND EXISTS (SELECT FROM page WHERE page.status = 'pending')
)
SELECT
    @public_columns,
    places.queue_position
FROM page AS row
LEFT JOIN places ON places.id = row.id
ORDER BY row.id DESC;

-- name: changed_requests
-- Which of these requests changed since their subscribers last saw them, or are gone.
SELECT seen.id
FROM unnest($1::uuid[], $2::text[], $3::integer[]) AS seen (id, status, epoch)
LEFT JOIN public.model_requests AS row ON row.id = seen.id
WHERE row.id IS NULL
    OR row.status IN ('completed', 'failed', 'cancelled')
    OR (seen.status IS NOT NULL AND (row.status <> seen.status OR row.epoch <> seen.epoch));

-- name: count_waiting
-- How many requests wait for a slot: all of them, and those of this user, each counted up to its limit. A request that was put off
-- does not wait before it is due.
SELECT
    (SELECT count(*) FROM (
        SELECT FROM public.model_requests
        WHERE status = 'pending' AND NOT (epoch = 0 AND run_at > clock_timestamp())
        LIMIT $2
    ) AS waiting) AS everyone,
    (SELECT count(*) FROM (
        SELECT FROM public.model_requests
        WHERE status = 'pending' AND user_id = $1 AND NOT (epoch = 0 AND run_at > clock_timestamp())
        LIMIT $3
    ) AS waiting) AS own;

-- name: count_waiting_users
-- How many users have requests in the backlog: a skip scan, one step for each user.
WITH RECURSIVE holder AS (
    (SELECT user_id FROM public.model_requests WHERE status = 'pending' ORDER BY user_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT row.user_id
        FROM public.model_requests AS row
        WHERE row.status = 'pending' AND row.user_id > holder.user_id
        ORDER BY row.user_id
        LIMIT 1
    )
    FROM holder
    WHERE holder.user_id IS NOT NULL
)
SELECT count(user_id) AS users FROM holder;

-- name: measure_backlog
-- How many requests wait for a slot, counted up to $1, and for how many seconds the oldest of them has been due.
SELECT
    count(*) AS waiting,
    coalesce(extract(epoch FROM clock_timestamp() - min(run_at)), 0)::float8 AS oldest_s
FROM (
    SELECT run_at FROM public.model_requests WHERE status = 'pending' AND run_at <= clock_timestamp() LIMIT $1
) AS due;

-- name: count_put_off
-- How many requests are put off (not due yet, never started): all of them, those of this user, and of how many users. `ahead` is the
-- number of all waiting requests, counted up to $2.
SELECT
    count(*) AS everyone,
    count(*) FILTER (WHERE user_id = $1) AS own,
    count(DISTINCT user_id) AS users,
    (SELECT count(*) FROM (
        SELECT FROM public.model_requests WHERE status = 'pending' LIMIT $2
    ) AS waiting) AS ahead
FROM public.model_requests
WHERE status = 'pending' AND epoch = 0 AND run_at > created_at AND run_at > clock_timestamp();

-- name: running_requests_of_user
-- The running requests of a user, to be stopped when the account is deleted.
SELECT id
FROM public.model_requests
WHERE user_id = $1 AND status = 'processing';

-- name: get_transcript
-- The text of a final request, for a stream of it.
SELECT output_data, segments
FROM public.model_requests
WHERE id = $1 AND user_id = $2;

-- name: cancel_request
-- Cancel one of the user's requests: a pending one ends at once, a running one is ended by its owner, a final one stays.
UPDATE public.model_requests AS row
SET cancel_requested = true,
    status = CASE WHEN row.status = 'pending' THEN 'cancelled' ELSE row.status END,
    completed_at = CASE WHEN row.status = 'pending' THEN clock_timestamp() END,
    error_code = CASE WHEN row.status = 'processing' THEN row.error_code END,
    error_msg = CASE WHEN row.status = 'processing' THEN row.error_msg END,
    upstream_error = CASE WHEN row.status = 'processing' THEN row.upstream_error END
WHERE row.id = $1 AND row.user_id = $2 AND row.status IN ('pending', 'processing')
RETURNING row.id, row.status, row.owner, row.epoch;

-- name: delete_request
-- Delete one of the user's requests.
DELETE FROM public.model_requests
WHERE id = $1 AND user_id = $2
RETURNING id;

-- name: delete_history
-- Delete up to $2 of the user's final requests, the oldest first.
WITH old AS MATERIALIZED (
    SELECT id
    FROM public.model_requests
    WHERE user_id = $1 AND status IN ('completed', 'failed', 'cancelled')
    ORDER BY id
    LIMIT $2
    FOR UPDATE
)
DELETE FROM public.model_requests AS row
USING old
WHERE row.id = old.id
RETURNING row.id;

-- name: feed_requests
-- The states of requests for feeds: the live ones of users $1, those of them newer than $2, and those with ids $3.
SELECT id, user_id, status, epoch
FROM public.model_requests
WHERE user_id = ANY ($1::uuid[]) AND status IN ('pending', 'processing')
UNION
SELECT id, user_id, status, epoch
FROM public.model_requests
WHERE user_id = ANY ($1::uuid[]) AND id > $2
UNION
SELECT id, user_id, status, epoch
FROM public.model_requests
WHERE id = ANY ($3::uuid[]);

-- name: broadcast_requests
-- Send the states of these requests to Supabase Realtime. Returns the number of messages, NULL where there is no Realtime.
SELECT public.broadcast_model_requests($1::uuid[]) AS sent;
