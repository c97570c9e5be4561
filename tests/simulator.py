"""VMware's own vCenter simulator, from Debian's package of its Go library, and VMs in it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Pair
from vmw_cloudinit_metadata.guest.vsphere import vcenter
from vmw_cloudinit_metadata.settings.values import Address

USER = "reader"
PASSWORD = "pass & <word>"
URI = "my-metadata"
SOURCE = Path(__file__).parent / "vcsim" / "main.go"
GO_LIBRARIES = "/usr/share/gocode"  # of Debian's golang-*-dev


@dataclass
class Simulator:
    """A running simulator; its administrator's changes go by pyVmomi, as everybody's do."""

    process: subprocess.Popen[str]
    port: int
    certificate: Path
    password_file: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def options(self) -> list[str]:
        """What a server needs to read it."""
        trust = ("--vcenter-ca-file", str(self.certificate))
        secret = ("--vcenter-password-file", str(self.password_file))
        return ["--vcenter", self.address, "--vcenter-user", USER, *secret, *trust]

    def command(self, *words: str) -> None:
        """Change what no API of vCenter changes."""
        assert self.process.stdin
        assert self.process.stdout
        print(*words, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"

    @contextmanager
    def session(self) -> Iterator[Any]:
        trust = vcenter.Trust(self.certificate)
        with vcenter.session(Address("127.0.0.1", self.port), USER, PASSWORD, trust) as content:
            yield content

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def vms(content: Any) -> dict[str, Any]:
    """The VMs by their names."""
    view = content.viewManager.CreateContainerView(
        container=content.rootFolder, type=[vcenter.VirtualMachine], recursive=True
    )
    return {vm.name: vm for vm in view.view}


@pytest.fixture(scope="session")
def simulator_program(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> Path:
    """Built once; Go keeps what it has compiled in its own cache."""
    built = tmp_path_factory.mktemp("vcsim") / "vcsim"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": GO_LIBRARIES}
    go = program("go", "golang-go golang-github-vmware-govmomi-dev")
    subprocess.run(
        [go, "build", "-o", str(built), SOURCE.name],
        check=True,
        cwd=SOURCE.parent,
        env=environment,
    )
    return built


@pytest.fixture(scope="session")
def simulator_certificate(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> Pair:
    """Of 127.0.0.1, self-signed; one file."""
    file = tmp_path_factory.mktemp("vcenter") / "pem"
    subprocess.run(
        [
            *(program("openssl", "openssl"), "req", "-x509", "-days", "2", "-nodes"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-subj", "/CN=vcenter", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(file), "-out", str(file) + ".crt"),
        ],
        check=True,
        capture_output=True,
    )
    file.write_text(file.read_text() + Path(str(file) + ".crt").read_text())
    return Pair(file, file)


@pytest.fixture
def simulate(
    simulator_program: Path, simulator_certificate: Pair, tmp_path: Path
) -> Iterator[Callable[..., Simulator]]:
    """Starts a simulator with these options of its own."""
    started: list[Simulator] = []
    password = tmp_path / "vcenter-password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)

    def start(*options: str) -> Simulator:
        process = subprocess.Popen(
            [simulator_program, "-certificate", str(simulator_certificate.certificate), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout
        found = re.fullmatch(r"127\.0\.0\.1:([0-9]+)", process.stdout.readline().strip())
        assert found
        one = Simulator(process, int(found[1]), simulator_certificate.certificate, password)
        started.append(one)
        return one

    yield start
    for one in started:
        one.stop()
