"""A file system that hangs when a test wants it: files in memory, served to the kernel over FUSE.

Speaks the protocol of linux/fuse.h, as far as it is needed to list, look at and read files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import struct
import threading
import time
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

_HEADER = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid
_REPLY = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<6Q10I")
_READ = struct.Struct("<QQI")


class Op(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    ACCESS = 34
    INTERRUPT = 36
    BATCH_FORGET = 42


_UNANSWERED = {Op.FORGET, Op.INTERRUPT, Op.BATCH_FORGET}
_ROOT = 1
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


class HangingFiles:
    """Files at `path`; raises OSError where this user may not mount."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, tuple[bytes, int]] = {}  # content, time of the last change
        self._born = int(time.time()) - 1000
        self._nodes: list[str] = []  # node - 2: name
        self._may_answer = threading.Event()
        self._may_answer.set()
        self._descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._descriptor},rootmode=40755,user_id={os.getuid()},group_id=0"
        if _libc.mount(b"hanging", bytes(path), b"fuse", 0, options.encode()):
            os.close(self._descriptor)
            raise OSError(ctypes.get_errno(), "mount")
        threading.Thread(target=self._serve, daemon=True).start()

    def write(self, name: str, text: str) -> None:
        """As if it had been done a while ago, a second later than the last time."""
        before = self._files.get(name, (b"", self._born))
        self._files[name] = text.encode(), before[1] + 1

    def hang(self) -> None:
        """Nothing is answered until `resume`."""
        self._may_answer.clear()

    def resume(self) -> None:
        self._may_answer.set()

    def close(self) -> None:
        _libc.umount2(bytes(self.path), _MNT_DETACH)
        self.resume()

    def _serve(self) -> None:
        with suppress(OSError):  # ENODEV: unmounted
            while True:
                # A request that was read and is not answered keeps its process from being killed,
                # which a network file system that hangs does not.
                select.select([self._descriptor], [], [])
                self._may_answer.wait()
                request = os.read(self._descriptor, 1024 * 1024)
                _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
                if opcode in _UNANSWERED:
                    continue
                answer = self._answer(opcode, node, request[_HEADER.size :])
                error, body = (-answer, b"") if isinstance(answer, int) else (0, answer)
                with suppress(FileNotFoundError):  # who asked is gone
                    reply = _REPLY.pack(_REPLY.size + len(body), error, unique)
                    os.write(self._descriptor, reply + body)

    def _answer(self, opcode: int, node: int, body: bytes) -> bytes | int:
        match opcode:
            case Op.INIT:
                return struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 16, 12, 65536, 1, 0, 0, 0)
            case Op.LOOKUP:
                name = body.rstrip(b"\0").decode()
                if name not in self._files:
                    return errno.ENOENT
                if name not in self._nodes:
                    self._nodes.append(name)
                inner = self._nodes.index(name) + 2
                return struct.pack("<QQQQII", inner, 0, 0, 0, 0, 0) + self._attributes(inner)
            case Op.GETATTR:
                return struct.pack("<QII", 0, 0, 0) + self._attributes(node)
            case Op.OPEN | Op.OPENDIR:
                return struct.pack("<QII", 0, 1, 0)  # FOPEN_DIRECT_IO: nothing is cached
            case Op.READ:
                _, offset, size = _READ.unpack_from(body)
                return self._files[self._nodes[node - 2]][0][offset : offset + size]
            case Op.READDIR:
                _, offset, size = _READ.unpack_from(body)
                return self._entries(offset, size)
            case Op.STATFS:
                return bytes(80)
            case Op.RELEASE | Op.FLUSH | Op.RELEASEDIR | Op.ACCESS:
                return b""
            case _:
                return errno.ENOSYS

    def _attributes(self, node: int) -> bytes:
        if node == _ROOT:
            size, changed, mode = 0, self._born + len(self._files), stat.S_IFDIR | 0o755
        else:
            content, changed = self._files[self._nodes[node - 2]]
            size, mode = len(content), stat.S_IFREG | 0o600
        times = (changed, changed, changed, 0, 0, 0)
        return _ATTRIBUTES.pack(node, size, 1, *times, mode, 1, os.getuid(), 0, 0, 4096, 0)

    def _entries(self, offset: int, size: int) -> bytes:
        listed = b""
        for number, name in enumerate(list(self._files)[offset:], offset + 1):
            encoded = name.encode()
            entry = struct.pack("<QQII", number + 1, number, len(encoded), 8) + encoded
            entry += bytes(-len(entry) % 8)
            if len(listed) + len(entry) > size:
                break
            listed += entry
        return listed
