"""User-data and vendor-data: their formats, and what cloud-init does not understand. Pure."""
