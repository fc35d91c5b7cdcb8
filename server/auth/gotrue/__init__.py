"""The embedded accounts in the shapes of Supabase Auth (GoTrue), for its client libraries."""
