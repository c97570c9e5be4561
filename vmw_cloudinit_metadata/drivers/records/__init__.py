"""The records of a Store as a source: fetched, parsed, and valid until a change is told."""
