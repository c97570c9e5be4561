"""The seed on disk: a directory for each set of files, and a symlink to the current one."""

import fcntl
import json
import os
import re
from contextlib import contextmanager, suppress
from typing import Dict, Iterator, NamedTuple, Optional

from vmw_cloudinit_metadata.guest.agent.conversation import FILES
from vmw_cloudinit_metadata.guest.agent.documentset import sha256
from vmw_cloudinit_metadata.guest.agent.osfiles import (
    exchange,
    make_directories,
    names_in,
    read_file,
    remove,
    sync_directory,
    write_file,
)
from vmw_cloudinit_metadata.guest.agent.responses import load_json

NEEDED = ("meta-data", "user-data")  # cloud-init requires both; user-data may be empty
MEMORY = "vmw-metadata-agent.json"
NEW = ".agent-new"
OLD = ".agent-old"
LEFT_OVER = r"\.([0-9a-f]{16}(\.\d+)?|agent-new|agent-old)"

Files = Dict[str, bytes]  # by cloud-init's names


class Memory(NamedTuple):
    """What the agent remembers beside the seed's files; valid only while they are these files."""

    machine: str  # DMI's product UUID
    instance_id: str
    served_instance_id: str  # differs if --keep-instance-id kept the old one
    files: Dict[str, str]  # SHA-256 by name

    @classmethod
    def parse(cls, text: str) -> "Optional[Memory]":
        try:
            found = load_json(text)
            texts = [found[name] for name in cls._fields[:3]]
            files = {str(name): str(digest) for name, digest in found["files"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return cls(str(texts[0]), str(texts[1]), str(texts[2]), files)

    def serialize(self) -> bytes:
        return (json.dumps(dict(self._asdict()), indent=1, sort_keys=True) + "\n").encode()


class SeedDir:
    """The seed that cloud-init reads at `place`: at every instant the old set or the new one."""

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        self._parent, self._name = os.path.split(self.place)

    def recover(self) -> None:
        """Repair what a power loss left where two names could not be swapped atomically."""
        if not os.path.lexists(self.place) and os.path.isdir(self.place + OLD):
            os.rename(self.place + OLD, self.place)

    @property
    def is_present(self) -> bool:
        """Whether cloud-init would use the seed, whoever has written it."""
        return all(os.path.exists(os.path.join(self.place, name)) for name in NEEDED)

    def memory(self) -> Optional[Memory]:
        """Return what is remembered, if it belongs to the seed's files as they are."""
        try:
            memory = Memory.parse(self._read(MEMORY).decode("utf-8", "replace"))
        except OSError:
            return None
        files = self._digests()
        return memory if memory and memory.files == files and set(NEEDED) <= set(files) else None

    def _digests(self) -> Dict[str, str]:
        found = {}
        for name in FILES.values():
            with suppress(OSError):
                found[name] = sha256(self._read(name))
        return found

    def _read(self, name: str) -> bytes:
        """Raise OSError, also for a link: the agent makes none; one may lead out of an image."""
        return read_file(os.path.join(self.place, name), os.O_NOFOLLOW)

    def publish(self, files: Files, memory: Memory) -> None:
        """Replace the seed; raise OSError and leave the old one in place."""
        make_directories(self._parent)
        with self._locked():
            self.recover()
            self._sweep()
            target = self._free_name(sha256(memory.serialize())[:16])
            try:
                self._write_set(os.path.join(self._parent, target), files, memory)
                self._point_to(target)
            except OSError:
                with suppress(OSError):
                    self.recover()
                    self._sweep()  # a half-written set takes space on a full disk
                raise
            self._sweep()

    def remove(self) -> None:
        """Remove the seed and every set of it; raise OSError."""
        with self._locked():
            if os.path.isdir(self.place) and not os.path.islink(self.place):
                os.rename(self.place, self.place + OLD)
            remove(self.place)
            sync_directory(self._parent)
            self._sweep()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove all sets but the current one."""
        current = os.path.realpath(self.place)
        for name in names_in(self._parent):
            left = os.path.join(self._parent, name)
            is_left_over = re.fullmatch(re.escape(self._name) + LEFT_OVER, name)
            if is_left_over and os.path.realpath(left) != current:
                remove(left)

    def _free_name(self, digest: str) -> str:
        """Return an unused name: the current set may have this digest, and be damaged."""
        name, number = f"{self._name}.{digest}", 0
        while os.path.lexists(os.path.join(self._parent, name)):
            number += 1
            name = f"{self._name}.{digest}.{number}"
        return name

    def _write_set(self, place: str, files: Files, memory: Memory) -> None:
        os.mkdir(place, 0o700)
        for name, content in files.items():
            write_file(os.path.join(place, name), content)
        write_file(os.path.join(place, MEMORY), memory.serialize())
        sync_directory(place)
        sync_directory(self._parent)

    def _point_to(self, target: str) -> None:
        link = self.place + NEW
        os.symlink(target, link)
        if os.path.isdir(self.place) and not os.path.islink(self.place):
            self._replace_directory(link)
        else:
            os.rename(link, self.place)
        sync_directory(self._parent)

    def _replace_directory(self, link: str) -> None:
        """Replace a plain directory, as other programs make it, by the symlink."""
        if not exchange(link, self.place):  # `recover` closes the gap before cloud-init looks
            os.rename(self.place, self.place + OLD)
            os.rename(link, self.place)
