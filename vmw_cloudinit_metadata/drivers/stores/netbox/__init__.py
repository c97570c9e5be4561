"""NetBox as a store: a mirror of its virtual machines, kept up to date by webhooks and reading."""
