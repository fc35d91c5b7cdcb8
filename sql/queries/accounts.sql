-- name: create_user
-- Insert an account, signed in: with its first session and refresh token. No row comes back when the e-mail has an account.
WITH account AS (
    INSERT INTO auth.users (id, email, encrypted_password, email_confirmed_at, last_sign_in_at, raw_user_meta_data)
    VALUES ($1, $2, $3, now(), now(), $6)
    ON CONFLICT (email) WHERE is_sso_user = false DO NOTHING
    RETURNING id, email, created_at, last_sign_in_at, raw_user_meta_data
), session AS (
    INSERT INTO auth.sessions (id, user_id)
    SELECT $4, id
    FROM account
    RETURNING id, user_id
), token AS (
    INSERT INTO auth.refresh_tokens (token, user_id, session_id)
    SELECT $5, user_id::text, id
    FROM session
)
SELECT id, email, created_at, last_sign_in_at, raw_user_meta_data
FROM account;

-- name: find_user_by_email
-- The account of a normalised e-mail, with its password hash.
SELECT id, encrypted_password
FROM auth.users
WHERE email = $1
    AND is_sso_user = false
    AND deleted_at IS NULL
    AND (banned_until IS NULL OR banned_until < now());

-- name: get_user
-- The account behind a token.
SELECT id, email, created_at, last_sign_in_at
FROM auth.users
WHERE id = $1 AND deleted_at IS NULL;

-- name: open_session
-- Note the sign-in and start a session with its first refresh token. Nothing comes back when the account is gone.
WITH account AS (
    UPDATE auth.users
    SET last_sign_in_at = now()
    WHERE id = $2
    RETURNING id, email, created_at, last_sign_in_at, raw_user_meta_data
), session AS (
    INSERT INTO auth.sessions (id, user_id)
    SELECT $1, id
    FROM account
    RETURNING id, user_id
), token AS (
    INSERT INTO auth.refresh_tokens (token, user_id, session_id)
    SELECT $3, user_id::text, id
    FROM session
)
SELECT id, email, created_at, last_sign_in_at, raw_user_meta_data
FROM account;

-- name: rotate_refresh_token
-- Trade token $1 for its child $2. A token that was traded before is taken again for $3 seconds, because its answer may
-- have been lost. After that it is taken while no child of it was used: then the answer was certainly lost, and the unused
-- children are revoked. Any other reuse ends the whole session. The session is locked before its token, in the order in
-- which deleting an account or a session locks them.
WITH presented AS MATERIALIZED (
    SELECT token.id, token.token, token.session_id, token.revoked, token.updated_at, session.user_id
    FROM auth.refresh_tokens AS token
    INNER JOIN auth.sessions AS session ON session.id = token.session_id
    WHERE token.token = $1
        AND (session.not_after IS NULL OR session.not_after > now())
    FOR UPDATE OF session, token
), judged AS MATERIALIZED (
    SELECT *, NOT revoked OR updated_at > clock_timestamp() - make_interval(secs => $3) AS is_fresh
    FROM presented
), superseded AS (
    UPDATE auth.refresh_tokens AS child
    SET revoked = true, updated_at = clock_timestamp()
    FROM judged
    WHERE NOT judged.is_fresh
        AND child.session_id = judged.session_id
        AND child.parent = judged.token
        AND NOT child.revoked
        AND NOT EXISTS (
            SELECT
            FROM auth.refresh_tokens AS used
            INNER JOIN auth.refresh_tokens AS next ON next.session_id = used.session_id AND next.parent = used.token
            WHERE used.session_id = judged.session_id AND used.parent = judged.token
        )
    RETURNING child.id
), fresh AS (
    SELECT *
    FROM judged
    WHERE is_fresh OR EXISTS (SELECT FROM superseded)
), spent AS (
    UPDATE auth.refresh_tokens AS token
    SET revoked = true, updated_at = clock_timestamp()
    FROM fresh
    WHERE token.id = fresh.id AND NOT token.revoked
), refreshed AS (
    UPDATE auth.sessions AS session
    SET refreshed_at = now() AT TIME ZONE 'UTC', updated_at = now()
    FROM fresh
    WHERE session.id = fresh.session_id
), child AS (
    INSERT INTO auth.refresh_tokens (token, user_id, session_id, parent)
    SELECT $2, user_id::text, session_id, token
    FROM fresh
), reused AS (
    DELETE FROM auth.sessions AS session
    USING presented
    WHERE session.id = presented.session_id
        AND NOT EXISTS (SELECT FROM fresh)
)
SELECT account.id, account.email, account.created_at, account.last_sign_in_at, account.raw_user_meta_data, fresh.session_id
FROM fresh
INNER JOIN auth.users AS account ON account.id = fresh.user_id
WHERE account.deleted_at IS NULL AND (account.banned_until IS NULL OR account.banned_until < now());

