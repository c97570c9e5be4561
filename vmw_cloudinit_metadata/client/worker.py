"""One process of a load test: `python -m vmw_cloudinit_metadata.client.worker SHARE`.

Reports to its parent in lines of JSON on standard output: when it is ready, the counts since the
last line, and the end. Starts when a byte arrives on standard input, and exits when that is closed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import gevent
from gevent.event import Event
from gevent.socket import wait_read

from vmw_cloudinit_metadata.client.loadplan import Share
from vmw_cloudinit_metadata.client.scenarios import Play
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.serving.admission import raise_descriptor_limit
from vmw_cloudinit_metadata.settings.errors import ConfigError

REPORT_EVERY_S = 0.25


class LoadProcess:
    def __init__(self, share: Share) -> None:
        self._may_go = Event()
        gevent.spawn(self._listen)
        self._play = Play(share, self._gather)

    def run(self) -> None:
        left_out = self._play.left_out
        if not self._play.fleet:
            raise ConfigError(f"no VM to play: {''.join(left_out[:1]) or 'no instance files'}")
        if left_out:
            _report({"left_out": [len(left_out), left_out[0]]})
        reporter = gevent.spawn(self._report_regularly)
        self._play.run()
        cpu_share = self._play.cpu_share
        reporter.kill()
        self._report_tally()
        _report({"done": {"cpu_share": cpu_share}})

    def _gather(self) -> None:
        _report({"gathered": True})
        self._may_go.wait()

    def _listen(self) -> None:
        while True:
            wait_read(0)
            if not os.read(0, 1):
                os._exit(3)  # the parent has ended
            self._may_go.set()

    def _report_regularly(self) -> None:
        while True:
            gevent.sleep(REPORT_EVERY_S)
            self._report_tally()

    def _report_tally(self) -> None:
        _report({"tally": self._play.tally.take()})


def _report(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the terminal sends it to the whole group; the parent handles it
    raise_descriptor_limit()
    try:
        LoadProcess(Share.from_json(json.loads(sys.argv[1]))).run()
    except (ConfigError, DriverError) as error:
        _report({"error": str(error)})


if __name__ == "__main__":
    main()
