"""What cloud-init makes of user-data and vendor-data. Pure."""
