"""Last good answers on disk (--last-good-dir): for VMs that boot while the data source is down."""
