"""What runs inside the VM, or gets it there. agent.py is copied into images alone."""
