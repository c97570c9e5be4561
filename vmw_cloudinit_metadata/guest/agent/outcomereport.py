"""The report of a boot: one JSON text of a bounded length. Pure."""

import json
import unicodedata
from typing import Any, Dict, Iterator, List

from vmw_cloudinit_metadata.guest.agent.bootoutcome import BootOutcome
from vmw_cloudinit_metadata.guest.agent.failures import Unusable

MAX_REPORT_BYTES = 3000
MAX_ERRORS = 8
MAX_ERROR_CHARS = 200
SHORTER = (100, 50, 25)  # characters of an error, where a report is too long
MAX_KEYS = 6
MAX_STAGES = 16


def boot_report(instance: str, outcome: BootOutcome, host_keys: List[str], boot: str) -> bytes:
    """Return the report, without what it has no room for; raise Unusable."""
    whole = {
        "v": 1,
        "instance": instance,
        "status": outcome.status,
        "errors": [shown(text, MAX_ERROR_CHARS) for text in outcome.errors[:MAX_ERRORS]],
        "stages": dict(list(outcome.stages.items())[:MAX_STAGES]),
        "hostkeys": host_keys[:MAX_KEYS],
        "boot": boot,
    }
    for report in ever_shorter(whole):
        body = json.dumps(report, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )
        if len(body) <= MAX_REPORT_BYTES:
            return body
    raise Unusable(f"the instance-id is too long for a report of {MAX_REPORT_BYTES} bytes")


def ever_shorter(report: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    """Yield the report, then without stages, with shorter errors, and with fewer keys."""
    yield report
    report = dict(report, stages={})
    yield report
    for chars in SHORTER:
        report = dict(report, errors=[shown(text, chars) for text in report["errors"]])
        yield report
    while report["hostkeys"]:
        report = dict(report, hostkeys=report["hostkeys"][:-1])
        yield report


def shown(text: str, max_chars: int) -> str:
    """Return one line of at most so many characters, without control characters."""
    clean = "".join(char if is_shown(char) else " " for char in text)
    line = " ".join(clean.split())
    return line if len(line) <= max_chars else line[: max_chars - 3] + "..."


def is_shown(char: str) -> bool:
    """Return whether a server takes it, which may have an older Python and know fewer characters.

    All know those of Unicode 3.2.
    """
    return char.isprintable() and unicodedata.ucd_3_2_0.category(char) != "Cn"
