"""Settings: their sources, the meaning of their values, and who may write their files."""
