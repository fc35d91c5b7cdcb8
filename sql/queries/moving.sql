-- name: export_users
-- Every account, a JSON object each, by id. Works on auth.users of our own and of Supabase.
SELECT to_jsonb(account)::text AS line
FROM (
    SELECT
        id, email, encrypted_password AS password_hash, email_confirmed_at, last_sign_in_at, created_at, banned_until,
        raw_user_meta_data AS metadata
    FROM auth.users
    WHERE deleted_at IS NULL
    ORDER BY id
) AS account;

-- name: export_requests
-- Every request of these accounts, and those without an account, a JSON object each, by id. A running request is exported as pending:
-- it is run where it is imported. Whole rows, so that a new column needs no change here.
SELECT (
    to_jsonb(row) - 'owner' || jsonb_build_object(
        'status', CASE
            WHEN row.status IN ('completed', 'failed', 'cancelled') THEN row.status
            WHEN row.status IN ('pending', 'processing') THEN 'pending'
            ELSE 'failed'
        END,
        'completed_at', CASE
            WHEN row.status NOT IN ('pending', 'processing') THEN coalesce(row.completed_at, row.created_at, now())
        END
    )
)::text AS line
FROM public.model_requests AS row
WHERE row.user_id IS NULL
    OR EXISTS (SELECT FROM auth.users AS account WHERE account.id = row.user_id AND account.deleted_at IS NULL)
ORDER BY row.id;

-- name: export_idempotency_keys
-- The idempotency keys.
SELECT to_jsonb(remembered)::text AS line
FROM (
    SELECT key.user_id, key.key, key.fingerprint, key.request_id, key.created_at
    FROM public.idempotency_keys AS key
    INNER JOIN auth.users AS account ON account.id = key.user_id
    WHERE account.deleted_at IS NULL
    ORDER BY key.user_id, key.key
) AS remembered;

-- name: export_api_keys
-- The API keys that have not expired. Their hashes are exported, so the keys work in the other place.
SELECT to_jsonb(valid)::text AS line
FROM (
    SELECT
        key.id, key.user_id, key.hash, key.prefix, key.name, key.scopes, key.requests_per_minute, key.created_at,
        key.expires_at, key.last_used_at
    FROM public.api_keys AS key
    INNER JOIN auth.users AS account ON account.id = key.user_id
    WHERE account.deleted_at IS NULL AND (key.expires_at IS NULL OR key.expires_at > now())
    ORDER BY key.id
) AS valid;

-- name: export_usage
-- Totals by user, day and model.
SELECT to_jsonb(day_total)::text AS line
FROM (
    SELECT
        usage.user_id, usage.day, usage.model, usage.completed, usage.failed, usage.cancelled,
        usage.token_used, usage.token_count, usage.input_tokens, usage.cached_tokens, usage.reasoning_tokens,
        usage.unmetered, usage.unpriced, usage.cost_usd
    FROM public.usage_daily AS usage
    INNER JOIN auth.users AS account ON account.id = usage.user_id
    WHERE account.deleted_at IS NULL
    ORDER BY usage.user_id, usage.day, usage.model
) AS day_total;

-- name: export_file_rows
-- The rows of files: uploads, and the files of completed requests.
SELECT to_jsonb(kept)::text AS line
FROM (
    SELECT
        file.id, file.user_id, file.request_id, file.epoch, file.number, file.content_type, file.size, file.created_at
    FROM public.files AS file
    INNER JOIN auth.users AS account ON account.id = file.user_id
    LEFT JOIN public.model_requests AS request ON request.id = file.request_id
    WHERE account.deleted_at IS NULL
        AND file.state IN ('stored', 'kept')
        AND (file.request_id IS NULL OR (request.status = 'completed' AND request.epoch = file.epoch))
    ORDER BY file.id
) AS kept;

-- name: export_file_uses
-- Which requests have which uploads as inputs.
SELECT to_jsonb(input)::text AS line
FROM (
    SELECT use.file_id, use.request_id, use.created_at
    FROM public.file_uses AS use
    INNER JOIN public.model_requests AS request ON request.id = use.request_id
    ORDER BY use.file_id, use.request_id
) AS input;

