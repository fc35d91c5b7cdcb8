-- columns: user_columns
-- What operators see of an account.
account.id, account.email, account.created_at, account.last_sign_in_at,
    CASE
        WHEN account.banned_until > now() THEN 'suspended'
        WHEN account.email_confirmed_at IS NULL THEN 'unconfirmed'
        ELSE 'active'
    END AS status

-- name: list_users
-- Up to $1 accounts, the newest first.
SELECT @user_columns
FROM auth.users AS account
WHERE account.deleted_at IS NULL
ORDER BY account.created_at DESC, account.id
LIMIT $1;

-- name: find_user
-- The account with the id $1, or with one of the e-mails $2.
SELECT @user_columns
FROM auth.users AS account
WHERE account.deleted_at IS NULL
    AND (account.id = $1 OR (account.email = ANY ($2::text[]) AND NOT account.is_sso_user));

-- name: count_belongings
-- What an account has: requests, those that have not ended, and files with their size.
SELECT
    (SELECT count(*) FROM public.model_requests WHERE user_id = $1) AS requests,
    (SELECT count(*) FROM public.model_requests WHERE user_id = $1 AND status IN ('pending', 'processing')) AS unfinished,
    (SELECT count(*) FROM public.files WHERE user_id = $1 AND state IN ('stored', 'kept')) AS files,
    (SELECT coalesce(sum(size), 0)::bigint FROM public.files WHERE user_id = $1 AND state IN ('stored', 'kept')) AS file_bytes;
