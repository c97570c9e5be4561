"""The network of an instance: the short form, and documents in cloud-init's own form. Pure."""
