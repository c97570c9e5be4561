"""Reports to the server how the boot ended, and which SSH host keys the machine has."""

import re

from vmw_cloudinit_metadata.guest.agent.agentoutput import put
from vmw_cloudinit_metadata.guest.agent.bootoutcome import read_outcome
from vmw_cloudinit_metadata.guest.agent.conf import Settings
from vmw_cloudinit_metadata.guest.agent.documentset import sha256
from vmw_cloudinit_metadata.guest.agent.failures import AgentError, ErrorAnswer, Unusable
from vmw_cloudinit_metadata.guest.agent.journal import Journal
from vmw_cloudinit_metadata.guest.agent.machinekeys import host_keys
from vmw_cloudinit_metadata.guest.agent.osfiles import read_end
from vmw_cloudinit_metadata.guest.agent.outcomereport import boot_report
from vmw_cloudinit_metadata.guest.agent.question import Asking, Question
from vmw_cloudinit_metadata.guest.agent.responses import load_json
from vmw_cloudinit_metadata.guest.agent.seeddirectory import SeedDir
from vmw_cloudinit_metadata.guest.agent.system import System

REPORT_EVERY_S = 11.0  # the server takes one report of a VM in 10 s
BOOT_ID = "/proc/sys/kernel/random/boot_id"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def run_report(system: System, settings: Settings, journal: Journal, dry: bool = False) -> int:
    """Return the exit code: 1 if there is an outcome and the server does not have it."""
    memory = SeedDir(system.itself(settings["seed-dir"])).memory()
    if not settings["report"] or memory is None or not system.has_uuid(memory.machine):
        reason = "this machine has no data of a server" if settings["report"] else "report = no"
        journal.log(f"{reason}: nothing is reported")
        return 0
    outcome = read_outcome(system)
    keys = list(host_keys(system))
    boot = read_end(system.at(BOOT_ID), 100).strip()  # /proc/sys gives nothing to who reads 8 MB
    try:
        body = boot_report(
            memory.served_instance_id, outcome, keys, boot if UUID.match(boot) else ""
        )
        if dry:
            put(body + b"\n")
            return 0
        question = Question("STATUS", body, lambda answer: confirm(answer, body), REPORT_EVERY_S)
        Asking(system, settings, question, journal.log).run()
    except AgentError as error:
        journal.log(f"the outcome of this boot, {outcome.status}, was not reported: {error}")
        return 0 if isinstance(error, ErrorAnswer) and error.error == "unknown-request" else 1
    journal.log(f"reported how this boot ended: {outcome.status}, {len(body)} bytes")
    return 0


def confirm(answer: bytes, body: bytes) -> None:
    """Raise Unusable if the server does not confirm this report."""
    try:
        is_same = load_json(answer.decode())["sha256"] == sha256(body)
    except (ValueError, TypeError, LookupError):
        is_same = False
    if not is_same:
        raise Unusable("the server confirms another report")
