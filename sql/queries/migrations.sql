-- name: find_migration_table
-- Whether the runner's table is there already.
SELECT to_regclass('public.schema_migrations') IS NOT NULL AS found;

-- name: create_migration_table
-- What was applied, with the checksum of its text. Schema public exists everywhere and is named, whatever search_path says.
CREATE TABLE public.schema_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: hide_migration_table
-- On Supabase a table in public is served over HTTP: with row level security and no policy nobody but its owner sees a row.
ALTER TABLE public.schema_migrations ENABLE ROW LEVEL SECURITY;

-- name: lock_migration_table
-- One runner at a time: conflicts with itself and with writes, not with reads. Ends with the transaction, so it works through any pooler.
LOCK TABLE public.schema_migrations IN SHARE ROW EXCLUSIVE MODE;

-- name: limit_lock_wait
-- How long a statement of this transaction waits for a lock, as text with its unit.
SELECT set_config('lock_timeout', $1, true);

-- name: list_applied_migrations
-- Everything applied so far, in order.
SELECT
    number,
    name,
    checksum,
    applied_at
FROM public.schema_migrations
ORDER BY number;

-- name: record_migration
-- Note a migration as applied, in the transaction that holds the lock.
INSERT INTO public.schema_migrations (number, name, checksum)
VALUES ($1, $2, $3);
