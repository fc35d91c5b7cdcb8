-- name: is_supabase
-- Whose database this is: Supabase's Auth owns the accounts where its role exists.
SELECT to_regrole('supabase_auth_admin') IS NOT NULL AS is_supabase;

-- name: check_reads
-- One row, to see that the connection works.
SELECT 1 AS answer;
