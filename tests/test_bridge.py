"""`client bridge`: a real byte stream, whose guest the test plays, in front of a real server."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bridge import BridgeProcess
from tests.process import LIMIT_S, ServerProcess

pytestmark = pytest.mark.slow

USER_DATA = b"#cloud-config\n" + b"".join(b"# line %d of many\n" % n for n in range(20_000))


class Guest:
    """The program in the guest, at its serial port."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(LIMIT_S)
        self.heard = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[str, bytes]:
        while b"\n" not in self.heard:
            data = self.socket.recv(65536)
            assert data
            self.heard += data
        line, _, self.heard = self.heard.partition(b"\n")
        found = re.fullmatch(rb"!!RESPONSE_([A-Z]+)#(.*)", line)
        assert found, line[:100]
        return found[1].decode(), base64.b64decode(found[2], validate=True)

    def ask(self, document: str) -> bytes:
        self.send(b"!!REQUEST_%s#\n" % document.encode())
        code, body = self.answer()
        assert code == document
        return body


Bridged = Callable[..., BridgeProcess]


@pytest.fixture
def bridged() -> Iterator[Bridged]:
    """Starts bridges; they are ended after the test, and end well."""
    started: list[BridgeProcess] = []

    def start_bridge(port: int, *options: str) -> BridgeProcess:
        started.append(BridgeProcess(port, *options))
        return started[-1]

    yield start_bridge
    assert [bridge.end() for bridge in started] == [0] * len(started)


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bridge")
    userdata = json.dumps(USER_DATA.decode())  # JSON is YAML
    text = f"metadata: {{instance-id: my-instance}}\nuserdata: {userdata}\n"
    (directory / "web1.yaml").write_text(text)
    return directory


