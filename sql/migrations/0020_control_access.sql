-- Revocations end credentials before they expire. Invites let people sign up. `sign_ups` counts the new accounts of an address.

-- The subject is a user or a session. `is_blocked`: all of its tokens and keys are void. `issued_before`: those of the user that
-- belong to no session and are older are void. A row may go when no token of its subject can be valid any more.
CREATE TABLE IF NOT EXISTS public.revocations (
    subject uuid PRIMARY KEY,
    is_blocked boolean NOT NULL DEFAULT false,
    issued_before timestamptz NOT NULL DEFAULT 'epoch',
    expires_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX IF NOT EXISTS idx_revocations_changed_at ON public.revocations (changed_at);

CREATE TABLE IF NOT EXISTS public.sign_ups (
    address text NOT NULL,
    day date NOT NULL,
    count integer NOT NULL,
    PRIMARY KEY (day, address)
);

ALTER TABLE public.revocations ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.sign_ups ENABLE ROW LEVEL SECURITY;

DO $$
DECLARE
    role_name name;
BEGIN
    REVOKE ALL ON public.revocations, public.sign_ups FROM PUBLIC;
    FOREACH role_name IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
        IF to_regrole(role_name) IS NOT NULL THEN
            EXECUTE format('REVOKE ALL ON public.revocations, public.sign_ups FROM %I', role_name);
        END IF;
    END LOOP;
END
$$;

-- With accounts of our own only: a session that ends, in whichever way, takes its access tokens with it.
DO $$
BEGIN
    IF to_regclass('auth.server_secrets') IS NULL THEN
        RETURN;
    END IF;

    -- When the last access token of the session expires. A version without this column issued tokens for an hour.
    ALTER TABLE auth.sessions ADD COLUMN IF NOT EXISTS tokens_until timestamptz;

    -- `code_hash` is the SHA-256 of the code. An invite is for one address and works once.
    CREATE TABLE IF NOT EXISTS auth.invites (
        email varchar(255) PRIMARY KEY,
        code_hash text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL
    );

    CREATE OR REPLACE FUNCTION auth.revoke_ended_sessions() RETURNS trigger
    LANGUAGE plpgsql
    AS $body$
    BEGIN
        -- One minute more, because the clocks of instances differ.
        INSERT INTO public.revocations (subject, is_blocked, expires_at)
        SELECT id, true, greatest(tokens_until, updated_at + interval '1 hour') + interval '1 minute'
        FROM ended
        WHERE greatest(tokens_until, updated_at + interval '1 hour') + interval '1 minute' > now()
        ON CONFLICT (subject) DO NOTHING;
        RETURN NULL;
    END
    $body$;

    CREATE OR REPLACE TRIGGER revoke_ended_sessions
    AFTER DELETE ON auth.sessions
    REFERENCING OLD TABLE AS ended
    FOR EACH STATEMENT EXECUTE FUNCTION auth.revoke_ended_sessions();
END
$$;
