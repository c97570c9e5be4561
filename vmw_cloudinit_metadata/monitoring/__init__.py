"""What the server reports: log, audit log, counters, timings, happenings."""
