"""A real NetBox with its database, Redis, and the worker that sends webhooks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.process import CHECKOUT
from tests.servers import Daemon, DaemonBackend, Data
from tests.servers.netboxinstall import HOME, configure, programs
from tests.servers.postgresql import program
from tests.storm import free_port
from tests.waiting import wait_until

ACTIVE, GONE = "active", "decommissioning"  # the filter is for active ones
RULES = (
    *("virtualization.virtualmachine", "virtualization.vminterface", "ipam.ipaddress"),
    *("dcim.macaddress", "extras.configcontext"),
)
EVENTS = ["object_created", "object_updated", "object_deleted"]
DATABASE = HOME / "database"  # of an empty NetBox
WORKERS = 2
CHECKED_S = 3.0  # after which the metadata server has checked its store for the first time
LIMIT_S = 300.0  # NetBox itself takes long to start


class NetBoxBackend(DaemonBackend):
    """`kill` and `stop` are for NetBox and its worker; database and Redis go on.

    A VM that is deleted gets another status, which the option `filter` leaves out.
    """

    name = "netbox"
    driver = "netbox"
    layer_served_after_s = 5.0  # a config context counts once the virtual machine is read
    prepares = True

    def __init__(self) -> None:
        super().__init__()
        self.directory.chmod(0o755)  # the database runs as another user
        self._bin = programs()
        self._ports = {name: free_port() for name in ("postgresql", "redis", "netbox")}
        self._database, self._redis = self._daemon("postgresql"), self._daemon("redis")
        names = ("web", "hooks", "worker")  # webhooks do not wait for other work
        self.daemons = [self._daemon(name, as_us=True) for name in names]
        self._web, self._hooks, self._worker = self.daemons
        self._ids: dict[str, int] = {}  # of virtual machines
        self._contexts: dict[str, int] = {}
        self._tokens: dict[str, str] = {}
        configure(self.directory / "root", self._ports)

    def _daemon(self, name: str, **options: Any) -> Daemon:
        directory = self.directory / name
        directory.mkdir()
        return Daemon(directory, **options)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._ports['netbox']}"

    @property
    def key(self) -> str:
        """What signs webhooks."""
        return "the key of a test's webhooks"

    @property
    def options(self) -> Mapping[str, Any]:
        return {
            "url": self.address,
            "token-file": self._file("token", self._tokens["reader"]),
            "webhook-key-file": self._file("webhook-key", self.key),
            "filter": {"status": {"exact": "STATUS_ACTIVE"}},
        }

    def _file(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    # Processes

    def start(self) -> None:
        if not self._tokens:
            self._start_services()
            self._tokens = self._seed("tokens", {})
        port = self._ports["netbox"]
        options = f"--bind=127.0.0.1:{port} --workers={WORKERS} --threads=2 --no-control-socket"
        with self._environment():
            for worker, queues in ((self._hooks, ["high"]), (self._worker, ["default", "low"])):
                worker.start(self._bin / "netbox", "rqworker", *queues, is_ready=lambda: True)
            command = [self._bin / "gunicorn", *options.split(), "netbox.wsgi"]
            self._web.start(*command, is_ready=self._is_ready, limit_s=LIMIT_S)

    def _is_ready(self) -> bool:
        return self.ask("GET", "status/") is not None

    def _start_services(self) -> None:
        self._redis.start(
            *("redis-server", "--bind", "127.0.0.1", "--port", str(self._ports["redis"])),
            *("--save", "", "--dir", str(self.directory / "redis")),
            is_ready=lambda: True,
        )
        data = self.directory / "postgresql/data"
        if DATABASE.exists():
            shutil.copytree(DATABASE, data)
            self._database.own(data)
            self._start_database(data)
            return
        common = ("--pgdata", data, "--username", "netbox", "--encoding", "UTF8")
        self._database.run(program("initdb"), *common, "--locale", "C.UTF-8", "--auth", "trust")
        self._start_database(data)
        print("making NetBox's database: 5 to 15 minutes, once", flush=True)
        self._database.run(
            *(program("createdb"), "--host", "127.0.0.1", "--username", "netbox"),
            *("--port", str(self._ports["postgresql"]), "netbox"),
        )
        with self._environment():
            subprocess.run([self._bin / "netbox", "migrate", "--no-input", "-v", "0"], check=True)
        self._database.end(signal.SIGINT)
        new = HOME / "database.new"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(data, new)
        new.rename(DATABASE)
        self._start_database(data)

    def _start_database(self, data: Path) -> None:
        port = str(self._ports["postgresql"])
        command = [program("postgres"), "-D", str(data), "-p", port, "-k", str(data.parent)]
        settings = ("fsync=off", "full_page_writes=off", "listen_addresses=127.0.0.1")
        ready = [program("pg_isready"), "--quiet", "--host", "127.0.0.1", "--port", port]
        self._database.start(
            *command,
            *(word for setting in settings for word in ("-c", setting)),
            is_ready=lambda: subprocess.run(ready, check=False).returncode == 0,
        )

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Let programs of NetBox find their configuration."""
        ours = {
            "NETBOX_ROOT": str(self.directory / "root"),
            "DJANGO_SETTINGS_MODULE": "netbox.settings",
        }
        os.environ.update(ours)
        try:
            yield
        finally:
            for name in ours:
                del os.environ[name]

    def close(self) -> None:
        super().close()
        for one in (self._redis, self._database):
            one.close()

    # Data

    def put(self, vms: Mapping[str, Data]) -> None:
        new = {name: data for name, data in vms.items() if name not in self._ids}
        if new:
            self._ids |= self._seed("vms", {name: _seed_of(name, new[name]) for name in new})
        for name, data in vms.items():
            if name not in new:
                change = {"local_context_data": _context_of(data), "status": ACTIVE}
                self.ask("PATCH", self._path(name), change)

    def delete(self, name: str) -> None:
        self.ask("PATCH", self._path(name), {"status": GONE})

    def put_layer(self, name: str, data: Data) -> None:
        context = {"name": name, "data": {"cloud-init": data}}
        if name in self._contexts:
            self.ask("PATCH", f"extras/config-contexts/{self._contexts[name]}/", context)
        else:
            self._contexts[name] = self.ask("POST", "extras/config-contexts/", context)["id"]

    def attach(self, port: int, admin_port: int) -> None:  # noqa: ARG002
        """Send webhooks to the metadata server, and wait until it has read everything."""
        ready = f"http://127.0.0.1:{admin_port}/readyz"
        time.sleep(CHECKED_S)
        wait_until(lambda: _answers(ready), limit_s=LIMIT_S)
        hook = {
            "name": "vmw-cloudinit-metadata",
            "payload_url": f"http://127.0.0.1:{admin_port}/hooks/changes",
            "secret": self.key,
            "body_template": body_template(),
        }
        made = self.ask("POST", "extras/webhooks/", hook)
        rule = {
            "name": "vmw-cloudinit-metadata",
            "object_types": RULES,
            "event_types": EVENTS,
            "action_type": "webhook",
            "action_object_type": "extras.webhook",
            "action_object_id": made["id"],
        }
        self.ask("POST", "extras/event-rules/", rule)

    def ask(self, method: str, path: str, data: Any = None) -> Any:
        """Ask NetBox's REST API as an administrator; raise OSError."""
        headers = {
            "Authorization": f"Bearer {self._tokens['admin']}",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self.address}/api/{path}", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return json.loads(answer.read() or b"null")

    def _path(self, name: str) -> str:
        return f"virtualization/virtual-machines/{self._ids[name]}/"

    def _seed(self, what: str, given: Any) -> Any:
        """Return what NetBox's own Python made in its database."""
        script = Path(__file__).parent / "netboxseed.py"
        with self._environment():
            done = subprocess.run(
                [self._bin / "python", "-W", "ignore", script, what],
                input=json.dumps(given),
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)


def _answers(url: str) -> bool:
    """Return whether the answer is one of success."""
    with suppress(OSError), urllib.request.urlopen(url, timeout=LIMIT_S):
        return True
    return False


def body_template() -> str:
    """Return the template of docs/stores/netbox.md."""
    text = (CHECKOUT / "docs/stores/netbox.md").read_text()
    found = re.search(r"^```\n(\{\"object_type\".*?)\n```$", text, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def _context_of(data: Data) -> dict[str, Any]:
    return {"cloud-init": {name: data[name] for name in ("metadata", "userdata")}}


def _seed_of(name: str, data: Data) -> dict[str, Any]:
    number = int(name[3:])
    return {
        "serial": f"01234567-89ab-cdef-{number >> 48:04x}-{number & (1 << 48) - 1:012x}",
        "address": data["network"]["address"],
        "gateway": data["network"]["gateway"],
        "context": _context_of(data),
    }
