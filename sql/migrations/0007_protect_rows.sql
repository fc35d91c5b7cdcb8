-- Who may do what where others than this server come to the database: Supabase's roles, through its REST interface. Row level
-- security is on already; a TRUNCATE, say, does not ask it. Projects differ in what they grant on new tables by themselves, so
-- everything is taken away first, and what is meant is said. The server itself owns the tables and needs no grant.

DO $$
DECLARE
    ours name;
    role_name name;
BEGIN
    FOREACH ours IN ARRAY ARRAY['model_requests', 'usage_daily', 'idempotency_keys', 'instances', 'schema_migrations'] LOOP
        EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC', ours);
        FOREACH role_name IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
            IF to_regrole(role_name) IS NOT NULL THEN
                EXECUTE format('REVOKE ALL ON public.%I FROM %I', ours, role_name);
            END IF;
        END LOOP;
    END LOOP;
    IF to_regrole('authenticated') IS NOT NULL THEN
        GRANT SELECT ON public.model_requests, public.usage_daily TO authenticated;
    END IF;
    IF to_regrole('service_role') IS NOT NULL THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.model_requests, public.usage_daily TO service_role;
        GRANT SELECT ON public.idempotency_keys, public.instances TO service_role;
    END IF;
END
$$;
