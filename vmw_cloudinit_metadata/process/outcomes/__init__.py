"""The process that sends webhooks of how boots have ended."""
