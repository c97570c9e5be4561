"""The network of an instance: the short form, and cloud-init's own (native) documents. Pure."""
