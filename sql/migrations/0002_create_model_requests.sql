-- The table of model requests. Deployments of the earlier server have it already: names and types are kept, columns and
-- constraints are added, and the two indexes are laid anew under their old names.

CREATE TABLE IF NOT EXISTS public.model_requests (
    id uuid PRIMARY KEY,
    created_at timestamptz DEFAULT now(),
    completed_at timestamptz,
    user_id uuid,
    status text,
    input_data jsonb,
    output_data jsonb,
    error_msg text,
    token_used integer,
    token_count integer,
    processing_time interval,
    model_type text
);

ALTER TABLE public.model_requests
    ADD COLUMN IF NOT EXISTS model text,
    ADD COLUMN IF NOT EXISTS parameters jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS error_code text,
    ADD COLUMN IF NOT EXISTS owner uuid,
    ADD COLUMN IF NOT EXISTS epoch integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS attempt integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS started_at timestamptz,
    ADD COLUMN IF NOT EXISTS run_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS deadline_at timestamptz NOT NULL DEFAULT now() + interval '10 minutes',
    ADD COLUMN IF NOT EXISTS cancel_requested boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS priority smallint NOT NULL DEFAULT 0;

-- NOT VALID: rows of the earlier server are taken as they are, new ones are checked.
ALTER TABLE public.model_requests
    ADD CONSTRAINT model_requests_status_known
        CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')) NOT VALID,
    ADD CONSTRAINT model_requests_running_is_owned
        CHECK (status <> 'processing' OR owner IS NOT NULL) NOT VALID,
    ADD CONSTRAINT model_requests_final_is_dated
        CHECK ((status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)) NOT VALID;

-- An account takes its requests with it. Whatever key to auth.users an earlier server left is replaced by that one.
DO $$
DECLARE
    old_key name;
BEGIN
    IF to_regclass('auth.users') IS NULL THEN
        RETURN;
    END IF;
    FOR old_key IN
        SELECT conname
        FROM pg_constraint
        WHERE conrelid = 'public.model_requests'::regclass
            AND confrelid = to_regclass('auth.users')
            AND contype = 'f'
    LOOP
        EXECUTE format('ALTER TABLE public.model_requests DROP CONSTRAINT %I', old_key);
    END LOOP;
    ALTER TABLE public.model_requests
        ADD CONSTRAINT model_requests_user_id_fkey
            FOREIGN KEY (user_id) REFERENCES auth.users (id) ON DELETE CASCADE;
END
$$;

-- A row that an earlier server left unfinished has no owner who could finish it: it is run again.
UPDATE public.model_requests
SET status = 'pending'
WHERE status = 'processing' AND owner IS NULL;

-- Ids are in order of time from here on (UUIDv7), and the history is read in their order. Those of an earlier server are
-- random: each is made anew from the time of its row. Its API never took an id, so nobody holds one.
UPDATE public.model_requests
SET id = (
    lpad(to_hex((extract(epoch FROM coalesce(created_at, completed_at, to_timestamp(0))) * 1000)::bigint), 12, '0')
    || '7' || substr(md5(id::text), 1, 3)
    || '8' || substr(md5(id::text), 4, 15)
)::uuid
WHERE substr(id::text, 15, 1) <> '7';

DROP INDEX IF EXISTS public.idx_model_requests_user_id;
DROP INDEX IF EXISTS public.idx_model_requests_status;

-- Few indexes: each one costs write-ahead log on every request. History pages use the first (id order is time order);
-- claims, rescues, expiry and queue positions use the second, which holds live rows only.
CREATE INDEX idx_model_requests_user_id ON public.model_requests (user_id, id DESC);

CREATE INDEX idx_model_requests_status ON public.model_requests (status, user_id, id)
WHERE status IN ('pending', 'processing');

-- The last line of defence of "exactly one outcome". WHEN keeps it free of cost for every other update.
CREATE FUNCTION public.refuse_change_of_final_model_request() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'model request % is final (%) and cannot change', OLD.id, OLD.status
        USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER final_model_request_is_immutable
BEFORE UPDATE ON public.model_requests
FOR EACH ROW
WHEN (OLD.status IN ('completed', 'failed', 'cancelled') AND OLD IS DISTINCT FROM NEW)
EXECUTE FUNCTION public.refuse_change_of_final_model_request();

ALTER TABLE public.model_requests ENABLE ROW LEVEL SECURITY;

CREATE POLICY model_requests_owner_reads ON public.model_requests
FOR SELECT USING (user_id = (SELECT auth.uid()));
