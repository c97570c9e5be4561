"""What operators learn: the log, the audit stream, counters, timings, happenings."""
