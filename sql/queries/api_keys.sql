-- columns: key_columns
-- The fields of a key that its user sees, in their order.
id, prefix, name, scopes, requests_per_minute, created_at, expires_at, last_used_at

-- name: create_api_key
-- Insert a key of user $2 unless the user has $9 of them that have not expired; then no row comes back. $8: seconds until it expires.
SELECT @key_columns
FROM public.create_api_key($1, $2, $3, $4, $5, $6::text [], $7, $8, $9);

-- name: list_api_keys
-- The keys of a user, newest first.
SELECT @key_columns
FROM public.api_keys
WHERE user_id = $1 AND (expires_at IS NULL OR expires_at > now())
ORDER BY id DESC;

-- name: get_api_key
-- One key of a user.
SELECT @key_columns
FROM public.api_keys
WHERE id = $1 AND user_id = $2 AND (expires_at IS NULL OR expires_at > now());

-- name: delete_api_key
-- Revoke a key of a user.
DELETE FROM public.api_keys
WHERE id = $1 AND user_id = $2
RETURNING id;

-- name: find_api_keys
-- The valid keys among those with the hashes $1. The keys of a deleted or banned account are not valid.
SELECT
    key.hash, key.id, key.user_id, key.scopes, key.requests_per_minute, key.expires_at,
    extract(epoch FROM key.expires_at - now())::double precision AS expires_in_s
FROM public.api_keys AS key
INNER JOIN auth.users AS account ON account.id = key.user_id
WHERE key.hash = ANY ($1::bytea [])
    AND (key.expires_at IS NULL OR key.expires_at > now())
    AND account.deleted_at IS NULL
    AND (account.banned_until IS NULL OR account.banned_until < now());

-- name: record_key_uses
-- Note that the keys $1 were used $2 seconds ago; at most once in $3 seconds for each key, whichever instances it is used at. A row
-- that another instance is writing is skipped.
WITH used AS MATERIALIZED (
    SELECT key.id, clock_timestamp() - make_interval(secs => use.age_s) AS at
    FROM unnest($1::uuid [], $2::double precision []) AS use (id, age_s)
    INNER JOIN public.api_keys AS key ON key.id = use.id
    WHERE key.last_used_at IS NULL
        OR key.last_used_at <= clock_timestamp() - make_interval(secs => use.age_s + $3::double precision)
    ORDER BY key.id
    FOR UPDATE OF key SKIP LOCKED
)
UPDATE public.api_keys AS key
SET last_used_at = used.at
FROM used
WHERE key.id = used.id;