-- name: count_unfinished
-- How many requests are not final, and whether a server works on them.
SELECT
    (SELECT count(*) FROM public.model_requests WHERE status IN ('pending', 'processing')) AS requests,
    (SELECT count(*) FROM public.instances WHERE lease_until > now()) AS instances;

-- name: find_moved_users
-- The accounts that hold one of these ids or e-mails.
SELECT id, email
FROM auth.users
WHERE deleted_at IS NULL AND (id = ANY ($1::uuid []) OR email = ANY ($2::text []));

-- name: import_users
-- Insert accounts into the embedded table, except those whose id or e-mail is taken. Returns the new ids.
INSERT INTO auth.users (
    id, email, encrypted_password, email_confirmed_at, last_sign_in_at, created_at, banned_until, raw_user_meta_data
)
SELECT
    id, email, password_hash, email_confirmed_at, last_sign_in_at, coalesce(created_at, now()), banned_until,
    coalesce(metadata, '{}')
FROM jsonb_to_recordset($1::jsonb) AS account (
    id uuid, email text, password_hash text, email_confirmed_at timestamptz, last_sign_in_at timestamptz,
    created_at timestamptz, banned_until timestamptz, metadata jsonb
)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: import_requests
-- Insert requests of page $1, whose users $2 have the ids $3 here. A request that is not final keeps the time it had left $4 ago.
-- Existing rows stay as they are; rows of accounts that do not exist here are left out. Returns the new ids. Whole rows, so that a
-- new column needs no change here.
INSERT INTO public.model_requests
SELECT row.*
FROM jsonb_array_elements($1::jsonb) AS item (fields)
CROSS JOIN LATERAL jsonb_populate_record(NULL::public.model_requests, item.fields) AS request
LEFT JOIN unnest($2::uuid [], $3::uuid []) AS renamed (before, here) ON renamed.before = request.user_id
LEFT JOIN auth.users AS account ON account.id = coalesce(renamed.here, request.user_id)
CROSS JOIN LATERAL (
    SELECT CASE WHEN request.completed_at IS NULL THEN $4::interval ELSE interval '0' END AS age
) AS moved
CROSS JOIN LATERAL jsonb_populate_record(request, jsonb_build_object(
    'user_id', account.id,
    'run_at', request.run_at + moved.age,
    'deadline_at', request.deadline_at + moved.age
)) AS row
WHERE request.user_id IS NULL OR account.id IS NOT NULL
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: count_imported_requests
-- How many of these requests exist.
SELECT count(*) FROM public.model_requests WHERE id = ANY ($1::uuid []);

-- name: import_idempotency_keys
-- Insert keys of page $1, whose users $2 have the ids $3 here. A key that was used here meanwhile stays.
INSERT INTO public.idempotency_keys (user_id, key, fingerprint, request_id, created_at)
SELECT account.id, remembered.key, remembered.fingerprint, remembered.request_id, remembered.created_at
FROM jsonb_to_recordset($1::jsonb) AS remembered (
    user_id uuid, key text, fingerprint bytea, request_id uuid, created_at timestamptz
)
LEFT JOIN unnest($2::uuid [], $3::uuid []) AS renamed (before, here) ON renamed.before = remembered.user_id
INNER JOIN auth.users AS account ON account.id = coalesce(renamed.here, remembered.user_id)
ON CONFLICT DO NOTHING;

-- name: import_api_keys
-- Insert API keys of page $1, whose users $2 have the ids $3 here.
INSERT INTO public.api_keys (
    id, user_id, hash, prefix, name, scopes, requests_per_minute, created_at, expires_at, last_used_at
)
SELECT
    key.id, account.id, key.hash, key.prefix, key.name, key.scopes, key.requests_per_minute, key.created_at,
    key.expires_at, key.last_used_at
