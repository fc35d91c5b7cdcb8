-- Idempotency keys, scoped to their user and kept for 24 hours. No foreign key to the request: a request may be deleted
-- while its key still has to answer.

CREATE TABLE public.idempotency_keys (
    user_id uuid NOT NULL,
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint bytea NOT NULL,
    request_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, key)
);

DO $$
BEGIN
    IF to_regclass('auth.users') IS NOT NULL THEN
        ALTER TABLE public.idempotency_keys
            ADD CONSTRAINT idempotency_keys_user_id_fkey
                FOREIGN KEY (user_id) REFERENCES auth.users (id) ON DELETE CASCADE;
    END IF;
END
$$;

ALTER TABLE public.idempotency_keys ENABLE ROW LEVEL SECURITY;
