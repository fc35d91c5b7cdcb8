-- Text of running requests on its way to readers at other instances, where those cannot be reached by NOTIFY (behind a transaction
-- pooler). Unlogged: what a crash takes from it is asked for again.

CREATE UNLOGGED TABLE IF NOT EXISTS public.stream_relay (
    request_id uuid PRIMARY KEY,
    epoch integer NOT NULL,
    wanted_until timestamptz NOT NULL,
    runs jsonb NOT NULL DEFAULT '[]'
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);

ALTER TABLE public.stream_relay ENABLE ROW LEVEL SECURITY;

DO $$
DECLARE
    role_name name;
BEGIN
    REVOKE ALL ON public.stream_relay FROM PUBLIC;
    FOREACH role_name IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
        IF to_regrole(role_name) IS NOT NULL THEN
            EXECUTE format('REVOKE ALL ON public.stream_relay FROM %I', role_name);
        END IF;
    END LOOP;
END
$$;