-- name: close_session
-- End a session; its refresh tokens go with it.
DELETE FROM auth.sessions
WHERE id = $1 AND user_id = $2;

-- name: delete_user
-- Delete an account. Its rows in other tables go with it by foreign key.
DELETE FROM auth.users
WHERE id = $1
RETURNING id;

-- name: get_or_create_secret
-- Store a secret unless there is one. Returns the one that holds: the first, from any instance.
WITH proposed AS (
    INSERT INTO auth.server_secrets AS secret (name, value)
    VALUES ($1, $2)
    ON CONFLICT (name) DO UPDATE SET value = secret.value
    RETURNING value
)
SELECT value FROM proposed;

-- name: get_account
-- An account as a client of Supabase Auth sees it, and whether its session $2 is still open.
SELECT
    account.id, account.email, account.email_confirmed_at, account.last_sign_in_at, account.raw_app_meta_data,
    account.raw_user_meta_data, account.created_at, account.updated_at, account.encrypted_password,
    EXISTS (
        SELECT FROM auth.sessions AS session WHERE session.id = $2 AND session.user_id = account.id
    ) AS has_session
FROM auth.users AS account
WHERE account.id = $1 AND account.deleted_at IS NULL;

-- name: find_refresh_token
-- Whether a refresh token is known, and was traded already.
SELECT revoked
FROM auth.refresh_tokens
WHERE token = $1;

-- name: update_account
-- Change the values of account $1 that are not NULL. A new password ends all of its sessions except $5, and all of its API keys.
WITH account AS (
    UPDATE auth.users
    SET email = coalesce($2, email),
        encrypted_password = coalesce($3, encrypted_password),
        raw_user_meta_data = coalesce($4, raw_user_meta_data),
        updated_at = now()
    WHERE id = $1 AND deleted_at IS NULL
    RETURNING id
), ended AS (
    DELETE FROM auth.sessions AS session
    USING account
    WHERE session.user_id = account.id
        AND $3::text IS NOT NULL
        AND session.id IS DISTINCT FROM $5
), revoked AS (
    DELETE FROM public.api_keys AS key
    USING account
    WHERE key.user_id = account.id AND $3::text IS NOT NULL
)
SELECT id FROM account;

-- name: ended_sessions
-- Those of the sessions $1 that are not open any more.
SELECT asked.id
FROM unnest($1::uuid[]) AS asked (id)
WHERE NOT EXISTS (
    SELECT FROM auth.sessions AS session
    WHERE session.id = asked.id AND (session.not_after IS NULL OR session.not_after > now())
);

-- name: close_sessions
-- End sessions of account $1: session $2 ($3 = 'local'), all but it ('others'), or all of them ('global').
DELETE FROM auth.sessions
WHERE user_id = $1
    AND CASE $3::text WHEN 'local' THEN id = $2 WHEN 'others' THEN id <> $2 ELSE true END;

-- name: set_password
-- Set the password of the account with an e-mail, and end all its sessions and API keys. No row comes back where there is no
-- such account.
WITH account AS (
    UPDATE auth.users
    SET encrypted_password = $2, updated_at = now()
    WHERE email = $1 AND is_sso_user = false AND deleted_at IS NULL
    RETURNING id
), ended AS (
    DELETE FROM auth.sessions AS session
    USING account
    WHERE session.user_id = account.id
), revoked AS (
    DELETE FROM public.api_keys AS key
    USING account
    WHERE key.user_id = account.id
)
SELECT id FROM account;

-- name: replace_hash
-- The same password under another hash, unless it was changed meanwhile.
UPDATE auth.users
SET encrypted_password = $3
WHERE id = $1 AND encrypted_password = $2
RETURNING id;
