"""The admin port: health, metrics, and who booted."""
