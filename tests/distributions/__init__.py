"""Trees of images of distributions that tests cannot download: made, not copied.

They are made from what is public of the distributions' packages, defaults and image builders: only
what counts for the agent and for cloud-init. Programs are empty.
"""

from tests.distributions.distribution import Distribution
from tests.distributions.photon import PHOTON_5
from tests.distributions.redhat import FEDORA_42, RHEL_8, RHEL_9, ROCKY_9
from tests.distributions.suse import SLES_15
from tests.distributions.ubuntu import UBUNTU_22, UBUNTU_24

_ALL = (UBUNTU_22, UBUNTU_24, RHEL_8, RHEL_9, ROCKY_9, FEDORA_42, SLES_15, PHOTON_5)
DISTRIBUTIONS = {distribution.name: distribution for distribution in _ALL}

__all__ = ["DISTRIBUTIONS", "Distribution"]
