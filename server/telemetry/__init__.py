"""The log, the counters behind the metrics, and the trace of a caller."""
