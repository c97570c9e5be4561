"""What a load test found, as one HTML page that needs no network and holds no script. Pure."""
