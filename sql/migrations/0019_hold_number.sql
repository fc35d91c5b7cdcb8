-- Holds the number until the branch that owns it is merged.
SELECT 1;
