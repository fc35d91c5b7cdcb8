-- clauses: user_revocations
-- Revokes the tokens without a session that the accounts in `renewed` were issued. Sessions revoke their own tokens when they are
-- deleted. No token is valid for longer than a day.
INSERT INTO public.revocations AS known (subject, issued_before, expires_at)
    SELECT id, now(), now() + interval '25 hours'
    FROM renewed
    ON CONFLICT (subject) DO UPDATE
    SET issued_before = excluded.issued_before,
        expires_at = greatest(known.expires_at, excluded.expires_at),
        changed_at = clock_timestamp()

-- clauses: user_blocks
-- Revokes everything of the accounts in `blocked`, until the time in `until`.
INSERT INTO public.revocations AS known (subject, is_blocked, expires_at)
    SELECT id, true, until
    FROM blocked
    ON CONFLICT (subject) DO UPDATE
    SET is_blocked = true, expires_at = excluded.expires_at, changed_at = clock_timestamp()

-- clauses: user_releases
-- Ends the block of the accounts in `restored`. The row stays until every instance has read it.
UPDATE public.revocations AS known
    SET is_blocked = false, expires_at = now() + interval '25 hours', changed_at = clock_timestamp()
    FROM restored
    WHERE known.subject = restored.id AND known.is_blocked

