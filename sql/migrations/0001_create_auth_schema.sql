-- Accounts of our own, with the names and types of Supabase Auth as far as they are used. Where Supabase (or anyone) has
-- put an auth schema already, nothing here is touched.

DO $$
BEGIN
    IF to_regclass('auth.users') IS NOT NULL OR to_regrole('supabase_auth_admin') IS NOT NULL THEN
        RETURN;
    END IF;

    CREATE SCHEMA IF NOT EXISTS auth;
    REVOKE ALL ON SCHEMA auth FROM PUBLIC;

    CREATE TABLE auth.users (
        instance_id uuid DEFAULT '00000000-0000-0000-0000-000000000000',
        id uuid PRIMARY KEY,
        aud varchar(255) NOT NULL DEFAULT 'authenticated',
        role varchar(255) NOT NULL DEFAULT 'authenticated',
        email varchar(255) NOT NULL,
        encrypted_password varchar(255) NOT NULL,
        email_confirmed_at timestamptz,
        confirmation_token varchar(255) NOT NULL DEFAULT '',
        recovery_token varchar(255) NOT NULL DEFAULT '',
        email_change_token_new varchar(255) NOT NULL DEFAULT '',
        email_change varchar(255) NOT NULL DEFAULT '',
        last_sign_in_at timestamptz,
        raw_app_meta_data jsonb NOT NULL DEFAULT '{"provider": "email", "providers": ["email"]}',
        raw_user_meta_data jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        banned_until timestamptz,
        is_sso_user boolean NOT NULL DEFAULT false,
        is_anonymous boolean NOT NULL DEFAULT false,
        deleted_at timestamptz
    );

    CREATE UNIQUE INDEX users_email_partial_key ON auth.users (email) WHERE is_sso_user = false;

    CREATE TABLE auth.sessions (
        id uuid PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        refreshed_at timestamp,
        not_after timestamptz,
        aal text NOT NULL DEFAULT 'aal1'
    );

    CREATE INDEX sessions_user_id_idx ON auth.sessions (user_id);

    -- `token` and `parent` hold the SHA-256 of a token, never the token.
    CREATE TABLE auth.refresh_tokens (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        token varchar(255) NOT NULL UNIQUE,
        user_id varchar(255) NOT NULL,
        session_id uuid NOT NULL REFERENCES auth.sessions (id) ON DELETE CASCADE,
        parent varchar(255),
        revoked boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()
    );

    CREATE INDEX refresh_tokens_session_id_idx ON auth.refresh_tokens (session_id);

    -- What every instance on this database has to agree on and nobody configured, such as the key that signs tokens.
    CREATE TABLE auth.server_secrets (
        name text PRIMARY KEY,
        value text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    );

    CREATE FUNCTION auth.jwt() RETURNS jsonb
    LANGUAGE sql STABLE
    AS $body$
        SELECT coalesce(
            nullif(current_setting('request.jwt.claim', true), ''),
            nullif(current_setting('request.jwt.claims', true), '')
        )::jsonb
    $body$;

    CREATE FUNCTION auth.uid() RETURNS uuid
    LANGUAGE sql STABLE
    AS $body$
        SELECT coalesce(
            nullif(current_setting('request.jwt.claim.sub', true), ''),
            nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
        )::uuid
    $body$;

    CREATE FUNCTION auth.role() RETURNS text
    LANGUAGE sql STABLE
    AS $body$
        SELECT coalesce(
            nullif(current_setting('request.jwt.claim.role', true), ''),
            nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
        )
    $body$;

    CREATE FUNCTION auth.email() RETURNS text
    LANGUAGE sql STABLE
    AS $body$
        SELECT coalesce(
            nullif(current_setting('request.jwt.claim.email', true), ''),
            nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'
        )
    $body$;
END
$$;
