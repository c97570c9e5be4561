"""The edge of a process that shares a fleet, played: what a test needs of a FleetLink."""

from __future__ import annotations

from collections.abc import Callable

from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply


class PlayedFleetLink:
    """Keeps the handlers; `asked_for` says what the database does."""

    def __init__(self) -> None:
        self.is_connected = True
        self.handlers: dict[str, Callable[[Fields, bytes], None]] = {}
        self.connected: Callable[[], None] = lambda: None

    def on(self, kind: str, handler: Callable[[Fields, bytes], None]) -> None:
        self.handlers[kind] = handler

    def when_connected(self, call: Callable[[], None]) -> None:
        self.connected = call

    def ask(
        self,
        kind: str,
        fields: Fields,
        payload: bytes,
        within_s: float,
        then: Callable[[Reply | None], None],
    ) -> None:
        assert within_s > 0
        self.asked_for(kind, fields, payload, then)

    def asked_for(
        self, kind: str, fields: Fields, payload: bytes, then: Callable[[Reply | None], None]
    ) -> None:
        """Reply by `then`, or not."""
        raise NotImplementedError
