"""Checks an image: will cloud-init start in it, take the agent's seed, and apply the network?"""
