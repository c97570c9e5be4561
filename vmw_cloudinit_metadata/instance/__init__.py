"""What a VM is told, pure: what an operator or a driver writes becomes the NoCloud documents."""
