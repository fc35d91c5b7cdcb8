-- columns: changed_revocations
-- The revocations that have changed since $6, all of them if it is NULL, and the time of the reading.
ARRAY(
        SELECT (subject, is_blocked, issued_before, expires_at)
        FROM public.revocations
        WHERE changed_at >= coalesce($6::timestamptz, '-infinity') AND expires_at > now()
    ) AS revocations,
    now() AS read_at

-- name: register_instance
-- Register this process with its first lease, and its file store.
INSERT INTO public.instances (id, lease_until, host, pid, file_store)
VALUES ($1, clock_timestamp() + make_interval(secs => $2), $3, $4, $5)
ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until
RETURNING
    @changed_revocations;

-- name: renew_lease
-- Renew the lease. The same round trip returns how many instances live, how many of those have another file store than $5, which
-- running rows are cancelled or no longer owned, and which revocations have changed since $6.
WITH renewed AS (
    UPDATE public.instances
    SET lease_until = clock_timestamp() + make_interval(secs => $2)
    WHERE id = $1
    RETURNING id
), held AS (
    SELECT held.id, row.cancel_requested
    FROM unnest($3::uuid[], $4::integer[]) AS held (id, epoch)
    LEFT JOIN public.model_requests AS row
        ON row.id = held.id AND row.epoch = held.epoch AND row.status = 'processing'
)
SELECT
    EXISTS (SELECT FROM renewed) AS is_renewed,
    (
        SELECT count(*) FROM public.instances WHERE lease_until > clock_timestamp() AND host <> 'edge function'
    ) AS live_instances,
    (
        SELECT count(*) FROM public.instances WHERE lease_until > clock_timestamp() AND file_store <> $5
    ) AS other_stores,
    ARRAY(SELECT id FROM held WHERE cancel_requested) AS cancelled,
    ARRAY(SELECT id FROM held WHERE cancel_requested IS NULL) AS lost,
    @changed_revocations;

-- name: delete_instance
-- Give up a lease: at an orderly stop, or for a predecessor on this host that is known to be dead.
DELETE FROM public.instances
WHERE id = $1;

-- name: notify_instances
-- Send hints to the channels of other instances. A lost hint loses no request, so their commit need not wait for the disk.
SELECT set_config('synchronous_commit', 'off', true), pg_notify(hint.channel, hint.payload)
FROM unnest($1::text[], $2::text[]) AS hint (channel, payload);

-- name: count_file_stores
-- How many live instances there are, and how many places of files they have together.
SELECT count(*) AS instances, count(DISTINCT file_store) AS stores
FROM public.instances
WHERE lease_until > clock_timestamp() AND host <> 'edge function';
