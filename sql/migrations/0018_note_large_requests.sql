-- The bytes of input and parameters, where they are more than 64 KiB: an instance claims only as many as it has memory for.
-- Null for other rows, and for those of a server without this column.

ALTER TABLE public.model_requests
    ADD COLUMN IF NOT EXISTS large_bytes integer;
