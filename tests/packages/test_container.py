"""The OCI image: its size, its user, and that it serves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from packages.build import Workshop
from packages.image import USER, build_image
from tests.process import LIMIT_S, run
from tests.storm import free_port
from vmw_cloudinit_metadata import __version__

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: buildah without user namespaces"),
]
MAX_BYTES = 130_000_000


class Container(NamedTuple):
    image: Path
    run: Callable[..., list[str]]  # the command that runs a program in it


@pytest.fixture(scope="module")
def container(
    tmp_path_factory: pytest.TempPathFactory,
    program: Callable[[str, str], str],
    second_workshop: Workshop,
) -> Iterator[Container]:
    """Runs programs of the image, as its user and with the network of this machine."""
    buildah = program("buildah", "buildah")
    directory = tmp_path_factory.mktemp("container")
    image = build_image(directory, second_workshop)
    storage = (f"--root={directory}/storage", f"--runroot={directory}/run")
    command = [buildah, *storage, "--storage-driver=vfs"]
    told = subprocess.run(
        [*command, "from", f"oci-archive:{image}"], check=True, capture_output=True, text=True
    )
    name = told.stdout.split()[-1]
    options = ("run", "--isolation=chroot")

    def command_of(*inside: str, volume: str = "") -> list[str]:
        volumes = (f"--volume={volume}",) if volume else ()
        return [*command, *options, *volumes, name, "--", *inside]

    yield Container(image, command_of)
    subprocess.run([*command, "rm", "--all"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*command, "rmi", "--all"], check=True, stdout=subprocess.DEVNULL)


def test_image_is_small(container: Container) -> None:
    assert 10_000_000 < container.image.stat().st_size <= MAX_BYTES


def test_image_runs_as_a_user_that_may_write_nothing(container: Container) -> None:
    inside = "import os; print(os.getuid(), os.getgid(), os.access('/usr', os.W_OK))"
    assert output_of(container, "/usr/bin/python3.13", "-c", inside) == f"{USER} {USER} False\n"
    told = output_of(container, "vmw-cloudinit-metadata", "--version")
    assert told == f"vmw-cloudinit-metadata, version {__version__}\n"


def output_of(container: Container, *command: str) -> str:
    return subprocess.run(
        container.run(*command), check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_image_serves_and_its_probe_says_so(container: Container, own_instances: Path) -> None:
    settings = "/etc/vmw-metadata-server/server.yaml"
    admin = f"127.0.0.1:{free_port()}"
    ports = ("--listen", "127.0.0.1:0", "--admin-listen", admin)
    volume = f"{own_instances}:/srv/instances:ro"
    probe = ("vmw-cloudinit-metadata", "status", "--admin", f"http://{admin}")
    command = container.run("vmw-metadata-server", "--config", settings, *ports, volume=volume)
    assert subprocess.run(container.run(*probe), capture_output=True).returncode != 0
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr
        lines = iter(server.stderr.readline, "")
        address = next(line for line in lines if "listening on" in line).split()[-1]
        fetched = run("client", "fetch", "web1", "--uri", "my-metadata", "--server", address)
        assert "my-instance" in fetched.stdout, fetched.stderr
        output_of(container, *probe)
    finally:
        server.terminate()
        server.communicate(timeout=LIMIT_S)
