-- migrate: no-transaction
-- The pending requests whose start was put off, because their user was beyond the rate: they are counted apart from those that are
-- due. A request that starts at once, or was started before, is not in this index and costs it nothing.

DROP INDEX CONCURRENTLY IF EXISTS public.idx_model_requests_put_off;

CREATE INDEX CONCURRENTLY idx_model_requests_put_off ON public.model_requests (user_id, run_at)
WHERE status = 'pending' AND epoch = 0 AND run_at > created_at;
