-- What the edge function calls when it is called directly: it runs a request in the place of a server, as an instance of its own
-- with one row, and is fenced as every server is.

-- The lease of a server is renewed every few seconds. That of the edge function lasts as long as a run can, and is nobody's to renew;
-- `host` says whose it is.
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

-- Whether the outcome was taken; false where the claim had lapsed. `pending` gives the row back, its attempt returned. Sent twice,
-- an outcome counts once and is true both times.
CREATE OR REPLACE FUNCTION public.edge_record(
    id uuid,
    epoch integer,
    status text,
    output_data jsonb DEFAULT NULL,
    error_msg text DEFAULT NULL,
    error_code text DEFAULT NULL,
    token_used integer DEFAULT NULL,
    token_count integer DEFAULT NULL,
    model text DEFAULT NULL
)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = ''
AS $$
DECLARE
    runner uuid;
    ends_as text := edge_record.status;
BEGIN
    IF ends_as IS NULL OR ends_as NOT IN ('completed', 'failed', 'pending') THEN
        RAISE EXCEPTION 'status must be completed, failed or pending' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT row.owner, CASE WHEN ends_as = 'pending' AND row.cancel_requested THEN 'cancelled' ELSE ends_as END
    INTO runner, ends_as
    FROM public.model_requests AS row
    INNER JOIN public.instances AS instance ON instance.id = row.owner
    WHERE row.id = edge_record.id
        AND row.epoch = edge_record.epoch
        AND row.status = 'processing'
        AND instance.host = 'edge function'
    FOR UPDATE OF row;
    IF runner IS NULL THEN
        RETURN EXISTS (
            SELECT FROM public.model_requests AS row
            WHERE row.id = edge_record.id
                AND row.epoch = edge_record.epoch
                AND edge_record.status <> 'pending'
                AND row.status = edge_record.status
                AND row.output_data IS NOT DISTINCT FROM edge_record.output_data
        );
    END IF;
    UPDATE public.model_requests AS row
    SET status = ends_as,
        completed_at = CASE WHEN ends_as <> 'pending' THEN clock_timestamp() END,
        owner = CASE WHEN ends_as <> 'pending' THEN row.owner END,
        attempt = CASE WHEN ends_as = 'pending' THEN greatest(row.attempt - 1, 0) ELSE row.attempt END,
        started_at = CASE WHEN ends_as <> 'pending' THEN row.started_at END,
        run_at = CASE
            WHEN ends_as = 'pending' THEN clock_timestamp() + make_interval(secs => 4 + 4 * random())
            ELSE row.run_at
        END,
        processing_time = CASE WHEN ends_as <> 'pending' THEN clock_timestamp() - row.started_at END,
        output_data = CASE WHEN ends_as <> 'pending' THEN edge_record.output_data END,
        error_msg = CASE WHEN ends_as <> 'cancelled' THEN edge_record.error_msg END,
        error_code = CASE WHEN ends_as <> 'cancelled' THEN edge_record.error_code END,
        token_used = edge_record.token_used,
        token_count = edge_record.token_count,
        model = coalesce(edge_record.model, row.model)
    WHERE row.id = edge_record.id;
    DELETE FROM public.instances AS instance WHERE instance.id = runner;
    RETURN true;
END
$$;

-- PostgREST offers every function that a role may call: these two are for holders of a secret key.
DO $$
DECLARE
    ours text;
    role_name name;
BEGIN
    FOREACH ours IN ARRAY ARRAY[
        'public.edge_claim(uuid, uuid)',
        'public.edge_record(uuid, integer, text, jsonb, text, text, integer, integer, text)'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', ours);
        FOREACH role_name IN ARRAY ARRAY['anon', 'authenticated'] LOOP
            IF to_regrole(role_name) IS NOT NULL THEN
                EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %I', ours, role_name);
            END IF;
        END LOOP;
        IF to_regrole('service_role') IS NOT NULL THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO service_role', ours);
        END IF;
    END LOOP;
END
$$;
