-- One row for each live server process. The instance holds the lease, not each row that it runs.

CREATE TABLE public.instances (
    id uuid PRIMARY KEY,
    lease_until timestamptz NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    host text NOT NULL,
    pid integer NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);

ALTER TABLE public.instances ENABLE ROW LEVEL SECURITY;
