-- The provider's counts in full (OpenAI's field names), and the provider's error for programs: `status`, `code`, `param`,
-- `retry_after_s`. A server without these columns ignores them.

ALTER TABLE public.model_requests
    ADD COLUMN IF NOT EXISTS usage jsonb,
    ADD COLUMN IF NOT EXISTS upstream_error jsonb;
