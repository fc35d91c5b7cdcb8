-- name: is_supabase
-- Whether this is the database of a Supabase project: its role owns the accounts.
SELECT to_regrole('supabase_auth_admin') IS NOT NULL AS is_supabase;

-- name: check_reads
-- One row, to see that the connection works.
SELECT 1 AS answer;
