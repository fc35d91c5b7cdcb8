-- Supabase Realtime, where it is there. Row changes go to those who subscribe to them, under row level security; and whoever
-- joins the private topic `requests:<own user id>` hears what the server broadcasts there.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_publication WHERE pubname = 'supabase_realtime' AND NOT puballtables)
        AND NOT EXISTS (
            SELECT FROM pg_publication_tables
            WHERE pubname = 'supabase_realtime' AND schemaname = 'public' AND tablename = 'model_requests'
        )
    THEN
        ALTER PUBLICATION supabase_realtime ADD TABLE public.model_requests;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'public.model_requests is not published: the publication supabase_realtime belongs to another role';
END
$$;

DO $$
BEGIN
    IF to_regclass('realtime.messages') IS NULL OR to_regprocedure('realtime.topic()') IS NULL THEN
        RETURN;
    END IF;
    DROP POLICY IF EXISTS model_requests_owner_listens ON realtime.messages;
    CREATE POLICY model_requests_owner_listens ON realtime.messages
    FOR SELECT TO authenticated
    USING (
        extension = 'broadcast'
        AND (SELECT realtime.topic()) = 'requests:' || (SELECT auth.uid())::text
    );
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'no policy on realtime.messages: this role may not make one, see docs/realtime.md';
END
$$;

-- Broadcast how these requests stand now, each to its user; the number of messages, or NULL where there is no Realtime. It is
-- called beside the writes, never in them: a message more or less must not cost a request anything.
CREATE OR REPLACE FUNCTION public.broadcast_model_requests(changed uuid[]) RETURNS integer
LANGUAGE plpgsql
SET search_path = ''
AS $$
DECLARE
    sent integer;
BEGIN
    IF to_regprocedure('realtime.send(jsonb,text,text,boolean)') IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM realtime.send(
        jsonb_build_object(
            'id', row.id, 'status', row.status, 'model_type', row.model_type, 'completed_at', row.completed_at
        ),
        'status',
        'requests:' || row.user_id,
        true
    )
    FROM public.model_requests AS row
    WHERE row.id = ANY (changed) AND row.user_id IS NOT NULL;
    GET DIAGNOSTICS sent = ROW_COUNT;
    RETURN sent;
END
$$;

DO $$
DECLARE
    role_name name;
BEGIN
    REVOKE ALL ON FUNCTION public.broadcast_model_requests(uuid[]) FROM PUBLIC;
    FOREACH role_name IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
        IF to_regrole(role_name) IS NOT NULL THEN
            EXECUTE format('REVOKE ALL ON FUNCTION public.broadcast_model_requests(uuid[]) FROM %I', role_name);
        END IF;
    END LOOP;
END
$$;
