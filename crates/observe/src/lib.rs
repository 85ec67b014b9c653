//! Logs, metrics and the table of metrics.
