"""One process of a load test: `python -m vmw_cloudinit_metadata.client.worker SHARE`.

Tells the process that started it, in lines of JSON on standard output, when it is prepared, what
has happened since the last line, and how it ended. Begins when a byte comes on standard input, and
ends at once when that is closed.
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

from vmw_cloudinit_metadata.client.plan import Share
from vmw_cloudinit_metadata.client.scenarios import Play
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.serving.admission import raise_descriptor_limit
from vmw_cloudinit_metadata.settings.errors import ConfigError

TELL_EVERY_S = 0.25


class Worker:
    def __init__(self, share: Share) -> None:
        self._may_go = Event()
        gevent.spawn(self._listen)
        self._play = Play(share, self._gather)

    def run(self) -> None:
        left_out = self._play.left_out
        if not self._play.fleet:
            raise ConfigError(f"there is no VM to play: {''.join(left_out[:1]) or 'no file'}")
        if left_out:
            _tell({"left_out": [len(left_out), left_out[0]]})
        teller = gevent.spawn(self._tell_on)
        self._play.run()
        cpu_share = self._play.cpu_share
        teller.kill()
        self._tell_tally()
        _tell({"done": {"cpu_share": cpu_share}})

    def _gather(self) -> None:
        _tell({"gathered": True})
        self._may_go.wait()

    def _listen(self) -> None:
        while True:
            wait_read(0)
            if not os.read(0, 1):
                os._exit(3)  # nobody is interested any more
            self._may_go.set()

    def _tell_on(self) -> None:
        while True:
            gevent.sleep(TELL_EVERY_S)
            self._tell_tally()

    def _tell_tally(self) -> None:
        _tell({"tally": self._play.tally.take()})


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the whole group
    raise_descriptor_limit()
    try:
        Worker(Share.from_json(json.loads(sys.argv[1]))).run()
    except (ConfigError, DriverError) as error:
        _tell({"error": str(error)})


if __name__ == "__main__":
    main()
