-- name: find_migration_table
-- Whether the table of migrations exists.
SELECT to_regclass('public.schema_migrations') IS NOT NULL AS found;

-- name: create_migration_table
-- The applied migrations, with the checksums of their texts. The schema is named because search_path may say something else.
CREATE TABLE public.schema_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: hide_migration_table
-- On Supabase a table in public is served over HTTP. Row level security without a policy hides all rows from everyone but the owner.
ALTER TABLE public.schema_migrations ENABLE ROW LEVEL SECURITY;

-- name: lock_migration_table
-- Allow one runner at a time. The lock conflicts with itself and with writes, not with reads. It ends with the transaction, so it works through any pooler.
LOCK TABLE public.schema_migrations IN SHARE ROW EXCLUSIVE MODE;

-- name: limit_lock_wait
-- Limit how long a statement of this transaction waits for a lock. The value is text with its unit.
SELECT set_config('lock_timeout', $1, true);

-- name: list_applied_migrations
-- All applied migrations, in order.
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

-- name: list_missing_grants
-- The statements that give this user the privileges that migrations need and the user lacks.
SELECT format('GRANT CREATE ON DATABASE %I TO %I;', current_database(), current_user) AS statement
WHERE to_regnamespace('auth') IS NULL AND NOT has_database_privilege(current_database(), 'CREATE')
UNION ALL
SELECT format('GRANT USAGE, CREATE ON SCHEMA public TO %I;', current_user)
WHERE NOT has_schema_privilege('public', 'USAGE') OR NOT has_schema_privilege('public', 'CREATE');