-- name: create_user
-- Insert an account, signed in: with its first session and refresh token, and access tokens for $7 seconds. No row comes back when
-- the e-mail has an account.
WITH account AS (
    INSERT INTO auth.users (id, email, encrypted_password, email_confirmed_at, last_sign_in_at, raw_user_meta_data)
    VALUES ($1, $2, $3, now(), now(), $6)
    ON CONFLICT (email) WHERE is_sso_user = false DO NOTHING
    RETURNING id, email, created_at, last_sign_in_at, raw_user_meta_data
), session AS (
    INSERT INTO auth.sessions (id, user_id, tokens_until)
    SELECT $4, id, now() + make_interval(secs => $7)
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
-- The account of a normalised e-mail, with its password hash, and whether it is suspended.
SELECT id, encrypted_password, coalesce(banned_until > now(), false) AS is_suspended
FROM auth.users
WHERE email = $1 AND is_sso_user = false AND deleted_at IS NULL;

-- name: get_user
-- The account behind a token.
SELECT id, email, created_at, last_sign_in_at
FROM auth.users
WHERE id = $1 AND deleted_at IS NULL;

-- name: open_session
-- Note the sign-in and start a session with its first refresh token, and access tokens for $4 seconds. Nothing comes back when the
-- account is gone or suspended.
WITH account AS (
    UPDATE auth.users
    SET last_sign_in_at = now()
    WHERE id = $2
        AND deleted_at IS NULL
        AND (banned_until IS NULL OR banned_until <= now())
    RETURNING id, email, created_at, last_sign_in_at, raw_user_meta_data
), session AS (
    INSERT INTO auth.sessions (id, user_id, tokens_until)
    SELECT $1, id, now() + make_interval(secs => $4)
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
-- children are revoked. Any other reuse ends the whole session (`is_fresh` is false). A suspended account gets no tokens and keeps
-- its session. The session is locked before its token, in the order in which deleting an account or a session locks them.
-- Access tokens of the session are then valid for up to $4 seconds.
WITH presented AS MATERIALIZED (
    SELECT
        token.id, token.token, token.session_id, token.revoked, token.updated_at, session.user_id,
        coalesce(account.banned_until > now(), false) AS is_suspended
    FROM auth.refresh_tokens AS token
    INNER JOIN auth.sessions AS session ON session.id = token.session_id
    INNER JOIN auth.users AS account ON account.id = session.user_id
    WHERE token.token = $1
        AND (session.not_after IS NULL OR session.not_after > now())
        AND account.deleted_at IS NULL
    FOR UPDATE OF session, token
), judged AS MATERIALIZED (
    SELECT *, NOT revoked OR updated_at > clock_timestamp() - make_interval(secs => $3) AS is_fresh
    FROM presented
), superseded AS (
    UPDATE auth.refresh_tokens AS child
    SET revoked = true, updated_at = clock_timestamp()
    FROM judged
    WHERE NOT judged.is_fresh
        AND NOT judged.is_suspended
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
    WHERE NOT is_suspended AND (is_fresh OR EXISTS (SELECT FROM superseded))
), spent AS (
    UPDATE auth.refresh_tokens AS token
    SET revoked = true, updated_at = clock_timestamp()
    FROM fresh
    WHERE token.id = fresh.id AND NOT token.revoked
), refreshed AS (
    UPDATE auth.sessions AS session
    SET refreshed_at = now() AT TIME ZONE 'UTC',
        updated_at = now(),
        tokens_until = greatest(session.tokens_until, now() + make_interval(secs => $4))
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
        AND NOT presented.is_suspended
        AND NOT EXISTS (SELECT FROM fresh)
)
SELECT
    account.id, account.email, account.created_at, account.last_sign_in_at, account.raw_user_meta_data, presented.session_id,
    presented.is_suspended, EXISTS (SELECT FROM fresh) AS is_fresh
FROM presented
INNER JOIN auth.users AS account ON account.id = presented.user_id;

-- name: close_session
-- End a session; its refresh tokens go with it.
DELETE FROM auth.sessions
WHERE id = $1 AND user_id = $2;

-- name: delete_user
-- Delete an account. Its rows in other tables go with it by foreign key.
WITH account AS (
    DELETE FROM auth.users
    WHERE id = $1
    RETURNING id
), blocked AS (
    SELECT id, now() + interval '25 hours' AS until
    FROM account
), revoked AS (
    @user_blocks
)
SELECT id FROM account;

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
), renewed AS (
    SELECT id
    FROM account
    WHERE $3::text IS NOT NULL
), ended AS (
    DELETE FROM auth.sessions AS session
    USING renewed
    WHERE session.user_id = renewed.id AND session.id IS DISTINCT FROM $5
), keys AS (
    DELETE FROM public.api_keys AS key
    USING renewed
    WHERE key.user_id = renewed.id
), revoked AS (
    @user_revocations
)
SELECT id FROM account;

-- name: close_sessions
-- End sessions of account $1: session $2 ($3 = 'local'), all but it ('others'), or all of them ('global').
WITH renewed AS (
    SELECT id
    FROM auth.users
    WHERE id = $1 AND $3::text = 'global'
), revoked AS (
    @user_revocations
)
DELETE FROM auth.sessions
WHERE user_id = $1
    AND CASE $3::text WHEN 'local' THEN id = $2 WHEN 'others' THEN id <> $2 ELSE true END;

-- name: set_password
-- Set the password of the account with an e-mail, and end all its sessions and API keys. No row comes back where there is no
-- such account.
WITH renewed AS (
    UPDATE auth.users
    SET encrypted_password = $2, updated_at = now()
    WHERE email = $1 AND is_sso_user = false AND deleted_at IS NULL
    RETURNING id
), ended AS (
    DELETE FROM auth.sessions AS session
    USING renewed
    WHERE session.user_id = renewed.id
), keys AS (
    DELETE FROM public.api_keys AS key
    USING renewed
    WHERE key.user_id = renewed.id
), revoked AS (
    @user_revocations
)
SELECT id FROM renewed;

-- name: replace_hash
-- The same password under another hash, unless it was changed meanwhile.
UPDATE auth.users
SET encrypted_password = $3
WHERE id = $1 AND encrypted_password = $2
RETURNING id;

-- name: block_subject
-- Revoke all credentials of a user, or those of a session, for $2 seconds.
WITH blocked AS (
    SELECT $1::uuid AS id, now() + make_interval(secs => $2) AS until
)
@user_blocks;

-- name: suspend_user
-- Suspend an account: it cannot sign in, and its tokens and keys are void until it is restored.
WITH account AS (
    UPDATE auth.users
    SET banned_until = now() + interval '100 years', updated_at = now()
    WHERE id = $1
    RETURNING id
), blocked AS (
    SELECT id, now() + interval '100 years' AS until
    FROM account
), revoked AS (
    @user_blocks
)
SELECT id FROM account;

-- name: restore_user
-- End the suspension of an account. Its sessions and keys are valid again.
WITH restored AS (
    UPDATE auth.users
    SET banned_until = NULL, updated_at = now()
    WHERE id = $1
    RETURNING id
), released AS (
    @user_releases
)
SELECT id FROM restored;

-- name: release_subject
-- End the block of a user whose account is elsewhere.
WITH restored AS (
    SELECT $1::uuid AS id
)
@user_releases;

-- name: find_invite
-- The invite of the address $1 with the code whose hash is $2, if it has not expired.
SELECT email
FROM auth.invites
WHERE email = $1 AND code_hash = $2 AND expires_at > now();

-- name: spend_invite
-- Delete the invite of an address that has an account now, and those that have expired.
DELETE FROM auth.invites
WHERE email = $1 OR expires_at < now();

-- name: count_sign_up
-- Count a sign-up from the address $1 today (UTC). No row comes back where there were $2 already.
INSERT INTO public.sign_ups AS known (address, day, count)
VALUES ($1, (now() AT TIME ZONE 'UTC')::date, 1)
ON CONFLICT (day, address) DO UPDATE
SET count = known.count + 1
WHERE known.count < $2
RETURNING count;

-- name: create_invite
-- Let the address $1 sign up within $3 seconds with the code whose hash is $2. No row comes back where it has an account.
INSERT INTO auth.invites (email, code_hash, expires_at)
SELECT $1::text, $2, now() + make_interval(secs => $3)
WHERE NOT EXISTS (SELECT FROM auth.users WHERE email = $1::text AND is_sso_user = false)
ON CONFLICT (email) DO UPDATE
SET code_hash = excluded.code_hash, created_at = now(), expires_at = excluded.expires_at
RETURNING expires_at;
