"""Accepts connections while there is room, and refuses the others at once."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from contextlib import suppress
from socket import SocketType, socket
from typing import Any

from gevent.server import StreamServer

from vmw_cloudinit_metadata.process.greenlets import Greenlets

_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class Acceptor(StreamServer):
    """Accepts the connections of one listener.

    `is_welcome` decides by the peer's address. Then `begin` is called, and `serve` in a greenlet
    with its result; `serve` closes the socket. When no descriptor is left, a connection waits for
    the hub's next turn if `frees_descriptor`; else it is closed, and `on_exhausted` called.
    """

    def __init__(
        self,
        listener: socket,
        begin: Callable[[Any, tuple[Any, ...]], Any],
        serve: Callable[[Any, Any], None],
        is_welcome: Callable[[str], bool],
        frees_descriptor: Callable[[], bool],
        on_exhausted: Callable[[str], None],
    ) -> None:
        self._begin = begin
        self._is_welcome = is_welcome
        self._frees_descriptor = frees_descriptor
        self._on_exhausted = on_exhausted
        self._spare = os.open(os.devnull, os.O_RDONLY)
        self._greenlets = Greenlets(serve)
        self._kind = (listener.family, listener.type, listener.proto)
        super().__init__(listener, serve)

    def do_read(self) -> Any:
        """Return the next connection to serve, its socket and the result of `begin`; None if none
        waits."""
        try:
            descriptor, address = self._accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR:
                raise
            # The system reports this before it checks whether a connection waits.
            if self._has_waiting() and not self._frees_descriptor():
                self._refuse_without_descriptor()
            return None
        if self._spare < 0:  # this connection's descriptor has to become the spare one
            self._refuse(descriptor, address)
            return None
        if not self._is_welcome(str(address[0])):
            os.close(descriptor)
            return None
        # Not gevent's, which has two watchers of its own. Nor Python's, which can become a file.
        accepted = SocketType(*self._kind, descriptor)
        accepted.setblocking(False)
        return accepted, self._begin(accepted, address)

    def do_handle(self, *accepted: Any) -> None:
        """Like gevent's, without the frame that each connection would keep on its stack."""
        self._greenlets.spawn(*accepted)

    def _accept(self) -> tuple[int, tuple[Any, ...]]:
        accepted: tuple[int, tuple[Any, ...]] = self.socket._accept()  # type: ignore[attr-defined]
        return accepted

    def _has_waiting(self) -> bool:
        poll = select.poll()
        poll.register(self.socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        super().close()
        self._greenlets.close()
        self._give_spare()

    def _refuse_without_descriptor(self) -> None:
        """Accept with the spare descriptor, and close: otherwise the system alone would accept the
        connection, and it would hang."""
        self._give_spare()
        with suppress(OSError):  # a look-up's thread took it: the next turn tries again
            self._refuse(*self._accept())
        self._take_spare()

    def _refuse(self, descriptor: int, address: tuple[Any, ...]) -> None:
        os.close(descriptor)
        self._take_spare()
        self._on_exhausted(str(address[0]))

    def _take_spare(self) -> None:
        if self._spare < 0:
            with suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)

    def _give_spare(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
