-- Files in the store: one row for each object, there before its bytes are put and until they are gone. No row goes by a foreign key:
-- who is forgotten leaves rows behind that say what is still to be deleted.
--
-- `arriving`: bytes may be on their way; `size` is what is set aside for them. `stored`: they are there, and what becomes of them is
-- decided at `due_at`. `kept`: a request holds them, and takes them with it. `deleting`: nobody sees them any more.
--
-- Who locks several files locks them in the order of their ids, before anything else of theirs, and in one statement; or it skips those
-- that are locked. So nobody deadlocks: the deletion of a request or of an account has nobody who would try it again.

CREATE TABLE IF NOT EXISTS public.files (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    -- Set for what a request made (in which claim, and as which of its files), NULL for what its user uploaded.
    request_id uuid,
    epoch integer,
    number smallint,
    content_type text NOT NULL,
    size bigint NOT NULL DEFAULT 0 CHECK (size >= 0),
    state text NOT NULL DEFAULT 'arriving' CHECK (state IN ('arriving', 'stored', 'kept', 'deleting')),
    -- The instance that an upload arrives at: when its lease is gone, nobody takes the bytes in any more.
    owner uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT files_made_by_a_run CHECK (num_nulls(request_id, epoch, number) IN (0, 3))
);

-- What a user keeps; what a run made; what is to be looked at next. Rows that are kept are not in the last one.
CREATE INDEX IF NOT EXISTS idx_files_uploads ON public.files (user_id) WHERE request_id IS NULL;

CREATE UNIQUE INDEX IF NOT EXISTS idx_files_outputs ON public.files (request_id, epoch, number)
WHERE request_id IS NOT NULL AND state <> 'deleting';

CREATE INDEX IF NOT EXISTS idx_files_due ON public.files (due_at) WHERE state <> 'kept';

-- Which requests an upload is an input of. A use is recorded before its request is: no foreign key to that one.
CREATE TABLE IF NOT EXISTS public.file_uses (
    file_id uuid NOT NULL REFERENCES public.files (id) ON DELETE CASCADE,
    request_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (file_id, request_id)
);

CREATE INDEX IF NOT EXISTS idx_file_uses_request_id ON public.file_uses (request_id);

-- Set `size` bytes aside for an upload, or change how many: how many more this user may still keep after that, negative where there
-- was no room and nothing was changed, NULL where the upload is not awaited any more. One at a time for each user: the sum is read by
-- a statement of its own after the lock was got, so that it knows of everybody who had it before.
CREATE OR REPLACE FUNCTION public.reserve_upload(
    id uuid, user_id uuid, owner uuid, content_type text, size bigint, quota bigint
)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = ''
AS $$
DECLARE
    room bigint;
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(reserve_upload.user_id::text, 10));
    SELECT reserve_upload.quota - coalesce(sum(file.size), 0) - reserve_upload.size
    INTO room
    FROM public.files AS file
    WHERE file.user_id = reserve_upload.user_id
        AND file.request_id IS NULL
        AND file.state <> 'deleting'
        AND file.id <> reserve_upload.id;
    IF room < 0 THEN
        RETURN room;
    END IF;
    INSERT INTO public.files AS file (id, user_id, owner, content_type, size, due_at)
    VALUES (
        reserve_upload.id, reserve_upload.user_id, reserve_upload.owner, reserve_upload.content_type, reserve_upload.size,
        clock_timestamp() + interval '30 seconds'
    )
    ON CONFLICT ON CONSTRAINT files_pkey DO UPDATE
    SET size = excluded.size
    WHERE file.state = 'arriving';
    RETURN CASE WHEN FOUND THEN coalesce(room, 0) END;
END
$$;

-- How a file is used: by a request that is not final ('unfinished'), by one that may still be on its way in ('expected'), only by final
-- ones ('finished'), or by none that counts (NULL).
CREATE OR REPLACE FUNCTION public.use_of_file(file_id uuid) RETURNS text
LANGUAGE sql STABLE
SET search_path = ''
AS $$
    SELECT CASE
        WHEN bool_or(request.status IN ('pending', 'processing')) THEN 'unfinished'
        WHEN bool_or(request.id IS NULL AND use.created_at > clock_timestamp() - interval '15 minutes') THEN 'expected'
        WHEN bool_or(request.id IS NOT NULL) THEN 'finished'
    END
    FROM public.file_uses AS use
    LEFT JOIN public.model_requests AS request ON request.id = use.request_id
    WHERE use.file_id = use_of_file.file_id
