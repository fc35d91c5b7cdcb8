-- heals: 0009_create_edge_functions 82b03f6549618d78c1720565805f255f47ee0267d592a1262ea5e0e743610ec5
-- That was its first text, which claimed in a single statement and could claim a row twice. Where it was applied, this is what
-- replaces it; elsewhere it changes nothing.

CREATE OR REPLACE FUNCTION public.edge_claim(id uuid, user_id uuid DEFAULT NULL)
RETURNS TABLE (
    epoch integer, model text, model_type text, input_data jsonb, parameters jsonb, deadline_s double precision
)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = ''
AS $$
DECLARE
    runner uuid := gen_random_uuid();
BEGIN
    -- A statement of its own, so that the next one sees who owned the row at the moment it was locked: with one statement, a row that
    -- was claimed since its snapshot would be read anew while its claimer's lease is still out of sight, and be claimed twice.
    PERFORM FROM public.model_requests AS row WHERE row.id = edge_claim.id FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
    UPDATE public.model_requests AS row
    SET status = 'processing',
        owner = runner,
        epoch = row.epoch + 1,
        attempt = row.attempt + 1,
        started_at = clock_timestamp()
    WHERE row.id = edge_claim.id
        AND (edge_claim.user_id IS NULL OR row.user_id = edge_claim.user_id)
        AND NOT row.cancel_requested
        AND row.deadline_at > clock_timestamp()
        AND (
            row.status = 'pending'
            OR (
                row.status = 'processing'
                AND pg_catalog.pg_postmaster_start_time() < clock_timestamp() - interval '15 seconds'
                AND NOT EXISTS (
                    SELECT FROM public.instances AS instance
                    WHERE instance.id = row.owner AND instance.lease_until > clock_timestamp()
                )
            )
        )
    RETURNING
        row.epoch, row.model, row.model_type, row.input_data, row.parameters,
        extract(epoch FROM row.deadline_at - clock_timestamp())::double precision;
    IF FOUND THEN
        INSERT INTO public.instances (id, lease_until, host, pid)
        VALUES (runner, clock_timestamp() + interval '180 seconds', 'edge function', 0);
    END IF;
END
$$;
