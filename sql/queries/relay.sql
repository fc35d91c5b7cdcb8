-- name: request_transcripts
-- Request the transcripts of these runs for $3 seconds, and read what their owners stored so far.
WITH wanted AS (
    SELECT * FROM unnest($1::uuid[], $2::integer[]) AS wanted (request_id, epoch) ORDER BY request_id
)
INSERT INTO public.stream_relay AS relay (request_id, epoch, wanted_until)
SELECT request_id, epoch, clock_timestamp() + make_interval(secs => $3)
FROM wanted
ON CONFLICT (request_id) DO UPDATE
SET epoch = excluded.epoch,
    wanted_until = excluded.wanted_until,
    runs = CASE WHEN relay.epoch = excluded.epoch THEN relay.runs ELSE '[]' END
RETURNING request_id, epoch, runs;

-- name: list_requested_transcripts
-- Which of the runs here ($1, $2) have a requested transcript.
SELECT relay.request_id, relay.epoch
FROM unnest($1::uuid[], $2::integer[]) AS run (request_id, epoch)
INNER JOIN public.stream_relay AS relay USING (request_id, epoch)
WHERE relay.wanted_until > clock_timestamp();

-- name: store_transcripts
-- Store the transcripts of runs here.
UPDATE public.stream_relay AS relay
SET runs = run.runs
FROM unnest($1::uuid[], $2::integer[], $3::jsonb[]) AS run (request_id, epoch, runs)
WHERE relay.request_id = run.request_id AND relay.epoch = run.epoch;

-- name: purge_transcripts
-- Delete transcripts whose request ended a minute ago.
DELETE FROM public.stream_relay
WHERE wanted_until < clock_timestamp() - interval '1 minute';
