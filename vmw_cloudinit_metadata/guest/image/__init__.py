"""What the guest needs, put into the tree of an image; and what will keep it from working."""
