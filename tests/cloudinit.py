"""cloud-init as Debian ships it, unpacked into a directory: never installed on this machine."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.process import CHECKOUT

CACHE = CHECKOUT / ".cache/cloud-init"
MODULES = (
    "attr certifi chardet configobj idna jinja2 json-pointer jsonpatch jsonschema markupsafe "
    "netifaces oauthlib pyrsistent requests serial six urllib3 yaml"
)
PACKAGES = ["cloud-init", *(f"python3-{module}" for module in MODULES.split())]
READ = """
import json, sys
from cloudinit.helpers import Paths
from cloudinit.sources.DataSourceNoCloud import DataSourceNoCloud
paths = Paths({"cloud_dir": sys.argv[1], "run_dir": sys.argv[1] + "/run"})
without_discs = {"datasource": {"NoCloud": {"fs_label": None}}}
source = DataSourceNoCloud(without_discs, None, paths)
found = source._get_data()
text = lambda raw: raw.decode() if isinstance(raw, bytes) else raw
print(json.dumps({
    "found": found,
    "instance-id": found and source.get_instance_id(),
    "metadata": found and source.metadata,
    "network": found and source.network_config,
    "user-data": found and text(source.userdata_raw),
    "vendor-data": found and text(source.vendordata_raw),
}))
"""

# What it makes of public-keys: the lines that sshd gets, without those that it takes for no key.
PUBLIC_KEYS = """
import json, sys
from cloudinit.sources import normalize_pubkey_data
from cloudinit.ssh_util import AuthKeyLineParser
parser = AuthKeyLineParser()
found = []
for data in json.load(sys.stdin):
    lines = [parser.parse(str(key)) for key in normalize_pubkey_data(data)]
    found.append([str(line) for line in lines if line.valid()])
print(json.dumps(found))
"""
HOSTNAMES = """
import json, sys
from cloudinit.sources import DataSource
source = DataSource({}, None, None)
names = []
for name in json.load(sys.stdin):
    source.metadata = {"local-hostname": name}
    found = source.get_hostname()
    names.append(getattr(found, "hostname", found))
print(json.dumps(names))
"""


class CloudInit:
    """The program and its modules, below `tree`."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def read(self, cloud_dir: Path) -> Any:
        """What its NoCloud data source finds below `cloud_dir`/seed."""
        return json.loads(self._run("-c", READ, str(cloud_dir)))

    def public_keys(self, values: list[Any]) -> list[list[str]]:
        """The lines of authorized_keys that each value of public-keys gives."""
        found: list[list[str]] = json.loads(self._run("-c", PUBLIC_KEYS, given=json.dumps(values)))
        return found

    def hostnames(self, names: list[str]) -> list[str]:
        """The host name that it sets for each local-hostname."""
        found: list[str] = json.loads(self._run("-c", HOSTNAMES, given=json.dumps(names)))
        return found

    def schema(self, config: Path) -> str:
        """What it says of a file of user-data; fails if it is invalid."""
        return self._run(str(self.tree / "usr/bin/cloud-init"), "schema", "-c", str(config))

    def net_convert(self, config: Path, target: Path, macs: dict[str, str]) -> Path:
        """A network-config as Debian's ifupdown is to have it; returns the file."""
        given = [word for pair in macs.items() for word in ("-m", ",".join(pair))]
        command = [str(self.tree / "usr/bin/cloud-init"), "devel", "net-convert"]
        what = ["-p", str(config), "-k", "yaml", "-d", str(target), "-D", "debian", "-O", "eni"]
        self._run(*command, *what, *given)
        (file,) = (target / "etc/network").rglob("*cloud-init*")
        return file

    def _run(self, *words: str, given: str = "") -> str:
        modules = str(self.tree / "usr/lib/python3/dist-packages")
        ended = subprocess.run(
            ["/usr/bin/python3", *words],
            input=given,
            env={**os.environ, "PYTHONPATH": modules},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout


def unpack() -> None:
    """Downloads the packages and unpacks them, whole or not at all."""
    work = CACHE.with_name("cloud-init.new")
    shutil.rmtree(work, ignore_errors=True)
    (work / "packages").mkdir(parents=True)
    download = ["apt-get", "download", "-q", *PACKAGES]
    settings: dict[str, Any] = {"cwd": work / "packages", "timeout": 300, "capture_output": True}
    if subprocess.run(download, check=False, **settings).returncode:  # its lists may be old
        subprocess.run(["apt-get", "update", "-q"], check=True, **settings)
        subprocess.run(download, check=True, **settings)
    for package in (work / "packages").glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(work)], check=True, timeout=60)
    shutil.rmtree(CACHE, ignore_errors=True)
    work.rename(CACHE)


@pytest.fixture(scope="session")
def cloud_init(program: Callable[[str, str], str]) -> CloudInit:
    for name in ("apt-get", "dpkg"):
        program(name, "of a Debian")
    CACHE.parent.mkdir(exist_ok=True)
    with CACHE.with_name("cloud-init.lock").open("w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (CACHE / "usr/bin/cloud-init").exists():
            unpack()
    return CloudInit(CACHE)
