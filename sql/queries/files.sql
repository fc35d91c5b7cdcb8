-- name: reserve_upload
-- Reserve $5 bytes for upload $1 of user $2 at instance $3. `room` is how many of $6 bytes are left (NULL is no limit): negative where
-- there is not enough, NULL where the upload is no longer expected. No row comes back where the account is gone.
SELECT public.reserve_upload($1, account.id, $3, $4, $5, $6) AS room
FROM auth.users AS account
WHERE account.id = $2 AND account.deleted_at IS NULL;

-- name: store_upload
-- Note that an upload is complete. A request has to use it within $3 seconds.
UPDATE public.files
SET state = 'stored', size = $2, due_at = clock_timestamp() + make_interval(secs => $3)
WHERE id = $1 AND request_id IS NULL AND state = 'arriving'
RETURNING content_type, size, created_at;

-- name: find_upload
-- An upload of this user.
SELECT id, user_id, content_type, size
FROM public.files
WHERE id = $1 AND user_id = $2 AND request_id IS NULL AND state IN ('stored', 'kept');

-- name: find_output
-- A file of the run that completed this user's request.
SELECT file.id, file.user_id, file.content_type, file.size
FROM public.files AS file
INNER JOIN public.model_requests AS request ON request.id = file.request_id
WHERE request.id = $1
    AND request.user_id = $2
    AND request.status = 'completed'
    AND file.epoch = request.epoch
    AND file.number = $3
    AND file.state IN ('stored', 'kept');

-- name: delete_upload
-- Delete an upload: false while a request uses it that is not final, NULL where this user has no such file.
SELECT public.delete_upload($1, $2) AS is_deleted;

-- name: attach_uploads
-- Which of the files $3 user $1 has. If it is all of them, request $2 uses them from now on. They are kept for $4 seconds at least.
WITH found AS MATERIALIZED (
    SELECT id, content_type
    FROM public.files
    WHERE id = ANY ($3::uuid[]) AND user_id = $1 AND request_id IS NULL AND state IN ('stored', 'kept')
    ORDER BY id
    FOR NO KEY UPDATE
), held AS (
    UPDATE public.files AS file
    SET state = 'stored', due_at = clock_timestamp() + make_interval(secs => $4)
    FROM found
    WHERE file.id = found.id AND (SELECT count(*) FROM found) = cardinality($3::uuid[])
    RETURNING file.id
), used AS (
    INSERT INTO public.file_uses (file_id, request_id)
    SELECT id, $2
    FROM held
    ON CONFLICT DO NOTHING
)
SELECT id, content_type FROM found;

-- name: detach_uploads
-- End the uses of a request that was not stored.
DELETE FROM public.file_uses AS use
WHERE use.request_id = $1
    AND NOT EXISTS (SELECT FROM public.model_requests AS request WHERE request.id = $1);

-- name: find_inputs
-- The uploads $2 of user $1 that exist.
SELECT id, user_id, content_type, size
FROM public.files
WHERE id = ANY ($2::uuid[]) AND user_id = $1 AND request_id IS NULL AND state IN ('stored', 'kept');

-- name: begin_output
-- Begin a file of a run. No row comes back when another run has the request now.
INSERT INTO public.files (id, user_id, request_id, epoch, number, content_type, due_at)
SELECT $1, request.user_id, request.id, request.epoch, $4, $5, clock_timestamp() + interval '60 seconds'
FROM public.model_requests AS request
WHERE request.id = $2 AND request.epoch = $3 AND request.status = 'processing'
RETURNING id;

-- name: store_outputs
-- Note that these files are complete, with their sizes.
WITH made AS MATERIALIZED (
    SELECT file.id, made.size
    FROM unnest($1::uuid[], $2::bigint[]) AS made (id, size)
    INNER JOIN public.files AS file ON file.id = made.id
    WHERE file.state IN ('arriving', 'stored')
    ORDER BY file.id
    FOR NO KEY UPDATE OF file
)
UPDATE public.files AS file
SET state = 'stored', size = made.size
FROM made
WHERE file.id = made.id
RETURNING file.id;

-- name: discard_files
-- Mark files for deletion. Those that come back are deleted by the collector, again where that has begun already; the others have no
-- row any more.
WITH unwanted AS MATERIALIZED (
    SELECT id FROM public.files WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE
)
UPDATE public.files AS file
SET state = 'deleting', due_at = clock_timestamp()
FROM unwanted
WHERE file.id = unwanted.id
RETURNING file.id;

