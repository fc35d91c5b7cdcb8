-- How the segments of a streamed answer followed each other, so that a stream can be resumed after its end from what was stored.
-- NULL for the usual order (reasoning, output, tool calls), which nearly all have: then it takes no room.

ALTER TABLE public.model_requests
    ADD COLUMN IF NOT EXISTS segments jsonb;
