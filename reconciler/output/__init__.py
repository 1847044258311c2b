"""What goes to standard output and standard error: tables, JSON, progress, log lines."""