-- name: discard_unused_uploads
-- Mark those of these uploads for deletion that no request uses or is about to use.
WITH unwanted AS MATERIALIZED (
    SELECT id
    FROM public.files
    WHERE id = ANY ($1::uuid[]) AND request_id IS NULL AND state IN ('stored', 'kept')
    ORDER BY id
    FOR NO KEY UPDATE
)
UPDATE public.files AS file
SET state = 'deleting', due_at = clock_timestamp()
FROM unwanted
WHERE file.id = unwanted.id AND NOT EXISTS (SELECT FROM public.file_uses AS use WHERE use.file_id = unwanted.id)
RETURNING file.id;

-- name: discard_files_of_user
-- Mark all files of a deleted account for deletion. Files of running requests follow when these end.
WITH theirs AS MATERIALIZED (
    SELECT id FROM public.files WHERE user_id = $1 AND state <> 'deleting' ORDER BY id FOR NO KEY UPDATE
)
UPDATE public.files AS file
SET state = 'deleting', due_at = clock_timestamp()
FROM theirs
WHERE file.id = theirs.id;

-- name: claim_due_files
-- Decide about up to $1 files that are due, and take those to be deleted for $2 seconds. An upload is expected here as long as it is in
-- $4, and elsewhere as long as its owner has a lease ($5 says whether this instance can tell). Owners $3 expect none: this instance and
-- those that are known to be dead. Files that stay as they are come up again in $6 seconds. Rows are read after they are locked.
WITH due AS MATERIALIZED (
    SELECT id, state, request_id, epoch, owner
    FROM public.files
    WHERE state <> 'kept' AND due_at <= clock_timestamp()
    ORDER BY due_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
), judged AS (
    SELECT
        due.id,
        CASE
            WHEN due.state = 'deleting' THEN 'deleting'
            WHEN due.request_id IS NOT NULL THEN CASE
                WHEN request.epoch IS DISTINCT FROM due.epoch THEN 'deleting'
                WHEN request.status = 'processing' THEN due.state
                WHEN request.status = 'completed' AND due.state = 'stored' THEN 'kept'
                ELSE 'deleting'
            END
            WHEN due.state = 'stored' THEN CASE public.use_of_file(due.id)
                WHEN 'unfinished' THEN 'kept'
                WHEN 'finished' THEN 'kept'
                WHEN 'expected' THEN 'stored'
                ELSE 'deleting'
            END
            WHEN due.id = ANY ($4::uuid[]) THEN 'arriving'
            WHEN due.owner = ANY ($3::uuid[]) THEN 'deleting'
            WHEN NOT $5 OR EXISTS (
                SELECT FROM public.instances AS instance
                WHERE instance.id = due.owner AND instance.lease_until > clock_timestamp() - interval '30 seconds'
            ) THEN 'arriving'
            ELSE 'deleting'
        END AS state
    FROM due
    LEFT JOIN public.model_requests AS request ON request.id = due.request_id
)
UPDATE public.files AS file
SET state = judged.state,
    due_at = clock_timestamp() + make_interval(secs => CASE judged.state WHEN 'deleting' THEN $2::float8 ELSE $6::float8 END)
FROM judged
WHERE file.id = judged.id
RETURNING file.id, file.user_id, file.content_type, file.state;

-- name: delete_files
-- Delete the rows of files whose objects are deleted, except files that were marked again meanwhile because more bytes came.
WITH gone AS MATERIALIZED (
    SELECT id
    FROM public.files
    WHERE id = ANY ($1::uuid[]) AND state = 'deleting' AND due_at > clock_timestamp()
    ORDER BY id
    FOR UPDATE
)
DELETE FROM public.files AS file
USING gone
WHERE file.id = gone.id;

-- name: recheck_files
-- Have up to $1 kept files without a user checked: requests can vanish in ways that no trigger sees, such as TRUNCATE.
WITH loose AS MATERIALIZED (
    SELECT file.id
    FROM public.files AS file
    WHERE file.state = 'kept'
        AND NOT EXISTS (SELECT FROM public.model_requests AS request WHERE request.id = file.request_id)
        AND NOT EXISTS (
            SELECT FROM public.file_uses AS use
            INNER JOIN public.model_requests AS request ON request.id = use.request_id
            WHERE use.file_id = file.id
        )
    LIMIT $1
    FOR UPDATE OF file SKIP LOCKED
)
UPDATE public.files AS file
SET state = 'stored', due_at = clock_timestamp()
FROM loose
WHERE file.id = loose.id
RETURNING file.id;

-- name: find_files
-- The files of these that have a row, with the parts of their keys.
SELECT id, user_id, content_type
FROM public.files
WHERE id = ANY ($1::uuid[]);
