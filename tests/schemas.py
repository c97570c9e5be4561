"""cloud-init's JSON schemas, and its look at user-data, from Debian's packages: unpacked, never
installed, and never copied into this project.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cloudinit import CloudInit
from tests.process import CHECKOUT

SUITES = ("trixie", "sid")  # Debian 13, and the newest one
CACHE = CHECKOUT / ".cache"
PACKAGE = Path("usr/lib/python3/dist-packages")
SCHEMAS = PACKAGE / "cloudinit/config/schemas"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# Answers each line, a document in base64, with a line: the types of its parts, and what the YAML
# of each #cloud-config is.
LOOK = """
import base64, json, logging, sys
from cloudinit import helpers, user_data, util
logging.disable()
processor = user_data.UserDataProcessor(helpers.Paths({"cloud_dir": "/nonexistent"}))
def do_include(content, outer):
    part = user_data.MIMEBase("text", "x-include-url")
    part.set_payload("")
    outer.attach(part)
processor._do_include = do_include
def value_of(part):
    try:
        value = util.load_yaml(util.fully_decoded_payload(part), default="invalid")
    except Exception:
        return "invalid"
    return "nothing" if value is None else type(value).__name__ if value != "invalid" else value
for line in sys.stdin:
    try:
        message = processor.process(base64.b64decode(line))
        parts = [part for part in message.walk() if part.get_content_maintype() != "multipart"]
        answer = [[part.get_content_type(), value_of(part)] for part in parts]
    except Exception as error:
        answer = type(error).__name__
    print(json.dumps(answer), flush=True)
"""


def schema_dir(suite: str) -> Path:
    return unpacked(suite) / SCHEMAS


@functools.cache
def schema(suite: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((schema_dir(suite) / f"schema-{name}.json").read_text())
    return found


def unpacked(suite: str) -> Path:
    """The tree of a suite's cloud-init; downloads and unpacks it, whole or not at all."""
    tree = CACHE / f"cloud-init-{suite}"
    if tree.exists():
        return tree
    work = CACHE / f"cloud-init-{suite}.{os.getpid()}"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    mirrors = sorted({uri.rstrip("/") for uri in _output(targets).split()})
    (mirror,) = (uri for uri in mirrors if uri.endswith("/debian"))
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
    places = {
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": work / "state",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = [
        "apt-get",
        "-q",
        *(word for pair in places.items() for word in ("-o", "=".join(map(str, pair)))),
    ]
    _output([*apt, "update"])
    _output([*apt, "download", "cloud-init"], cwd=work)
    (package,) = work.glob("*.deb")
    _output(["dpkg", "-x", str(package), str(work / "tree")])
    with suppress(OSError):  # another process was faster
        (work / "tree").rename(tree)
    shutil.rmtree(work)
    return tree


def _output(command: list[str], **further: Any) -> str:
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, **further
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


class Look:
    """cloud-init's UserDataProcessor in a process of its own."""

    def __init__(self, *trees: Path) -> None:
        modules = os.pathsep.join(str(tree / PACKAGE) for tree in trees)
        self._process = subprocess.Popen(
            ["/usr/bin/python3", "-c", LOOK],
            env={**os.environ, "PYTHONPATH": modules},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, document: bytes) -> Any:
        """[["text/cloud-config", "dict"]], or the name of the exception that ended it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(base64.b64encode(document).decode() + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="session", params=["bookworm", *SUITES])
def look(request: pytest.FixtureRequest, cloud_init: CloudInit) -> Any:
    """A Look by each cloud-init; the newer ones with the modules of the oldest."""
    trees = [cloud_init.tree]
    if request.param != "bookworm":
        trees.insert(0, unpacked(request.param))
    found = Look(*trees)
    yield found
    found.end()
