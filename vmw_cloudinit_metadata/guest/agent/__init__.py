"""The agent in the guest: fetches cloud-init's NoCloud seed over a VMware virtual serial port.

It ships as one file that is joined from the modules of vmw_cloudinit_metadata/guest/agent: standard
library only, Python 3.6 or later. It runs before cloud-init, publishes the seed whole or not at
all, and never fails a boot because a port or a server is missing. docs/agent.md describes it.
"""
