"""The guest's side: the agent that runs in VMs, its installation into images, and the VMs' port.

`agent/` is joined into the one file that ships and imports nothing else of the package; `image/`
installs it into the tree of an image; `windows/` is joined, with some modules of `agent/`, into the
file for cloudbase-init; `vsphere/` gives VMs their serial port on a vCenter.
"""
