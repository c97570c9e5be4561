"""What pyproject.toml has no key for: the programs that run from a checkout too."""

from setuptools import setup

setup(scripts=["bin/vmw-metadata-server", "bin/vmw-metadata-client"])
