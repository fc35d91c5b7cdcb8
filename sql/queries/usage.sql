-- columns: usage_totals
-- Sums of usage under the names of the API. The cost is NULL if no request of the group has a known one.
sum(usage.completed)::bigint AS completed,
sum(usage.failed)::bigint AS failed,
sum(usage.cancelled)::bigint AS cancelled,
sum(usage.input_tokens)::bigint AS input_tokens,
sum(usage.token_count)::bigint AS output_tokens,
sum(usage.cached_tokens)::bigint AS cached_tokens,
sum(usage.reasoning_tokens)::bigint AS reasoning_tokens,
sum(usage.token_used)::bigint AS total_tokens,
sum(usage.unmetered)::bigint AS unmetered,
sum(usage.unpriced)::bigint AS unpriced,
sum(usage.cost_usd) AS cost_usd

-- name: get_usage
-- Usage of one user from day $2 to day $3, by day where $4 and by model where $5; an unknown model is NULL. At most $6 rows.
SELECT
    CASE WHEN $4 THEN usage.day END AS day,
    CASE WHEN $5 THEN nullif(usage.model, '') END AS model,
    @usage_totals
FROM public.usage_daily AS usage
WHERE usage.user_id = $1 AND usage.day BETWEEN $2 AND $3
GROUP BY 1, 2
ORDER BY 1, 2
LIMIT $6;

-- name: report_usage
-- Usage from day $1 to day $2 of the account with e-mail $3, or of all accounts: by user where $4, by day where $5, by model where $6.
SELECT
    CASE WHEN $4 THEN coalesce(account.email, usage.user_id::text) END AS user,
    CASE WHEN $5 THEN usage.day END AS day,
    CASE WHEN $6 THEN nullif(usage.model, '') END AS model,
    @usage_totals
FROM public.usage_daily AS usage
LEFT JOIN auth.users AS account ON account.id = usage.user_id
WHERE usage.day BETWEEN $1 AND $2 AND ($3::text IS NULL OR account.email = $3)
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3;

-- name: has_account
-- One row if there is an account with this e-mail, also a suspended one.
SELECT id
FROM auth.users
WHERE email = $1
LIMIT 1;
