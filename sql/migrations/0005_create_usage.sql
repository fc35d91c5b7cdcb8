-- Usage per user and UTC day, written by whatever makes a row final, in the same transaction.

CREATE TABLE public.usage_daily (
    user_id uuid NOT NULL,
    day date NOT NULL,
    completed integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    cancelled integer NOT NULL DEFAULT 0,
    token_used bigint NOT NULL DEFAULT 0,
    token_count bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, day)
) WITH (fillfactor = 70);

DO $$
BEGIN
    IF to_regclass('auth.users') IS NOT NULL THEN
        ALTER TABLE public.usage_daily
            ADD CONSTRAINT usage_daily_user_id_fkey
                FOREIGN KEY (user_id) REFERENCES auth.users (id) ON DELETE CASCADE;
    END IF;
END
$$;

ALTER TABLE public.usage_daily ENABLE ROW LEVEL SECURITY;

CREATE POLICY usage_daily_owner_reads ON public.usage_daily
FOR SELECT USING (user_id = (SELECT auth.uid()));

-- One aggregated upsert per statement, in key order, so that two batches cannot lock each other's rows crosswise.
CREATE FUNCTION public.count_usage_of_final_model_requests() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO public.usage_daily AS total (user_id, day, completed, failed, cancelled, token_used, token_count)
    SELECT
        now_final.user_id,
        (now_final.completed_at AT TIME ZONE 'UTC')::date,
        count(*) FILTER (WHERE now_final.status = 'completed'),
        count(*) FILTER (WHERE now_final.status = 'failed'),
        count(*) FILTER (WHERE now_final.status = 'cancelled'),
        coalesce(sum(now_final.token_used), 0),
        coalesce(sum(now_final.token_count), 0)
    FROM new_rows AS now_final
    INNER JOIN old_rows AS before USING (id)
    WHERE now_final.status IN ('completed', 'failed', 'cancelled')
        AND before.status IN ('pending', 'processing')
        AND now_final.user_id IS NOT NULL
    GROUP BY 1, 2
    ORDER BY 1, 2
    ON CONFLICT (user_id, day) DO UPDATE
    SET completed = total.completed + excluded.completed,
        failed = total.failed + excluded.failed,
        cancelled = total.cancelled + excluded.cancelled,
        token_used = total.token_used + excluded.token_used,
        token_count = total.token_count + excluded.token_count;
    RETURN NULL;
END
$$;

CREATE TRIGGER final_model_requests_count_as_usage
AFTER UPDATE ON public.model_requests
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
FOR EACH STATEMENT
EXECUTE FUNCTION public.count_usage_of_final_model_requests();
