-- Where each instance keeps files: a bucket, or a folder by an id that lies in it. Instances whose stores differ cannot read each other's
-- files, and learn of it by their heartbeats. NULL: not known, as of an instance of an earlier version.

ALTER TABLE public.instances ADD COLUMN IF NOT EXISTS file_store text;
