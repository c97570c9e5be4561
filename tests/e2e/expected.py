"""The instance data of a machine, and checks that the machine has applied it.

A machine has two network cards; the data selects the second one by its MAC address.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from tests.e2e.boot import SEED, Boot, Interface
from tests.e2e.lab import Lab
from tests.e2e.machine import Hardware

MACHINE = Hardware(
    "4210aa00-0000-4000-8000-000000000001", ("00:50:56:00:00:01", "00:50:56:00:00:02")
)
CONSOLE_ONLY = replace(MACHINE, only_one_port=True)
ONE_CARD = Hardware("4210cc00-0000-4000-8000-000000000003", ("00:50:56:00:00:05",), has_dhcp=True)
CLONE = Hardware("4210bb00-0000-4000-8000-000000000002", ("00:50:56:00:00:03", "00:50:56:00:00:04"))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC20Q6Q9Gpyvl7QM4ZdK6Y2sVszlLzRR9yUEKujZP2Jn admin"
CONFIG = "/etc/vmw-metadata-agent.conf"

TOLD_S = 5.0  # from the end of cloud-final until the server shows how the boot ended
IDLE_BOOT_S = 45.0  # of a boot on an idle machine with two cores

FEW_KEYS = {"ssh_genkeytypes": ["ed25519", "ecdsa"]}  # an RSA key takes long under emulation


@dataclass(frozen=True)
class Expected:
    """Instance data that the server has, and that the machine should apply."""

    instance_id: str
    hostname: str
    address: str
    userdata: object
    hardware: Hardware = MACHINE

    @property
    def mac(self) -> str:
        """MAC address of the configured card; the other card is not used."""
        return self.hardware.macs[1]

    def serve(self, lab: Lab) -> None:
        lab.serve(
            metadata={
                "instance-id": self.instance_id,
                "hostname": f"{self.hostname}.example.com",
                "public-keys": [KEY],
            },
            network={
                "mac-address": self.mac,
                "address": self.address,
                "gateway": "192.0.2.1",
                "search": "example.com example.net",
                "nameservers": ["192.0.2.53", "192.0.2.54"],
            },
            userdata=self.userdata,
        )


def cloud_config(word: str) -> dict[str, object]:
    return {
        "locale": "C.UTF-8",  # the image has no other locale
        **FEW_KEYS,
        "write_files": [{"path": "/root/file", "content": word}],
        "runcmd": [["sh", "-c", f"echo {word} on $(hostname) >> /root/command"]],
    }


def script() -> str:
    """Return a script of 400 kB that prints its own digest."""
    lines = (f"# line {number:05} of 400 kB of user-data" for number in range(12_000))
    return "\n".join(["#!/bin/sh", *lines, 'sha256sum < "$0" > /root/digest', ""])


FIRST = Expected("i-1", "web1", "192.0.2.10/24", cloud_config("first"))
SECOND = Expected("i-2", "web2", "192.0.2.20/24", cloud_config("second"))
CLONED = Expected("i-3", "web3", "192.0.2.30/24", cloud_config("third"), CLONE)
LARGE = Expected("i-4", "web4", "192.0.2.40/24", script())


def check_identity(boot: Boot, expected: Expected) -> None:
    """Check everything but the user-data."""
    assert "ordering cycle" not in boot.journal
    assert "vmw-metadata-report.service" not in boot.failed_units
    assert boot.result["errors"] == []
    assert SEED in boot.result["datasource"]
    assert boot.instance_id == expected.instance_id
    assert boot.hostname == expected.hostname
    assert boot.interface(expected.mac) == Interface("eth0", (expected.address,))
    assert boot.interface(expected.hardware.macs[0]).addresses == ()
    assert boot.gateways == [("192.0.2.1", "eth0")]
    assert boot.resolver == {
        "nameserver": ["192.0.2.53", "192.0.2.54"],
        "search": ["example.com", "example.net"],
    }
    assert KEY in boot.disk.text("/home/debian/.ssh/authorized_keys")


def check_told_soon(lab: Lab, boot: Boot) -> None:
    """Check that the server has shown the outcome in time, and that it has the guest's host keys.

    A machine that boots ten times as slowly as an idle one has ten times as long to report.
    """
    slowness = max(1.0, boot.seconds / IDLE_BOOT_S)
    told_s = lab.onlooker.told_s
    lab.saw(
        f"{lab.onlooker.told.outcome['status']}: shown {told_s:.1f} s after cloud-init's last "
        f"words, {boot.report_s:.1f} s after cloud-final; load {lab.onlooker.load:.1f}"
    )
    assert told_s < TOLD_S * slowness
    assert lab.known_hosts == boot.host_keys


def check_script(boot: Boot) -> None:
    assert len(script()) > 400_000
    digest = hashlib.sha256(script().encode()).hexdigest()
    assert boot.disk.text("/root/digest").split() == [digest, "-"]


def identity(of: Expected) -> str:
    return f"instance-id {of.instance_id}, host {of.hostname}, eth0 {of.mac} {of.address}"


def check_seed_is_private(boot: Boot) -> None:
    assert boot.disk.mode(f"{SEED}/.") == 0o700
    assert boot.disk.mode(f"{SEED}/user-data") == 0o600
