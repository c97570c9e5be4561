"""Checks a driver against docs/drivers.md. All calls are made in threads, as the server does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.loading import class_fault
from vmw_cloudinit_metadata.drivers.store import Store
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid
from vmw_cloudinit_metadata.testing.driverfaults import CALL_S, DriverFaults
from vmw_cloudinit_metadata.testing.lookupcheck import LookupCheck
from vmw_cloudinit_metadata.testing.programcheck import ProgramCheck


def machine(
    name: str | None = None,
    vc_uuid: str | None = None,
    bios_uuid: str | None = None,
    service_uri: str = "my-metadata",
    **further: Any,
) -> Machine:
    """Return the identity of a VM, as the server makes it. Raise ValueError for an invalid UUID.

    UUIDs may have any usual form. `further` has more of Machine's fields: `peer_address`.
    """
    uuids = {"vc_uuid": vc_uuid, "bios_uuid": bios_uuid, **further}
    for key in ("vc_uuid", "bios_uuid", "location_uuid"):
        given = uuids.get(key)
        if given is not None and (parsed := parse_uuid(str(given))) is None:
            raise ValueError(f"{key}: found {given!r}, expected 32 hexadecimal digits")
        uuids[key] = parsed if given is not None else None
    return Machine(
        **{"peer_address": "192.0.2.1", **uuids, "name": name, "service_uri": service_uri}
    )


def check_driver(
    driver_class: type[Driver | Store],
    options: Mapping[str, Any],
    known: Iterable[Machine],
    unknown: Machine | None = None,
) -> None:
    """Raise AssertionError that lists all in which a driver or store differs from its contract.

    `known` are VMs that have data with these options; `unknown` is one that has none (None: the
    driver has data for every VM). The driver is made several times.
    """
    faults = driver_faults(driver_class, options, known, unknown)
    if faults:
        listed = "".join(f"\n- {fault}" for fault in faults)
        raise AssertionError(f"{driver_class.__name__} breaks the contract of drivers:{listed}")


def driver_faults(
    driver_class: type[Driver | Store],
    options: Mapping[str, Any],
    known: Iterable[Machine],
    unknown: Machine | None = None,
) -> list[str]:
    """Return what `check_driver` reports, a sentence each."""
    known = list(known)
    if not known:
        raise ValueError("known: found no machine, expected at least one that has data")
    fault = class_fault(driver_class)
    if fault:
        return [fault]
    findings = DriverFaults(driver_class.__name__)
    program = ProgramCheck(findings, driver_class, dict(options))
    driver = program.started()
    if driver is not None:
        lookups = LookupCheck(findings, driver, known, unknown)
        tokens = lookups.run()
        _check_watch(findings, driver)
        for one, token in tokens.items():
            lookups.check_held(one, token)
        program.close(driver)
    return list(dict.fromkeys(findings.faults))


def _check_watch(findings: DriverFaults, driver: Driver) -> None:
    reports: list[object] = []
    findings.call("watch", lambda: contract.run(driver, "watch", reports.append), CALL_S)
    if [report for report in reports if not isinstance(report, str)]:
        findings.add("watch", "reports something that is no str")
