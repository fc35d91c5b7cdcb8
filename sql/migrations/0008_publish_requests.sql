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
