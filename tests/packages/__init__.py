"""What is released, built and installed."""
