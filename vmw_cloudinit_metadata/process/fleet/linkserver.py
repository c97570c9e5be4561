"""LinkServer: the fleet process's end of the links to the processes of its server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

from vmw_cloudinit_metadata.process.fleet import frames
from vmw_cloudinit_metadata.process.fleet.fleetpart import EVERY_PROCESS
from vmw_cloudinit_metadata.process.fleet.frames import FrameReader, InvalidFrame, Reply, Told
from vmw_cloudinit_metadata.process.peercredentials import credentials_of

MAX_LINKS = 130  # 64 workers, their parent, and as many that have just been replaced
MAX_UNREAD_BYTES = 16 * 1024 * 1024  # of a process that does not read: it is disconnected

_PIECE_BYTES = 256 * 1024


class ProcessLink:
    """The link of one process of the server."""

    def __init__(self, process: int, writer: asyncio.StreamWriter, max_unread_bytes: int) -> None:
        self.process = process
        self._writer = writer
        self._max_unread_bytes = max_unread_bytes

    def send(self, frame: bytes) -> None:
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() + len(frame) > self._max_unread_bytes:
            transport.abort()
        else:
            self._writer.write(frame)

    def reply(self, ask: int, reply: Reply | None) -> None:
        """Answer an ask; None: no, and so for a reply that no frame has room for."""
        if reply:
            with suppress(InvalidFrame):
                head = {"reply": ask, "fields": reply.fields}
                self.send(frames.encode(head, reply.payload))
                return
        self.send(frames.encode({"reply": ask, "fields": None}))


class LinkServer:
    """Accepts the processes of this user; `hear` is called with what each tells and asks."""

    def __init__(
        self,
        hear: Callable[[ProcessLink, Told], None],
        greeting: Callable[[], bytes],
        max_unread_bytes: int = MAX_UNREAD_BYTES,
    ) -> None:
        self._hear = hear
        self._greeting = greeting
        self._max_unread_bytes = max_unread_bytes
        self._links: set[ProcessLink] = set()

    async def start(self, address: str) -> None:
        """Listen on an abstract socket; raise OSError."""
        await asyncio.start_unix_server(self._serve, f"\0{address}")

    def send(self, frame: bytes, process: int = EVERY_PROCESS) -> None:
        for link in list(self._links):
            if process in (EVERY_PROCESS, link.process):
                link.send(frame)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        process, user, _ = credentials_of(writer.get_extra_info("socket"))
        if user != os.geteuid() or len(self._links) >= MAX_LINKS:
            writer.close()
            return
        link = ProcessLink(process, writer, self._max_unread_bytes)
        self._links.add(link)
        try:
            link.send(self._greeting())
            await self._receive(reader, link)
        except (OSError, InvalidFrame):
            pass  # it has ended, or is none of ours
        finally:
            self._links.discard(link)
            writer.close()

    async def _receive(self, reader: asyncio.StreamReader, link: ProcessLink) -> None:
        received = FrameReader()
        while data := await reader.read(_PIECE_BYTES):
            for frame in received.receive(data):
                self._hear(link, frames.decode_told(frame))
