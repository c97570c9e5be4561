"""The VMs to play: their identities, and the documents each must get. Reads instance files."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vmw_cloudinit_metadata.client.expectation import Exactly, Expectation, Named
from vmw_cloudinit_metadata.client.played import with_token
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.files.vmnames import vm_names
from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.identitykeys import NumberedKey

# VC UUIDs are derived from names, so that a VM has the same one in every run.
_NAMESPACE = uuid.UUID("3e1ae0d3-4ba5-5c6b-9a44-6bb3a4b0c7a5")


@dataclass(frozen=True, slots=True)
class FleetVm:
    """One VM, and the documents it must get."""

    machine: Machine
    expectation: Expectation

    def __str__(self) -> str:
        return str(self.machine)

    def with_token(self, key: NumberedKey) -> FleetVm:
        """Return the VM with its identity token in the service URI."""
        return replace(self, machine=with_token(self.machine, key))


def name_of(pattern: str, number: int) -> str:
    """Return a name from a pattern such as `vm-{:05}`; raise ConfigError."""
    try:
        return pattern.format(number)
    except (ValueError, IndexError, KeyError) as error:
        raise ConfigError(
            f"--pattern: found {pattern!r}, expected one such as vm-{{:05}}"
        ) from error


def by_pattern(pattern: str, numbers: Sequence[int], uri: str) -> list[FleetVm]:
    return [_by_name(name_of(pattern, number), uri) for number in numbers]


def _by_name(name: str, uri: str) -> FleetVm:
    machine = _machine(name, uri)
    return FleetVm(machine, Named(name, machine.vc_uuid))


def stems(directory: Path, defaults: str | None) -> list[str]:
    """Return the names of the VMs' files and entries; raise DriverError."""
    return vm_names(str(directory), defaults)


def by_directory(
    directory: Path, defaults: str | None, chosen: Sequence[str], uri: str, peer_address: str
) -> tuple[list[FleetVm], list[str]]:
    """Return a VM for each chosen file or entry, and the reasons why others were skipped.

    `peer_address` is what the server takes for that of their host.
    """
    options = {"directory": str(directory)} | ({"defaults": defaults} if defaults else {})
    driver = FileDriver(options)
    found = [_of_file(driver, stem, uri, peer_address) for stem in chosen]
    return [vm for vm in found if isinstance(vm, FleetVm)], [
        vm for vm in found if isinstance(vm, str)
    ]


def _of_file(driver: FileDriver, stem: str, uri: str, peer_address: str) -> FleetVm | str:
    """Return the VM, or why the file is skipped."""
    machine = replace(_machine(stem, uri), peer_address=peer_address)
    try:
        instance = driver.get_instance(machine)
        if instance is None:
            return driver.explain(machine)
        return FleetVm(machine, Exactly(nocloud.render(instance, machine)))
    except (DriverError, InvalidInstanceData) as error:
        return str(error)


def _machine(name: str, uri: str) -> Machine:
    """Return the machine of a name; a UUID names the VM with this VC UUID."""
    vc_uuid = parse_uuid(name)
    if vc_uuid:
        return Machine(name=f"vm {vc_uuid[:8]}", vc_uuid=vc_uuid, service_uri=uri)
    return Machine(name=name, vc_uuid=str(uuid.uuid5(_NAMESPACE, name)), service_uri=uri)
