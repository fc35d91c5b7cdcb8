-- API keys: a program acts as the user of its key, within the scopes of the key. Only the SHA-256 of a key is stored. A key goes with
-- its user, and a revoked key is a deleted row. The expired keys of a user are deleted when the next one is created.

CREATE TABLE IF NOT EXISTS public.api_keys (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    hash bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    prefix text NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    requests_per_minute integer CHECK (requests_per_minute > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    last_used_at timestamptz
) WITH (fillfactor = 90);

CREATE INDEX IF NOT EXISTS idx_api_keys_user_id ON public.api_keys (user_id);

DO $$
BEGIN
    IF to_regclass('auth.users') IS NOT NULL
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'api_keys_user_id_fkey')
    THEN
        ALTER TABLE public.api_keys
            ADD CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users (id) ON DELETE CASCADE;
    END IF;
END
$$;

-- Insert a key. No row comes back where the user has `max_keys` of them. One create at a time for each user: the count is read by a
-- statement of its own after the lock was got, so that it includes the keys of all creates before.
CREATE OR REPLACE FUNCTION public.create_api_key(
    id uuid, user_id uuid, hash bytea, prefix text, name text, scopes text[], requests_per_minute integer,
    expires_in_s double precision, max_keys integer
)
RETURNS SETOF public.api_keys
LANGUAGE plpgsql
SET search_path = ''
AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(create_api_key.user_id::text, 19));
    DELETE FROM public.api_keys AS key
    WHERE key.user_id = create_api_key.user_id AND key.expires_at <= now();
    IF (SELECT count(*) FROM public.api_keys AS key WHERE key.user_id = create_api_key.user_id) >= max_keys THEN
        RETURN;
    END IF;
    RETURN QUERY
    INSERT INTO public.api_keys AS key (id, user_id, hash, prefix, name, scopes, requests_per_minute, expires_at)
    VALUES (
        create_api_key.id, create_api_key.user_id, create_api_key.hash, create_api_key.prefix, create_api_key.name,
        create_api_key.scopes, create_api_key.requests_per_minute, now() + make_interval(secs => expires_in_s)
    )
    RETURNING key.*;
END
$$;

ALTER TABLE public.api_keys ENABLE ROW LEVEL SECURITY;

-- As 0007 does for the tables before these: only the server reads and writes keys, and calls the function.
DO $$
DECLARE
    role_name name;
BEGIN
    REVOKE ALL ON public.api_keys FROM PUBLIC;
    REVOKE ALL ON FUNCTION public.create_api_key FROM PUBLIC;
    FOREACH role_name IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
        IF to_regrole(role_name) IS NOT NULL THEN
            EXECUTE format('REVOKE ALL ON public.api_keys FROM %I', role_name);
            EXECUTE format('REVOKE ALL ON FUNCTION public.create_api_key FROM %I', role_name);
        END IF;
    END LOOP;
END
$$;
