"""HAProxy with conf/haproxy.cfg, before servers of a test."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.process import CHECKOUT
from tests.storm import free_port
from tests.vm import Vm

CONFIG = CHECKOUT / "conf/haproxy.cfg"
READY_S = 10.0

_SERVER = re.compile(r"^    server \w+ 192\.0\.2\.\d+:13370\n", re.MULTILINE)


class Balancer:
    """conf/haproxy.cfg as it stands, but for ports, `servers` (`ADDRESS:PORT`) and `changes`."""

    def __init__(self, place: Path, servers: Sequence[str], changes: str = "") -> None:
        path = shutil.which("haproxy")
        assert path, "needs haproxy (Debian: apt-get install haproxy)"
        self.port = free_port()
        text = CONFIG.read_text().replace("bind :13370", f"bind 127.0.0.1:{self.port}")
        text, count = _SERVER.subn("", text)
        assert count == 2
        text += "".join(
            f"    server s{number} {address}\n" for number, address in enumerate(servers, 1)
        )
        for name, value in (change.rsplit(" ", 1) for change in changes.splitlines()):
            text, count = re.subn(rf"^( +{name}) .*$", rf"\1 {value}", text, flags=re.MULTILINE)
            assert count == 1
        file = place / "haproxy.cfg"
        file.write_text(text)
        self._process = subprocess.Popen([path, "-f", file, "-db"], stderr=subprocess.PIPE)

    def __enter__(self) -> Self:
        end_s = time.monotonic() + READY_S
        while True:
            try:
                self._open_and_close()
                return self
            except OSError:
                assert self._process.poll() is None, self._process.communicate()
                assert time.monotonic() < end_s
                time.sleep(0.05)

    def _open_and_close(self) -> None:
        """Return when HAProxy counts no line any more: `leastconn` decides by the count."""
        probe = Vm(self.port)
        probe.socket.shutdown(socket.SHUT_WR)
        probe.receive_all()
        probe.close()

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid
