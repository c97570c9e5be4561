"""Show the progress of a load test: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from vmw_cloudinit_metadata.client.crew import Crew
from vmw_cloudinit_metadata.client.loadplan import LoadPlan
from vmw_cloudinit_metadata.client.report.words import plural

QUIET_LINE_S = 5.0


class Progress:
    """Counts boots, or seconds if the plan is a duration."""

    def __init__(self, plan: LoadPlan) -> None:
        self._is_timed = plan.seconds > 0
        self._label = plan.scenario
        self._length = int(plan.seconds) if self._is_timed else plan.boots or plan.vms
        self._is_terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._shown_s = time.monotonic()

    def show(self, crew: Crew) -> None:
        if self._is_terminal:
            self._show_bar(crew)
        elif time.monotonic() - self._shown_s > QUIET_LINE_S:
            self._shown_s = time.monotonic()
            text = f"{plural(crew.tally.completed, 'boot')}, {_state(crew)}"
            click.echo(f"{self._label}: {crew.seconds:.0f} s: {text}", err=True)

    def _show_bar(self, crew: Crew) -> None:
        if self._bar is None:
            self._bar = click.progressbar(
                length=self._length,
                label=self._label,
                file=sys.stderr,
                item_show_func=lambda state: state,
                show_pos=True,
            )
        done = int(crew.seconds) if self._is_timed else crew.tally.completed + crew.tally.failed
        self._bar.update(min(done, self._length) - self._bar.pos, _state(crew))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.render_finish()


def _state(crew: Crew) -> str:
    boots = crew.tally.phases.get("boot")
    rate = crew.tally.completed / crew.seconds if crew.seconds else 0.0
    p99_ms = boots.percentile(99) if boots else 0.0
    return f"{rate:,.0f}/s, {plural(crew.tally.failed, 'failure')}, p99 {p99_ms:,.0f} ms"
