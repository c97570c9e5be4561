"""Takes REQUEST_STATUS, with which a guest reports how its boot has ended."""

from __future__ import annotations

import hashlib
import logging
import time

from vmw_cloudinit_metadata.instance.values.dump import json_text
from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import BootReported
from vmw_cloudinit_metadata.protocol import bootreport
from vmw_cloudinit_metadata.protocol.bootreport import BootReport, InvalidReportError
from vmw_cloudinit_metadata.protocol.servedboot import ServedBoot
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Failure
from vmw_cloudinit_metadata.serving.receipt import Receipt
from vmw_cloudinit_metadata.serving.services import Services

INTERVAL_S = 10.0  # one report in this time is read, of a line

_NOT_SERVED = Failure(
    "refused",
    "the guest reports a boot, and has had no meta-data on this connection: it asks again",
    message="The report comes before the meta-data; request METADATA on this line, and report "
    "again",
)
_OTHER_INSTANCE = Failure(
    "refused",
    "the guest reports a boot of another instance-id than it was served",
    message="The report is of another instance-id than the VM was served last on this line; "
    "request METADATA, and report the instance-id in it",
)
_TOO_SOON = Failure(
    "failed",
    f"the guest has reported a boot within the last {INTERVAL_S:g} s",
    message=f"The server takes one report in {INTERVAL_S:g} s; report again after that time",
)

_TEXTS = {
    "done": "has booted",
    "degraded": "has booted, with errors that cloud-init went on after",
    "error": "boot failed",
}


def boot_outcome(
    services: Services, receipt: Receipt, machine: Machine, argument: bytes
) -> bytes | Failure:
    """Report the outcome of a boot, once; return the confirmation."""
    boot = receipt.boot_of(machine)
    if boot is None:
        return _shed(services, "not served", _NOT_SERVED)
    digest, now_s = hashlib.sha256(argument), time.time()
    if boot.report == digest.digest() and boot.reported_s >= boot.served_s:
        return _confirmation(digest.hexdigest())  # the guest has not had the first one
    if 0 <= now_s - boot.reported_s < INTERVAL_S:
        return _shed(services, "too soon", _TOO_SOON)
    receipt.boot = boot._replace(reported_s=now_s, report=b"")
    try:
        report = bootreport.parse(argument)
    except InvalidReportError as error:
        message = f"The report is invalid: {error}"
        failure = Failure("invalid", f"a report of a boot: {error}", message=message)
        return _shed(services, "invalid", failure)
    if report.instance_id != boot.identity.instance_id:
        return _shed(services, "another instance", _OTHER_INSTANCE)
    receipt.boot = boot._replace(reported_s=now_s, report=digest.digest())
    _take(services, receipt, machine, report, boot)
    return _confirmation(digest.hexdigest())


def _shed(services: Services, reason: counters.Unreported, failure: Failure) -> Failure:
    services.counters[counters.REPORTS_REFUSED[reason]] += 1
    return failure


def _take(
    services: Services, receipt: Receipt, machine: Machine, report: BootReport, boot: ServedBoot
) -> None:
    receipt.report()  # what was served comes first
    seconds = max(time.time() - boot.served_s, 0.0)
    services.counters[counters.BOOT_OUTCOMES[report.status]] += 1
    services.outcomes.observe(seconds)
    # The keys of a VM that may be another one are nobody's.
    is_certain = not machine.proof.is_doubt and not receipt.line.is_older
    receipt.line.report(
        BootReported(
            ": ".join((_TEXTS[report.status], *report.errors[:1])),
            status=report.status,
            errors=report.errors,
            stages=report.stages,
            seconds=seconds,
            instance_id=report.instance_id,
            boot_id=report.boot_id,
            hosts=boot.identity.hosts,
            host_keys=report.host_keys if is_certain else (),
        ),
        level=logging.INFO if report.status == "done" else logging.WARNING,
    )


def _confirmation(digits: str) -> bytes:
    return json_text({"sha256": digits}).encode()
