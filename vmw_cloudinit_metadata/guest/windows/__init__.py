"""A metadata service for cloudbase-init: asks the server over a VMware virtual serial port.

It ships as one file that is joined from the modules of vmw_cloudinit_metadata/guest/windows and
guest/agent. It needs cloudbase-init 1.1.6 or later, whose Python has all libraries that it uses.
docs/windows.md describes it.
"""
