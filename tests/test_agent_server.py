"""The guest agent with a bridge and a real server; and what cloud-init makes of its seed."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.cloudinit import CloudInit
from tests.guest import QUICK, Guest, mostly_slow
from tests.process import LIMIT_S, ServerProcess
from tests.storm import free_port
from tests.test_bridge import BridgeProcess
from tests.uart import Uart
from tests.waiting import wait_until

MAC = "00:50:56:01:02:03"
LARGE = b"#cloud-config\n" + b"".join(b"# line %d of many\n" % number for number in range(48_000))


class Wire:
    """The serial port of the VM web1: a bridge, and a pump that behaves as a test wants."""

    def __init__(self, port: int, path: Path, *options: str) -> None:
        self.bridge = BridgeProcess(port, "--listen", f"unix:{path}", *options)
        self.bridge.wait_for("listening for the guest")
        self._path = path
        self._uarts: list[Uart] = []

    def put_into(self, guest: Guest, **line: Any) -> Uart:
        far = socket.socket(socket.AF_UNIX)
        far.connect(str(self._path))
        self._uarts.append(Uart(far, **line))
        guest.add_port("ttyS1", self._uarts[-1])
        return self._uarts[-1]

    def pull_out(self) -> None:
        while self._uarts:
            self._uarts.pop().close()


@pytest.fixture(scope="module")
def bridge(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    wire = Wire(server.port, tmp_path_factory.mktemp("bridge") / "serial")
    yield wire
    assert wire.bridge.end() == 0


@pytest.fixture
def wire(bridge: Wire) -> Iterator[Wire]:
    yield bridge
    bridge.pull_out()


def noisy(every_bytes: int, noise: bytes) -> Callable[[bytes], bytes]:
    """Puts noise into a stream, somewhere in each so many bytes, but not for ever."""
    passed = 0
    left = 4

    def change(data: bytes) -> bytes:
        nonlocal passed, left
        passed += len(data)
        if passed < every_bytes or not left:
            return data
        passed, left = 0, left - 1
        middle = len(data) // 2
        return data[:middle] + noise + data[middle:]

    return change


LINES: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "echo": lambda: {"echo": True},
    "bytes": lambda: {"piece_bytes": 1},
    "late": lambda: {"piece_bytes": 64, "pause_s": 0.02},
}


@pytest.mark.parametrize("name", mostly_slow(*LINES))
def test_seed_comes_over_the_line(guest: Guest, wire: Wire, name: str) -> None:
    uart = wire.put_into(guest, **LINES[name]())
    guest.fetch(*QUICK)
    assert guest.metadata["instance-id"] == "my-instance"
    assert b"growpart" in guest.files["user-data"]
    assert b"192.168.1.1" in guest.files["network-config"]
    assert b"RESPONSE" not in uart.written


def test_second_boot_is_unchanged(guest: Guest, wire: Wire) -> None:
    wire.put_into(guest)
    guest.fetch()
    assert "is unchanged" in guest.fetch("--retry", "30", "--later-boot-timeout", "30")


# Large user-data, vMotion, a server that dies


@pytest.fixture
def large(own_instances: Path) -> None:
    text = f"metadata: {{instance-id: large}}\nuserdata: {json.dumps(LARGE.decode())}\n"
    (own_instances / "web1.yaml").write_text(text)


Wired = Callable[..., Wire]


@pytest.fixture
def wired(tmp_path: Path) -> Iterator[Wired]:
    """A wire to the port of a server of one test alone."""
    made: list[Wire] = []

    def connect(port: int, *options: str) -> Wire:
        made.append(Wire(port, tmp_path / f"serial{len(made)}", *options))
        return made[-1]

    yield connect
    for wire in made:
        wire.pull_out()
        wire.bridge.end()


@pytest.mark.slow
@pytest.mark.usefixtures("large")
def test_large_user_data_comes_through_moves(
    guest: Guest, start: Callable[..., ServerProcess], wired: Wired
) -> None:
    wire = wired(start().port)
    wire.put_into(guest, piece_bytes=4000, pause_s=0.002)
    process = guest.start()
    wire.bridge.wait_for("line open")
    wire.bridge.move(3)
    wire.bridge.wait_for("moved in", 3)
    assert process.wait(LIMIT_S) == 0
    assert "retrying" not in process.communicate()[1]
    assert guest.files["user-data"] == LARGE


@pytest.mark.slow
@pytest.mark.usefixtures("large")
def test_server_that_dies_within_an_answer_and_comes_back_is_asked_again(
    guest: Guest, start: Callable[..., ServerProcess], wired: Wired
) -> None:
    address = f"127.0.0.1:{free_port()}"
    server = start(listen=address)
    wire = wired(server.port)
    received = threading.Event()
    seen = 0

    def count(data: bytes) -> bytes:
        nonlocal seen
        seen += len(data)
        if seen > 20_000:  # most of it does not fit into the buffers on the way
            received.set()
        return data

    wire.put_into(guest, piece_bytes=4000, pause_s=0.002, to_guest=count)
    process = guest.start("--retry", "0.5")
    assert received.wait(LIMIT_S)
    server.end()
    start(listen=address)
    assert process.wait(LIMIT_S) == 0
    assert "retrying" in process.communicate()[1]
    assert guest.files["user-data"] == LARGE


@pytest.mark.slow
def test_server_that_comes_late_is_waited_for(
    guest: Guest, start: Callable[..., ServerProcess], wired: Wired
) -> None:
    port = free_port()
    wire = wired(port)
    wire.put_into(guest)
    process = guest.start("--retry", "0.5")
    assert process.stderr
    assert "retrying" in process.stderr.readline()
    start(listen=f"127.0.0.1:{port}")
    assert process.wait(LIMIT_S) == 0
    process.communicate()
    assert guest.metadata["instance-id"] == "my-instance"


def test_file_that_comes_late_is_waited_for(
    guest: Guest, start: Callable[..., ServerProcess], wired: Wired, own_instances: Path
) -> None:
    text = (own_instances / "web1.yaml").read_text()
    (own_instances / "web1.yaml").unlink()
    wired(start().port).put_into(guest)
    process = guest.start("--retry", "0.3")
    assert process.stderr
    assert "not-found" in process.stderr.readline()
    (own_instances / "web1.yaml").write_text(text)
    assert process.wait(LIMIT_S) == 0
    process.communicate()
    assert guest.metadata["instance-id"] == "my-instance"


# cloud-init's own eyes


FULL = """\
metadata:
  instance-id: full-1
  hostname: full.example.com
  greeting: "\\U0001F600 \\x7f \\u2028"
