-- Usage per user, UTC day and model, with the kinds of tokens and the cost. Each total is the sum of one field over the requests
-- that ended on that day. A server without these columns keeps writing: the trigger counts what its rows have.

-- First of all, because its lock waits for statements that are about to run the trigger. None runs the old one on the new table.
ALTER TABLE public.model_requests
    ADD COLUMN IF NOT EXISTS cost_usd numeric;

-- An empty model is unknown: usage from before this migration, and requests for which upstream chose the model and did not name it.
-- `unmetered` are requests with an answer, whole or partial, that upstream did not count; `unpriced` those whose cost is unknown.
ALTER TABLE public.usage_daily
    ADD COLUMN IF NOT EXISTS model text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS input_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS cached_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS reasoning_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS unmetered integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS unpriced integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS cost_usd numeric,
    DROP CONSTRAINT usage_daily_pkey,
    ADD PRIMARY KEY (user_id, day, model);

-- Until now only the total and the generated tokens were added up: the rest of the total is the input.
UPDATE public.usage_daily
SET input_tokens = greatest(token_used - token_count, 0),
    unpriced = completed;

CREATE OR REPLACE FUNCTION public.count_usage_of_final_model_requests() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO public.usage_daily AS total (
        user_id, day, model, completed, failed, cancelled, token_used, token_count,
        input_tokens, cached_tokens, reasoning_tokens, unmetered, unpriced, cost_usd
    )
    SELECT
        now_final.user_id,
        (now_final.completed_at AT TIME ZONE 'UTC')::date,
        coalesce(now_final.model, ''),
        count(*) FILTER (WHERE now_final.status = 'completed'),
        count(*) FILTER (WHERE now_final.status = 'failed'),
        count(*) FILTER (WHERE now_final.status = 'cancelled'),
        coalesce(sum(now_final.token_used), 0),
        coalesce(sum(now_final.token_count), 0),
        coalesce(sum(coalesce(
            (now_final.usage ->> 'prompt_tokens')::bigint, now_final.token_used - now_final.token_count
        )), 0),
        coalesce(sum((now_final.usage #>> '{prompt_tokens_details,cached_tokens}')::bigint), 0),
        coalesce(sum((now_final.usage #>> '{completion_tokens_details,reasoning_tokens}')::bigint), 0),
        count(*) FILTER (
            WHERE now_final.output_data IS NOT NULL
                AND now_final.usage IS NULL AND now_final.token_used IS NULL AND now_final.token_count IS NULL
        ),
        count(*) FILTER (WHERE now_final.output_data IS NOT NULL AND now_final.cost_usd IS NULL),
        sum(now_final.cost_usd)
    FROM new_rows AS now_final
    INNER JOIN old_rows AS before USING (id)
    WHERE now_final.status IN ('completed', 'failed', 'cancelled')
        AND before.status IN ('pending', 'processing')
        AND now_final.user_id IS NOT NULL
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3
    ON CONFLICT (user_id, day, model) DO UPDATE
    SET completed = total.completed + excluded.completed,
        failed = total.failed + excluded.failed,
        cancelled = total.cancelled + excluded.cancelled,
        token_used = total.token_used + excluded.token_used,
        token_count = total.token_count + excluded.token_count,
        input_tokens = total.input_tokens + excluded.input_tokens,
        cached_tokens = total.cached_tokens + excluded.cached_tokens,
        reasoning_tokens = total.reasoning_tokens + excluded.reasoning_tokens,
        unmetered = total.unmetered + excluded.unmetered,
        unpriced = total.unpriced + excluded.unpriced,
        cost_usd = coalesce(total.cost_usd + excluded.cost_usd, total.cost_usd, excluded.cost_usd);
    RETURN NULL;
END
$$;

-- Rate limits that hold over all instances: one bucket for each user (GCRA). It is full again at `full_at`; a row in the past is worth
-- as much as none. `granted` is how many calls the last loan gave to an instance. Unlogged: a crash of Postgres fills the buckets.
CREATE UNLOGGED TABLE IF NOT EXISTS public.rate_buckets (
    user_id uuid PRIMARY KEY,
    full_at timestamptz NOT NULL,
    granted integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

ALTER TABLE public.rate_buckets ENABLE ROW LEVEL SECURITY;

DO $$
DECLARE
    role_name name;
BEGIN
    REVOKE ALL ON public.rate_buckets FROM PUBLIC;
    FOREACH role_name IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
        IF to_regrole(role_name) IS NOT NULL THEN
            EXECUTE format('REVOKE ALL ON public.rate_buckets FROM %I', role_name);
        END IF;
    END LOOP;
END
$$;
