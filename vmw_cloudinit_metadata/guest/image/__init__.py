"""Installs the agent into the tree of an image, removes it, and checks that it can work there."""