network:
  version: 1
  config:
  - type: physical
    name: eth0
    subnets:
    - {type: static, address: 192.168.1.1/24, gateway: 192.168.1.254}
  - {type: nameserver, address: [8.8.8.8]}
userdata: |
  #cloud-config
  growpart: {mode: auto}
vendordata: |
  #cloud-config
  package_update: false
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest with one card, that has fetched all there is, and then its instance-id was kept."""
    place = tmp_path_factory.mktemp("full")
    (place / "instances").mkdir()
    (place / "instances/web1.yaml").write_text(FULL.replace("full-1", "full-2"))
    guest = Guest(place / "root")
    guest.add_card("ens192", MAC)
    server = ServerProcess(place / "instances")
    wire = Wire(server.port, place / "serial")
    wire.put_into(guest)
    guest.fetch(*QUICK)
    (place / "instances/web1.yaml").write_text(FULL)
    guest.fetch(*QUICK, "--keep-instance-id")
    yield guest
    wire.pull_out()
    wire.bridge.end()
    server.end()


def test_cloud_init_takes_the_seed(full: Guest, cloud_init: CloudInit) -> None:
    found = cloud_init.read(full.root / "var/lib/cloud")
    assert found["found"]
    assert found["instance-id"] == "full-2"  # the one that was kept
    assert found["metadata"]["local-hostname"] == "full.example.com"
    assert found["metadata"]["greeting"] == "\N{GRINNING FACE} \x7f \u2028"
    assert found["user-data"] == "#cloud-config\ngrowpart: {mode: auto}\n"
    assert found["vendor-data"] == "#cloud-config\npackage_update: false\n"
    assert found["network"]["config"][0]["mac_address"] == MAC


def test_cloud_init_finds_no_seed_of_another_machine(
    full: Guest, cloud_init: CloudInit, tmp_path: Path
) -> None:
    clone = full.clone(tmp_path / "clone", "564d0000-0000-0000-0000-000000000001")
    clone.add_port("ttyS1", kind=0)
    clone.fetch()
    assert not cloud_init.read(clone.root / "var/lib/cloud")["found"]


def test_cloud_init_finds_the_seed_valid(full: Guest, cloud_init: CloudInit) -> None:
    for name in ("user-data", "vendor-data"):
        assert "Valid" in cloud_init.schema(full.seed / name)


def test_cloud_init_configures_the_card_under_its_name(
    full: Guest, cloud_init: CloudInit, tmp_path: Path
) -> None:
    config = full.seed / "network-config"
    file = cloud_init.net_convert(config, tmp_path / "target", {"ens192": MAC})
    text = file.read_text()
    assert re.search(r"iface eth0 inet static\n\s+address 192.168.1.1/24", text)
    rules = tmp_path / "target/etc/udev/rules.d/70-persistent-net.rules"
    assert MAC in rules.read_text()  # by which cloud-init renames ens192


# Identity documents

VC_UUID = "4210aa00-0000-4000-8000-000000000001"


@pytest.fixture
def issuer(tmp_path: Path, start: Callable[..., ServerProcess]) -> tuple[ServerProcess, Path, Path]:
    """A server that signs identity documents; the file of its token's key, and its public key."""
    tokens, signing, public = (tmp_path / name for name in ("tokens", "signing", "public"))
    tokens.write_bytes(b"0123456789abcdef")
    openssl = ("openssl", "genpkey", "-algorithm", "ed25519", "-out", str(signing))
    subprocess.run(openssl, check=True, timeout=LIMIT_S)
    openssl = ("openssl", "pkey", "-in", str(signing), "-pubout", "-out", str(public))
    subprocess.run(openssl, check=True, timeout=LIMIT_S)
    for file in (tokens, signing):
        file.chmod(0o600)
    server = start(
        *("--identity-key-file", str(tokens), "--identity-token", "warn"),
        *("--identity-signing-key", str(signing), "--identity-issuer", "https://m.example.com"),
    )
    return server, tokens, public


