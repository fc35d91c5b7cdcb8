-- name: borrow_rates
-- Take up to $2 calls from the buckets of users $1, which hold $4 calls and gain one every $3 seconds. Returns the calls that were
-- taken, and how many are missing in the bucket now. The thousandth of a call makes up for times that are rounded.
INSERT INTO public.rate_buckets AS bucket (user_id, full_at, granted)
SELECT user_id, now() + make_interval(secs => least(wanted, $4::integer) * $3::float8), least(wanted, $4)
FROM unnest($1::uuid [], $2::integer []) AS loan (user_id, wanted)
ORDER BY user_id
ON CONFLICT (user_id) DO UPDATE
SET granted = greatest(0, least(
        excluded.granted,
        floor($4 + 0.001 - greatest(0, extract(epoch FROM bucket.full_at - now())) / $3)
    )),
    full_at = greatest(bucket.full_at, now()) + make_interval(secs => $3 * greatest(0, least(
        excluded.granted,
        floor($4 + 0.001 - greatest(0, extract(epoch FROM bucket.full_at - now())) / $3)
    )))
RETURNING user_id, granted, greatest(0, extract(epoch FROM full_at - now()) / $3)::float8 AS missing;

-- name: charge_rate
-- Take $2 calls from the bucket of a user even if it is empty, or give them back if $2 is negative. Returns how many are missing now.
INSERT INTO public.rate_buckets AS bucket (user_id, full_at)
VALUES ($1, now() + make_interval(secs => $2::integer * $3::float8))
ON CONFLICT (user_id) DO UPDATE
SET full_at = greatest(bucket.full_at, now()) + make_interval(secs => $2 * $3)
RETURNING greatest(0, extract(epoch FROM full_at - now()) / $3)::float8 AS missing;

-- name: delete_full_rates
-- Delete buckets that are full.
DELETE FROM public.rate_buckets WHERE full_at < now() - interval '1 minute';
