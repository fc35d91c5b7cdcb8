-- The few pending rows that were running at two crashes or more are found without a look at the whole backlog. Rows that never saw
-- a crash are not in this index and cost it nothing.

CREATE INDEX idx_model_requests_suspects ON public.model_requests (attempt, created_at, id)
WHERE status = 'pending' AND attempt >= 2;