def test_guest_with_a_token_prints_its_identity_document(
    guest: Guest, issuer: tuple[ServerProcess, Path, Path], wired: Wired
) -> None:
    server, tokens, public = issuer
    wire = wired(server.port, "--vc-uuid", VC_UUID, "--identity-key-file", str(tokens))
    wire.put_into(guest)
    ended = guest.run("identity", "--audience", "https://vault.example.com", *QUICK)
    assert (ended.returncode, ended.stderr) == (0, "")
    claims = jwt.decode(
        ended.stdout.strip(),
        public.read_text(),
        algorithms=["EdDSA"],
        audience="https://vault.example.com",
        issuer="https://m.example.com",
    )
    assert claims["sub"] == VC_UUID


def test_guest_without_a_token_is_refused_an_identity_document(
    guest: Guest, issuer: tuple[ServerProcess, Path, Path], wired: Wired
) -> None:
    wired(issuer[0].port, "--vc-uuid", VC_UUID).put_into(guest)
    ended = guest.run("identity", "--audience", "x", *QUICK)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no identity document: the server answered refused: " in ended.stderr


# How a boot ended


def machine(server: ServerProcess) -> Any:
    """What the server shows of the VM."""
    return json.loads(get(server, "/api/machines/web1"))


def get(server: ServerProcess, path: str) -> str:
    url = server.wait_for(r"admin on (http://\S+)")[1]
    with urllib.request.urlopen(url + path, timeout=LIMIT_S) as answer:
        return str(answer.read().decode())


def end_cloud_init(guest: Guest, error: str = "") -> None:
    """What cloud-init 25.1 and ssh-keygen leave of a boot."""
    stage = {"errors": [error] if error else [], "recoverable_errors": {}}
    v1 = {"datasource": "DataSourceNoCloud", "stage": None, "modules-final": stage}
    guest.write("run/cloud-init/status.json", json.dumps({"v1": v1}))
    guest.write("run/cloud-init/result.json", json.dumps({"v1": {"errors": stage["errors"]}}))
    guest.write("etc/ssh/ssh_host_ed25519_key.pub", f"{HOST_KEY} root@web1\n")


HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC20Q6Q9Gpyvl7QM4ZdK6Y2sVszlLzRR9yUEKujZP2Jn"


def test_server_takes_the_report_of_a_boot(
    guest: Guest, start: Callable[..., ServerProcess], wired: Wired
) -> None:
    server = start()
    wired(server.port).put_into(guest)
    guest.fetch(*QUICK)
    end_cloud_init(guest)
    assert "reported how this boot ended: done" in guest.fetch("report")
    server.wait_for("has booted")
    wait_until(lambda: machine(server)["state"] == "booted")
    (line,) = get(server, "/api/known_hosts").splitlines()
    assert line.endswith(f" {HOST_KEY}")


@pytest.mark.slow
def test_server_that_was_restarted_takes_the_report_after_metadata(
    guest: Guest, start: Callable[..., ServerProcess], wired: Wired
) -> None:
    address = f"127.0.0.1:{free_port()}"
    server = start(listen=address)
    wire = wired(server.port)
    wire.put_into(guest)
    guest.fetch(*QUICK)
    end_cloud_init(guest, "('scripts-user', RuntimeError('Runparts: 1 failures'))")
    server.end()
    server = start(listen=address)
    wire.bridge.wait_for("line open", 2)
    output = guest.fetch("report")
    assert "the server answered refused: " in output
    assert "reported how this boot ended: error" in output
    wait_until(lambda: machine(server)["state"] == "broken")
    assert "Runparts" in json.dumps(machine(server)["outcome"])