FROM jsonb_to_recordset($1::jsonb) AS key (
    id uuid, user_id uuid, hash bytea, prefix text, name text, scopes text [], requests_per_minute integer,
    created_at timestamptz, expires_at timestamptz, last_used_at timestamptz
)
LEFT JOIN unnest($2::uuid [], $3::uuid []) AS renamed (before, here) ON renamed.before = key.user_id
INNER JOIN auth.users AS account ON account.id = coalesce(renamed.here, key.user_id)
ON CONFLICT DO NOTHING;

-- name: import_file_rows
-- Insert rows of files of page $1, whose users $2 have the ids $3 here, before their objects. In a day the collector decides about them.
INSERT INTO public.files (
    id, user_id, request_id, epoch, number, content_type, size, created_at, state, due_at
)
SELECT
    file.id, account.id, file.request_id, file.epoch, file.number, file.content_type, file.size, file.created_at,
    'stored', now() + interval '1 day'
FROM jsonb_to_recordset($1::jsonb) AS file (
    id uuid, user_id uuid, request_id uuid, epoch integer, number smallint, content_type text, size bigint,
    created_at timestamptz
)
LEFT JOIN unnest($2::uuid [], $3::uuid []) AS renamed (before, here) ON renamed.before = file.user_id
INNER JOIN auth.users AS account ON account.id = coalesce(renamed.here, file.user_id)
ON CONFLICT DO NOTHING;

-- name: import_file_uses
-- Insert uses of page $1, of files and requests that exist here. In order of files, since each insert locks its file.
INSERT INTO public.file_uses (file_id, request_id, created_at)
SELECT file.id, request.id, input.created_at
FROM jsonb_to_recordset($1::jsonb) AS input (file_id uuid, request_id uuid, created_at timestamptz)
INNER JOIN public.files AS file ON file.id = input.file_id
INNER JOIN public.model_requests AS request ON request.id = input.request_id
ORDER BY file.id
ON CONFLICT DO NOTHING;

-- name: import_usage
-- Insert totals of page $1, whose users $2 have the ids $3 here. The larger total stays, so that a repetition changes nothing.
-- An archive of the version before has no models, and none of the later totals.
INSERT INTO public.usage_daily AS total (
    user_id, day, model, completed, failed, cancelled, token_used, token_count,
    input_tokens, cached_tokens, reasoning_tokens, unmetered, unpriced, cost_usd
)
SELECT
    account.id, usage.day, coalesce(usage.model, ''), usage.completed, usage.failed, usage.cancelled,
    usage.token_used, usage.token_count,
    coalesce(usage.input_tokens, greatest(usage.token_used - usage.token_count, 0)),
    coalesce(usage.cached_tokens, 0), coalesce(usage.reasoning_tokens, 0),
    coalesce(usage.unmetered, 0), coalesce(usage.unpriced, usage.completed), usage.cost_usd
FROM jsonb_to_recordset($1::jsonb) AS usage (
    user_id uuid, day date, model text, completed integer, failed integer, cancelled integer,
    token_used bigint, token_count bigint, input_tokens bigint, cached_tokens bigint, reasoning_tokens bigint,
    unmetered integer, unpriced integer, cost_usd numeric
)
LEFT JOIN unnest($2::uuid [], $3::uuid []) AS renamed (before, here) ON renamed.before = usage.user_id
INNER JOIN auth.users AS account ON account.id = coalesce(renamed.here, usage.user_id)
ON CONFLICT (user_id, day, model) DO UPDATE
SET completed = greatest(total.completed, excluded.completed),
    failed = greatest(total.failed, excluded.failed),
    cancelled = greatest(total.cancelled, excluded.cancelled),
    token_used = greatest(total.token_used, excluded.token_used),
    token_count = greatest(total.token_count, excluded.token_count),
    input_tokens = greatest(total.input_tokens, excluded.input_tokens),
    cached_tokens = greatest(total.cached_tokens, excluded.cached_tokens),
    reasoning_tokens = greatest(total.reasoning_tokens, excluded.reasoning_tokens),
    unmetered = greatest(total.unmetered, excluded.unmetered),
    unpriced = greatest(total.unpriced, excluded.unpriced),
    cost_usd = greatest(total.cost_usd, excluded.cost_usd);
