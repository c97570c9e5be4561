"""Settings: where they come from, what their values mean, and who may write the files."""
