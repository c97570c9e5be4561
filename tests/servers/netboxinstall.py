"""Installs NetBox for `make netbox`, with an empty database: 15 minutes the first time.

It needs Python 3.12 or newer and Redis. What it makes is kept in NETBOX_DIR, by default
in .netbox of the checkout: an environment of Python, and the directory of a database.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.process import CHECKOUT

RELEASE = "4.7.3"
HOME = Path(os.environ.get("NETBOX_DIR") or CHECKOUT / ".netbox").resolve()
PYTHONS = ("python3.14", "python3.13", "python3.12")

_CONFIGURATION = """\
_redis = {{"HOST": "127.0.0.1", "PORT": {redis}, "USERNAME": "", "PASSWORD": "", "SSL": False}}
ALLOWED_HOSTS = ["*"]
API_TOKEN_PEPPERS = {{1: "{secret}"}}
CENSUS_REPORTING_ENABLED = False
DATABASES = {{
    "default": {{"NAME": "netbox", "USER": "netbox", "PASSWORD": "-", "HOST": "127.0.0.1",
                "PORT": "{postgresql}", "CONN_MAX_AGE": 300}}
}}
QUEUE_MAPPINGS = {{"webhook": "high"}}
REDIS = {{"tasks": {{**_redis, "DATABASE": 0}}, "caching": {{**_redis, "DATABASE": 1}}}}
RELEASE_CHECK_URL = None
SECRET_KEY = "{secret}"
"""


def python() -> str:
    """Return a Python that NetBox runs on."""
    for name in [os.environ.get("NETBOX_PYTHON", ""), *PYTHONS]:
        if name and shutil.which(name):
            tried = subprocess.run([name, "-c", "import venv"], check=False, capture_output=True)
            if tried.returncode == 0:
                return name
    sys.exit("NetBox needs Python 3.12 or newer: set NETBOX_PYTHON to one")


def programs() -> Path:
    """Return the directory of NetBox's programs; install them if they are missing."""
    if not shutil.which("redis-server"):
        sys.exit("Redis is missing: apt-get install redis-server")
    there = HOME / "venv/bin"
    done = HOME / f"installed-{RELEASE}"
    if not done.exists():
        print(f"installing NetBox {RELEASE} into {HOME}", flush=True)
        HOME.mkdir(parents=True, exist_ok=True)
        subprocess.run([python(), "-m", "venv", "--clear", HOME / "venv"], check=True)
        subprocess.run([there / "pip", "install", "--quiet", f"netbox=={RELEASE}"], check=True)
        done.touch()
    return there


def configure(root: Path, ports: dict[str, int]) -> None:
    """Write the configuration of a NetBox whose files are below `root`."""
    (root / "conf").mkdir(parents=True, exist_ok=True)
    text = _CONFIGURATION.format(secret="no secret: a server of a test " * 2, **ports)
    (root / "conf/configuration.py").write_text(text)
