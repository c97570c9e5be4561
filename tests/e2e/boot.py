"""The result of one boot of a machine, read from its disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tests.e2e.disk import Disk

SEED = "/var/lib/cloud/seed/nocloud"
PROOF = "/var/lib/e2e"


@dataclass(frozen=True)
class Interface:
    name: str
    addresses: tuple[str, ...]  # global addresses, with prefix length


@dataclass(frozen=True)
class Boot:
    disk: Disk
    seconds: float

    @property
    def instance_id(self) -> str:
        return self.disk.text("/var/lib/cloud/data/instance-id").strip()

    @property
    def hostname(self) -> str:
        """The host name of the running machine, which must also be in /etc/hostname."""
        running, written = self.disk.text(f"{PROOF}/hostname"), self.disk.text("/etc/hostname")
        assert running == written
        return running.strip()

    def interface(self, mac: str) -> Interface:
        """The interface with this MAC address, whatever its name."""
        found = next(row for row in self._proof("addresses") if row["address"] == mac)
        addresses = [row for row in found["addr_info"] if row["scope"] == "global"]
        return Interface(
            found["ifname"], tuple(f"{row['local']}/{row['prefixlen']}" for row in addresses)
        )

    def mtu(self, mac: str) -> int:
        found = next(row for row in self._proof("addresses") if row["address"] == mac)
        return int(found["mtu"])

    @property
    def routes(self) -> list[tuple[str, str, str]]:
        """Destination, gateway and interface of the routes with a gateway."""
        rows = self._proof("routes")
        return [(r["dst"], r["gateway"], r["dev"]) for r in rows if "gateway" in r]

    @property
    def gateways(self) -> list[tuple[str, str]]:
        """Gateway and interface of the routes with a gateway."""
        return [(row["gateway"], row["dev"]) for row in self._proof("routes") if "gateway" in row]

    @property
    def resolver(self) -> dict[str, list[str]]:
        """{"nameserver": […], "search": […]}"""
        found: dict[str, list[str]] = {}
        text = self.disk.text(f"{PROOF}/resolv.conf")
        for key, value in re.findall(r"^(nameserver|search) +(.*)$", text, re.MULTILINE):
            found.setdefault(key, []).extend(value.split())
        return found

    @property
    def result(self) -> dict[str, Any]:
        """cloud-init's result.json: {"datasource": …, "errors": […]}"""
        result: dict[str, Any] = self._proof("result")["v1"]
        return result

    @property
    def host_keys(self) -> set[str]:
        """Type and key of each host key that sshd shows, as ssh-keyscan prints it."""
        lines = self.disk.text(f"{PROOF}/keyscan").splitlines()
        return {line.partition(" ")[2] for line in lines if not line.startswith("#")}

    @property
    def boot_id(self) -> str:
        return self.disk.text(f"{PROOF}/boot-id").strip()

    @property
    def failed_units(self) -> list[str]:
        return [line.split()[0] for line in self.disk.text(f"{PROOF}/failed").splitlines()]

    @property
    def virtualization(self) -> str:
        return self.disk.text(f"{PROOF}/virtualization").strip()

    @property
    def journal(self) -> str:
        return self.disk.text(f"{PROOF}/journal")

    @property
    def agent_log(self) -> str:
        """The agent's lines in the journal of this boot."""
        return "\n".join(re.findall(r"vmw-metadata-agent\[\d+\]: (.*)", self.journal))

    @property
    def report_log(self) -> str:
        """The same of its report on how the boot ended."""
        return "\n".join(re.findall(r"vmw-metadata-report\[\d+\]: (.*)", self.journal))

    @property
    def report_s(self) -> float:
        """How many seconds after the end of cloud-final its last line was written."""
        (ended,) = re.findall(
            r"^\[ *([\d.]+)\] .*(?:Finished|Failed to start) cloud-final\.service",
            self.journal,
            re.M,
        )
        reported = re.findall(r"^\[ *([\d.]+)\] vmw-metadata-report\[\d+\]:", self.journal, re.M)
        return float(reported[-1]) - float(ended)

    def _proof(self, name: str) -> Any:
        return self.disk.json(f"{PROOF}/{name}")
