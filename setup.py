"""What pyproject.toml has no key for: the program that supervisord runs."""

from setuptools import setup

setup(scripts=["bin/vmw-metadata-server"])
