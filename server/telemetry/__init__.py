"""What the server tells its operator: the log, the counts behind the metrics, and the trace of a caller."""
