"""The command line: runs targets beside each other, and prints what they found."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.coverage_fuzz.targets import TARGETS, Target

WORK = Path(".fuzz")
_HANG_S = 30  # by the clock; the targets themselves look at processor time
_MEMORY_MB = 1024
_ENDS_S = 60.0  # after its time, at the latest
NO_ATHERIS = (
    "atheris is not installed, or has no wheel for this Python ({}.{}): "
    "make fuzz-coverage needs it, and no other check does"
)


@dataclass(frozen=True)
class Outcome:
    target: Target
    inputs: int
    covered: int
    findings: Sequence[Path]
    code: int
    log: Path

    @property
    def is_good(self) -> bool:
        return self.code == 0 and not self.findings and self.inputs > 0

    def __str__(self) -> str:
        verdict = "ok" if self.is_good else f"FAILED ({len(self.findings)} findings)"
        return (
            f"{self.target.name:<16} {self.inputs:>9,} inputs  {self.covered:>6} covered  {verdict}"
        )


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    if arguments.reproduce:
        return _reproduce(TARGETS[arguments.reproduce[0]], Path(arguments.reproduce[1]))
    if not find_spec("atheris"):
        print(NO_ATHERIS.format(*sys.version_info))
        return 1
    names = arguments.targets or list(TARGETS)
    if wrong := [name for name in names if name not in TARGETS]:
        print(f"no target {', '.join(wrong)}: there are {', '.join(TARGETS)}")
        return 2
    with ThreadPoolExecutor(arguments.jobs) as pool:
        run = pool.map(lambda name: _fuzz(TARGETS[name], arguments), names)
        outcomes = []
        for outcome in run:
            print(outcome, flush=True)
            outcomes.append(outcome)
    bad = [outcome for outcome in outcomes if not outcome.is_good]
    for outcome in bad:
        _explain(outcome)
    print(f"{len(outcomes) - len(bad)} passed, {len(bad)} failed")
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.coverage_fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the mutations (0: another each time)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="at a time (processors)")
    parser.add_argument("--work", type=Path, default=WORK, help=f"corpus and findings ({WORK})")
    parser.add_argument("--reproduce", nargs=2, metavar=("TARGET", "FILE"))
    return parser


def _reproduce(target: Target, place: Path) -> int:
    try:
        target.run(place.read_bytes())
    except Exception:  # whatever the parser raises is what is looked for
        traceback.print_exc()
        return 1
    print(f"{target.name}: {place} holds")
    return 0


def _fuzz(target: Target, arguments: argparse.Namespace) -> Outcome:
    seconds, work = arguments.seconds, arguments.work
    findings, corpus, seeds = (
        work / kind / target.name for kind in ("findings", "corpus", "seeds")
    )
    for directory in (findings, corpus, seeds):
        directory.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.inputs()):
        (seeds / f"{number}").write_bytes(data)
    before = set(findings.iterdir())
    log = work / f"{target.name}.log"
    command = [
        *(sys.executable, "-m", "tests.coverage_fuzz.one", target.name),
        f"-max_total_time={seconds}",
        f"-seed={arguments.seed}",
        f"-timeout={_HANG_S}",
        f"-report_slow_units={10 * _HANG_S}",  # by the clock, and the machine may be busy
        f"-rss_limit_mb={_MEMORY_MB}",
        f"-max_len={target.max_bytes}",
        f"-dict={Path(__file__).parent / target.tokens}",
        f"-artifact_prefix={findings}/",
        "-print_final_stats=1",
        *map(str, (corpus, seeds)),
    ]
    with log.open("wb") as out:
        code = subprocess.run(
            command, stdout=out, stderr=out, timeout=seconds + _ENDS_S + _HANG_S, check=False
        ).returncode
    told = log.read_text(errors="replace")
    found = sorted(set(findings.iterdir()) - before)
    inputs = _last(r"number_of_executed_units: (\d+)", told) or _last(r"^#(\d+)", told)
    return Outcome(target, inputs, _last(r"cov: (\d+)", told), found, code, log)


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text, re.MULTILINE)
    return int(found[-1]) if found else 0


def _explain(outcome: Outcome) -> None:
    told = outcome.log.read_text(errors="replace")
    _, begun, raised = told.partition("=== Uncaught Python exception: ===")
    shown = (raised if begun else told[-2000:]).partition("\n==")[0]
    print(f"\n{outcome.target.name}: exit code {outcome.code}{shown[:3000].rstrip()}")
    for finding in outcome.findings:
        print(f"  python -m tests.coverage_fuzz --reproduce {outcome.target.name} {finding}")
    print(f"  the whole log: {outcome.log}")


if __name__ == "__main__":
    sys.exit(main())
