"""The store in etcd: instance data under a prefix of its keys."""