$$;

-- Delete an upload: false while a request that is not final uses it, NULL where this user has no such file. The row is locked before its
-- uses are looked at: a use that was recorded meanwhile is seen.
CREATE OR REPLACE FUNCTION public.delete_upload(id uuid, user_id uuid) RETURNS boolean
LANGUAGE plpgsql
SET search_path = ''
AS $$
BEGIN
    PERFORM FROM public.files AS file
    WHERE file.id = delete_upload.id
        AND file.user_id = delete_upload.user_id
        AND file.request_id IS NULL
        AND file.state IN ('stored', 'kept')
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE public.files AS file
    SET state = 'deleting', due_at = clock_timestamp()
    WHERE file.id = delete_upload.id
        AND coalesce(public.use_of_file(file.id), 'finished') = 'finished';
    RETURN FOUND;
END
$$;

-- Whatever deletes a request (its user, their account, the retention) deletes what it made, and what only it used; what others use is
-- looked at again. Files are locked before their uses go: of two requests that go at once, the second one sees that it is the last.
CREATE OR REPLACE FUNCTION public.forget_files_of_deleted_model_requests() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = ''
AS $$
DECLARE
    theirs uuid[];
BEGIN
    SELECT array_agg(locked.id)
    INTO theirs
    FROM (
        SELECT file.id
        FROM public.files AS file
        WHERE file.id IN (
            SELECT use.file_id FROM public.file_uses AS use INNER JOIN old_rows ON old_rows.id = use.request_id
            UNION ALL
            SELECT made.id
            FROM public.files AS made
            INNER JOIN old_rows ON old_rows.id = made.request_id
            WHERE made.state <> 'deleting'
        )
        ORDER BY file.id
        FOR NO KEY UPDATE
    ) AS locked;
    DELETE FROM public.file_uses AS use USING old_rows WHERE use.request_id = old_rows.id;
    UPDATE public.files AS file
    SET state = CASE WHEN still.use IS NULL THEN 'deleting' ELSE 'stored' END,
        due_at = clock_timestamp() + CASE WHEN still.use IS NULL THEN interval '0' ELSE interval '20 minutes' END
    FROM (SELECT id, public.use_of_file(id) AS use FROM unnest(theirs) AS id) AS still
    WHERE file.id = still.id AND file.state <> 'deleting';
    RETURN NULL;
END
$$;

DROP TRIGGER IF EXISTS deleted_model_requests_forget_files ON public.model_requests;

CREATE TRIGGER deleted_model_requests_forget_files
AFTER DELETE ON public.model_requests
REFERENCING OLD TABLE AS old_rows
FOR EACH STATEMENT
EXECUTE FUNCTION public.forget_files_of_deleted_model_requests();

ALTER TABLE public.files ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.file_uses ENABLE ROW LEVEL SECURITY;

DROP POLICY IF EXISTS files_owner_reads ON public.files;

CREATE POLICY files_owner_reads ON public.files
FOR SELECT USING (user_id = (SELECT auth.uid()));

-- As 0007 does for the tables before these; and nobody but the server calls its functions.
DO $$
DECLARE
    ours text;
    role_name name;
BEGIN
    REVOKE ALL ON public.files, public.file_uses FROM PUBLIC;
    FOREACH role_name IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
        IF to_regrole(role_name) IS NOT NULL THEN
            EXECUTE format('REVOKE ALL ON public.files, public.file_uses FROM %I', role_name);
        END IF;
    END LOOP;
    FOREACH ours IN ARRAY ARRAY[
        'public.reserve_upload(uuid, uuid, uuid, text, bigint, bigint)',
        'public.use_of_file(uuid)',
        'public.delete_upload(uuid, uuid)',
        'public.forget_files_of_deleted_model_requests()'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', ours);
        FOREACH role_name IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
            IF to_regrole(role_name) IS NOT NULL THEN
                EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %I', ours, role_name);
            END IF;
        END LOOP;
    END LOOP;
    IF to_regrole('authenticated') IS NOT NULL THEN
        GRANT SELECT ON public.files TO authenticated;
    END IF;
    IF to_regrole('service_role') IS NOT NULL THEN
        GRANT SELECT ON public.files, public.file_uses TO service_role;
    END IF;
END
$$;
