"""How the boot ended: what cloud-init says of it, in its status and, of older ones, in its log."""

import re
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Tuple

from vmw_cloudinit_metadata.guest.agent.osfiles import read_end
from vmw_cloudinit_metadata.guest.agent.responses import load_json
from vmw_cloudinit_metadata.guest.agent.system import System

STATUS = "/run/cloud-init/status.json"
RESULT = "/run/cloud-init/result.json"
LOG = "/var/log/cloud-init.log"

MAX_LOG_BYTES = 1024 * 1024  # of the log's end; a boot writes some 100 kB
MAX_STAGE_S = 1e6
STAGE = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
LEVELS = ("CRITICAL", "ERROR", "WARNING", "DEPRECATED")  # the worst first
BEGIN_OF_BOOT = "running 'init-local'"
LOGGED = re.compile(r"[\d-]{10} [\d:,]+ - [^\[]+\[(CRITICAL|ERROR|WARNING)\]: (.*)")


class BootOutcome(NamedTuple):
    """Errors are texts of cloud-init, which may quote the user-data; stages are in seconds."""

    status: str  # done, degraded or error
    errors: List[str]
    stages: Dict[str, float]


def read_outcome(system: System) -> BootOutcome:
    """Return the outcome of this boot, in which cloud-init has ended."""
    status = first_version(system.read(STATUS))
    result = first_version(system.read(RESULT))
    stages = {name: stage for name, stage in status.items() if isinstance(stage, dict)}
    failures = [*unfinished(status, result), *other_data(status)]
    for holder in (*stages.values(), result):
        failures += texts_in(holder.get("errors"))
    if any("recoverable_errors" in stage for stage in stages.values()):
        warnings = recoverable(stages.values())
    else:  # cloud-init before 23.4
        warnings = logged(read_end(system.at(LOG), MAX_LOG_BYTES))
    word = "error" if failures else "degraded" if warnings else "done"
    errors = list(dict.fromkeys([*failures, *warnings]))
    return BootOutcome(word, errors, dict(durations(stages)))


def first_version(text: str) -> Dict[str, Any]:
    """Return what is below `v1` in a JSON text of cloud-init; nothing if there is none."""
    try:
        found = load_json(text)["v1"]
    except (ValueError, TypeError, LookupError):
        return {}
    return found if isinstance(found, dict) else {}


def unfinished(status: Dict[str, Any], result: Dict[str, Any]) -> Iterator[str]:
    if not status:
        yield "cloud-init has written no status: it did not run, or its first stage failed"
    elif not result:
        stage = status.get("stage")
        where = f"it ended in the stage {stage}" if stage else "its final stage did not run"
        yield f"cloud-init did not finish: {where}"


def other_data(status: Dict[str, Any]) -> Iterator[str]:
    source = status.get("datasource")
    if isinstance(source, str) and "NoCloud" not in source:
        yield f"cloud-init used {source}, and not the data of the server"


def texts_in(found: Any) -> List[str]:
    return [str(text) for text in found] if isinstance(found, list) else []


def recoverable(stages: Iterable[Dict[str, Any]]) -> List[str]:
    """Return the errors of all stages that cloud-init has continued after, the worst first."""
    found = [stage.get("recoverable_errors") for stage in stages]
    by_level = [levels for levels in found if isinstance(levels, dict)]
    return [
        f"{level}: {text}"
        for level in LEVELS
        for levels in by_level
        for text in texts_in(levels.get(level))
    ]


def logged(log: str) -> List[str]:
    """Return the same from the log of a cloud-init that has no list of them."""
    lines = log[max(log.rfind(BEGIN_OF_BOOT), 0) :].split("\n")
    matches = [match.groups() for match in map(LOGGED.match, lines) if match]
    return [f"{level}: {text}" for level in LEVELS for found, text in matches if found == level]


def durations(stages: Dict[str, Dict[str, Any]]) -> Iterator[Tuple[str, float]]:
    """Yield the name of each stage and how many seconds it took."""
    for name, stage in filter(lambda item: STAGE.match(item[0]), stages.items()):
        began_s, ended_s = stage.get("start"), stage.get("finished")
        seconds = (
            ended_s - began_s if isinstance(began_s, float) and isinstance(ended_s, float) else -1.0
        )
        if 0 <= seconds < MAX_STAGE_S:  # a clock may have been set meanwhile
            yield name, round(seconds, 1)