def listening(path: Path) -> socket.socket:
    """As QEMU does with `-chardev socket,path=…,server=on`."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    listener.settimeout(LIMIT_S)
    return listener


@pytest.fixture
def guest(server: ServerProcess, bridged: Bridged, tmp_path: Path) -> Iterator[Guest]:
    """A guest whose bridge is `guest.bridge`."""
    with listening(tmp_path / "serial") as listener:
        bridge = bridged(server.port, "--connect", f"unix:{tmp_path}/serial")
        sock, _ = listener.accept()
        with sock:
            guest = Guest(sock)
            guest.bridge = bridge  # type: ignore[attr-defined]
            yield guest


def bridge_of(guest: Guest) -> BridgeProcess:
    bridge = guest.bridge  # type: ignore[attr-defined]
    assert isinstance(bridge, BridgeProcess)
    return bridge


def test_guest_gets_its_documents(guest: Guest) -> None:
    assert json.loads(guest.ask("METADATA"))["instance-id"] == "my-instance"
    assert guest.ask("USERDATA") == USER_DATA


def test_guest_that_comes_again_has_a_new_line(
    server: ServerProcess, bridged: Bridged, tmp_path: Path
) -> None:
    with listening(tmp_path / "serial") as listener:
        bridge = bridged(server.port, "--connect", f"unix:{tmp_path}/serial")
        for times in (1, 2, 3):
            sock, _ = listener.accept()
            with sock:
                assert Guest(sock).ask("USERDATA") == USER_DATA
            bridge.wait_for("the guest disconnected", times)


def test_guest_that_is_not_there_yet_is_waited_for(
    server: ServerProcess, bridged: Bridged, tmp_path: Path
) -> None:
    bridge = bridged(server.port, "--connect", f"unix:{tmp_path}/serial")
    bridge.wait_for("waiting for the guest")
    with listening(tmp_path / "serial") as listener:
        sock, _ = listener.accept()
        with sock:
            assert Guest(sock).ask("USERDATA") == USER_DATA


def test_guest_connects_to_a_socket_that_was_left_behind(
    server: ServerProcess, bridged: Bridged, tmp_path: Path
) -> None:
    path = tmp_path / "serial"
    listening(path).close()
    bridge = bridged(server.port, "--listen", f"unix:{path}")
    bridge.wait_for("listening for the guest")
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            assert Guest(sock).ask("USERDATA") == USER_DATA


def test_guest_connects_by_tcp(server: ServerProcess, bridged: Bridged) -> None:
    bridge = bridged(server.port, "--listen", "tcp:127.0.0.1:0")
    port = int(bridge.wait_for(r"on tcp:127\.0\.0\.1:(\d+)")[1])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        assert Guest(sock).ask("USERDATA") == USER_DATA


def test_guest_opens_a_terminal(server: ServerProcess, bridged: Bridged) -> None:
    bridge = bridged(server.port, "--pty")
    path = bridge.wait_for(r"serial port is (\S+)")[1]
    for _ in range(2):  # closing it does not end the line
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        os.write(descriptor, b"!!REQUEST_METADATA#\n")
        heard = b""
        while not heard.endswith(b"\n"):
            heard += os.read(descriptor, 4096)
        os.close(descriptor)
        assert heard.startswith(b"!!RESPONSE_METADATA#")
    assert "disconnected" not in bridge.log


@pytest.mark.parametrize("times", [1, 3])
def test_move_in_the_middle_of_an_answer_loses_nothing(guest: Guest, times: int) -> None:
    bridge_of(guest).wait_for("line open")
    guest.send(b"!!REQUEST_USERDATA#\n")
    first = guest.socket.recv(1000)
    bridge_of(guest).move(times)
    guest.send(b"!!REQUEST_META")  # and one that is cut in two by the moves
    guest.heard = first
    assert guest.answer() == ("USERDATA", USER_DATA)
    bridge_of(guest).wait_for("moved in", times)
    guest.send(b"DATA#\n")
    assert guest.answer()[0] == "METADATA"


def test_stream_runs_through_many_moves_in_order(guest: Guest, server: ServerProcess) -> None:
    """Requests and answers are under way all the time, in both directions."""
    bridge = bridge_of(guest)
    bridge.wait_for("line open")
    documents = [("METADATA", "DIGEST", "NETWORKDATA")[n * n % 3] for n in range(600)]

    def write() -> None:
        for number, document in enumerate(documents):
            guest.send(b"!!REQUEST_%s#\r\n" % document.encode())
            if number % 50 == 0:
                bridge.signal(signal.SIGUSR1)
            time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    answered = [guest.answer()[0] for _ in documents]
    writer.join()
    assert answered == documents
    assert bridge.log.count("moved in") >= 5  # a signal that follows another at once is one
    assert "not moved" not in bridge.log
    assert "older connection" not in server.log


def test_move_that_the_server_declines_leaves_the_vm_where_it_is(
    start: Callable[..., ServerProcess], bridged: Bridged
) -> None:
    server = start("--max-pending-moves", "0")
    bridge = bridged(server.port, "--listen", "tcp:127.0.0.1:0")
    port = int(bridge.wait_for(r"on tcp:127\.0\.0\.1:(\d+)")[1])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        guest = Guest(sock)
        guest.ask("METADATA")
        bridge.move()
        bridge.wait_for("not moved: the server sent VMOTION-NOTNOW")
        assert guest.ask("USERDATA").startswith(b"#cloud-config")


def test_server_that_comes_back_is_dialled_again(
    start: Callable[..., ServerProcess], bridged: Bridged
) -> None:
    server = start()
    bridge = bridged(server.port, "--listen", "tcp:127.0.0.1:0")
    port = int(bridge.wait_for(r"on tcp:127\.0\.0\.1:(\d+)")[1])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        guest = Guest(sock)
        guest.ask("METADATA")
        address = f"127.0.0.1:{server.port}"
        server.end()
        bridge.wait_for("reconnecting")
        start(listen=address)
        bridge.wait_for("line open", 2)
        assert guest.ask("USERDATA").startswith(b"#cloud-config")


def test_unknown_order_is_reported(guest: Guest) -> None:
    bridge = bridge_of(guest)
    bridge.write("mvoe\n")
    bridge.wait_for("found 'mvoe', expected: move")
